#!/bin/sh
# Prepares the secrets of a container, then runs its command.
#
# PGPASS_SOURCE: a libpq password file, mounted as a secret. libpq ignores a password file that its group may read, and
#   every mounted secret is such a file. So this script copies it to PGPASSFILE, which lies in memory and which only
#   this user may read.
# SECRET_KEY_FILE: the key with which MLflow signs its forms. MLflow reads the key only from the environment.
set -eu
umask 077
if [ -n "${PGPASS_SOURCE:-}" ]; then
    cp "$PGPASS_SOURCE" "$PGPASSFILE"
    chmod 0400 "$PGPASSFILE"
fi
if [ -n "${SECRET_KEY_FILE:-}" ]; then
    MLFLOW_FLASK_SERVER_SECRET_KEY=$(cat "$SECRET_KEY_FILE")
    export MLFLOW_FLASK_SERVER_SECRET_KEY
fi
umask 027
exec "$@"
