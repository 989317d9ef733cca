#!/bin/sh
# Creates the databases and their owners when Postgres starts on an empty volume. An owner may use only
# its own databases.
# The passwords come from the same files that the services read. The server hashes them and logs no statement.
set -eu

database_owner() { # NAME PGPASS: create an owner; its password is the fifth field of the file
    printf "CREATE ROLE %s LOGIN PASSWORD '%s';\n" "$1" "$(cut -d : -f 5 "$2")"
}

database() { # NAME OWNER: create a database
    printf 'CREATE DATABASE %s OWNER %s;\nREVOKE ALL ON DATABASE %s FROM PUBLIC;\n' "$1" "$2" "$1"
}

{
    database_owner tuner /run/secrets/tuner_pgpass
    database tuner tuner
    database_owner mlflow /run/secrets/mlflow_pgpass
    database mlflow mlflow
    database mlflow_auth mlflow
} | psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres --no-psqlrc --quiet
