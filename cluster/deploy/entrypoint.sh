#!/bin/sh
# Starts a container's command with its secrets where the command looks for them.
#
# PGPASS_SOURCE: a password file as libpq reads it. libpq ignores one that a group may read, as mounted secrets are:
#   a copy for this user alone is made at PGPASSFILE, which lies in memory.
# SECRET_KEY_FILE: the key that MLflow signs its forms with; MLflow reads it from its environment only.
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
