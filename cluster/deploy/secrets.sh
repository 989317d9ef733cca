#!/bin/sh
# Makes the secrets that docker-compose.yml mounts: sh cluster/deploy/secrets.sh [FOLDER] [--force]
#
# A second run keeps the secrets that exist. --force replaces all of them; then the services cannot log in to databases
# that were made with the old passwords. The containers run as uid 10001. If root runs this script, only that uid can
# read the files (0400). Any other user cannot change the owner of a file. Then the group of that user can read the
# files (0440), and the containers join this group: SECRETS_GID in .env.
set -eu
umask 077

folder=secrets
force=no
for argument in "$@"; do
    case $argument in
        --force) force=yes ;;
        -*) echo "error: unknown option $argument; the only option is --force" >&2; exit 2 ;;
        *) folder=$argument ;;
    esac
done

random() { head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'; }

finish() { # FILE: let the containers read it
    if [ "$(id -u)" = 0 ]; then
        chown 10001:10001 "$1"
        chmod 0400 "$1"
    else
        chmod 0440 "$1"
    fi
}

make() { # NAME: write standard input to this secret, unless it exists
    if [ -e "$folder/$1" ] && [ "$force" = no ]; then
        cat > /dev/null
        return
    fi
    # The rename makes the secret appear whole or not at all.
    cat > "$folder/.$1.new"
    finish "$folder/.$1.new"
    mv -f "$folder/.$1.new" "$folder/$1"
    echo "made $folder/$1" >&2
}

value() { # NAME: print a secret, for a second file that contains it
    tr -d '\n' < "$folder/$1"
}

mkdir -p "$folder"
chmod 0700 "$folder"
random | make ray_token
random | make postgres_password
random | make mlflow_secret_key
printf 'postgres:5432:tuner:tuner:%s\n' "$(random)" | make tuner_pgpass
printf 'postgres:5432:*:mlflow:%s\n' "$(random)" | make mlflow_pgpass

if [ ! -e "$folder/mlflow_password" ] || [ "$force" = yes ]; then rm -f "$folder/mlflow_auth.ini"; fi
random | make mlflow_password
make mlflow_auth.ini << END
[mlflow]
default_permission = READ
database_uri = postgresql+psycopg://mlflow@postgres:5432/mlflow_auth
admin_username = tuner
admin_password = $(value mlflow_password)
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# The check of a password takes a quarter of a second. MLflow remembers a correct password for this time.
auth_cache_ttl_seconds = 300
END

if [ ! -e "$folder/aws_credentials" ] || [ "$force" = yes ]; then rm -f "$folder/s3.json"; fi
make aws_credentials << END
[default]
aws_access_key_id = tuner
aws_secret_access_key = $(random)
END
make s3.json << END
{"identities": [{"name": "tuner", "credentials": [{"accessKey": "tuner", "secretKey": "$(sed -n 's/^aws_secret_access_key = //p' "$folder/aws_credentials")"}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
END

if [ "$(id -u)" != 0 ]; then
    env=${SECRETS_ENV:-.env}
    if ! grep -qs '^SECRETS_GID=' "$env"; then
        echo "SECRETS_GID=$(id -g)" >> "$env"
        echo "wrote SECRETS_GID to $env" >&2
    fi
fi
