#!/bin/sh
# Makes the databases and their owners, when Postgres starts on an empty volume. Each owner reaches its own only.
# The passwords come from the files that the services read them from; the server hashes them, and logs no statement.
set -eu

database_owner() { # NAME PGPASS: an owner with the password of the fifth field
    printf "CREATE ROLE %s LOGIN PASSWORD '%s';\n" "$1" "$(cut -d : -f 5 "$2")"
}

database() { # NAME OWNER
    printf 'CREATE DATABASE %s OWNER %s;\nREVOKE ALL ON DATABASE %s FROM PUBLIC;\n' "$1" "$2" "$1"
}

{
    database_owner tuner /run/secrets/tuner_pgpass
    database tuner tuner
    database_owner mlflow /run/secrets/mlflow_pgpass
    database mlflow mlflow
    database mlflow_auth mlflow
} | psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres --no-psqlrc --quiet
