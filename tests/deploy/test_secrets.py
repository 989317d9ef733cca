"""Runs cluster/deploy/secrets.sh and the entrypoint: who can read each secret, and that existing secrets are kept."""

import configparser
import json
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.deploy.stack import ROOT, STACK

SCRIPT = ROOT / "cluster" / "deploy" / "secrets.sh"
ENTRYPOINT = ROOT / "cluster" / "deploy" / "entrypoint.sh"
IS_ROOT = os.geteuid() == 0
NOBODY = pwd.getpwnam("nobody")


def make(folder: Path, *options: str, as_nobody: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(SCRIPT), "secrets", *options],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        user=NOBODY.pw_uid if as_nobody else None,
        group=NOBODY.pw_gid if as_nobody else None,
        extra_groups=[] if as_nobody else None,
    )


def contents(folder: Path) -> Mapping[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "secrets").iterdir())}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_makes_every_secret_that_the_stack_mounts(tmp_path: Path) -> None:
    made = make(tmp_path)
    assert made.returncode == 0
    assert set(contents(tmp_path)) == set(STACK["secrets"])
    for secret in STACK["secrets"].values():
        assert (tmp_path / secret["file"]).stat().st_size >= 64


def test_it_prints_no_secret(tmp_path: Path) -> None:
    made = make(tmp_path)
    token = contents(tmp_path)["ray_token"].decode()
    assert made.stdout == ""
    assert token not in made.stderr


def test_existing_secrets_are_kept_without_force(tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    assert make(tmp_path).stderr == ""
    assert contents(tmp_path) == before
    make(tmp_path, "--force")
    assert not set(before.values()) & set(contents(tmp_path).values())


def test_only_a_lost_secret_is_replaced(tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "secrets" / "ray_token").unlink()
    make(tmp_path)
    after = contents(tmp_path)
    assert [name for name in before if before[name] != after[name]] == ["ray_token"]


def test_files_with_the_same_secret_agree(tmp_path: Path) -> None:
    make(tmp_path)
    for _ in range(2):
        secrets = contents(tmp_path)
        auth = configparser.ConfigParser()
        auth.read_string(secrets["mlflow_auth.ini"].decode())
        assert auth["mlflow"]["admin_password"] == secrets["mlflow_password"].decode()
        assert int(auth["mlflow"]["auth_cache_ttl_seconds"]) > 0
        key = json.loads(secrets["s3.json"])["identities"][0]["credentials"][0]["secretKey"]
        assert f"aws_secret_access_key = {key}\n" in secrets["aws_credentials"].decode()
        (tmp_path / "secrets" / "mlflow_password").unlink()
        (tmp_path / "secrets" / "aws_credentials").unlink()
        make(tmp_path)


@pytest.mark.skipif(not IS_ROOT, reason="only root can give files to another user")
def test_made_by_root_only_the_containers_can_read_them(tmp_path: Path) -> None:
    make(tmp_path)
    assert mode(tmp_path / "secrets") == 0o700
    for file in (tmp_path / "secrets").iterdir():
        assert (file.stat().st_uid, file.stat().st_gid, mode(file)) == (10001, 10001, 0o400)
    assert not (tmp_path / ".env").exists()


@pytest.mark.skipif(not IS_ROOT, reason="only root can act as another user")
def test_made_by_another_user_they_are_readable_by_a_group_that_the_containers_join(tmp_path: Path) -> None:
    shutil.chown(tmp_path, NOBODY.pw_uid, NOBODY.pw_gid)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o711 if folder != tmp_path else 0o755)
    for _ in range(2):
        assert make(tmp_path, as_nobody=True).returncode == 0
    for file in (tmp_path / "secrets").iterdir():
        assert (file.stat().st_uid, file.stat().st_gid, mode(file)) == (NOBODY.pw_uid, NOBODY.pw_gid, 0o440)
    assert (tmp_path / ".env").read_text() == f"SECRETS_GID={NOBODY.pw_gid}\n"


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    refused = make(tmp_path, "--overwrite")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert not (tmp_path / "secrets").exists()


def entrypoint(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(ENTRYPOINT), *command],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]} | environment,
    )


def test_the_entrypoint_makes_a_password_file_that_libpq_accepts(tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.write_text("postgres:5432:tuner:tuner:word\n")
    mounted.chmod(0o440)
    own = tmp_path / "pgpass"
    started = entrypoint(["echo", "started"], PGPASS_SOURCE=str(mounted), PGPASSFILE=str(own))
    assert (started.stdout, started.returncode) == ("started\n", 0)
    assert own.read_text() == mounted.read_text()
    assert mode(own) == 0o400


def test_the_entrypoint_passes_on_the_signing_key_and_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123abcd")
    started = entrypoint(
        ["sh", "-c", 'echo "$MLFLOW_FLASK_SERVER_SECRET_KEY"; exit 7'], SECRET_KEY_FILE=str(tmp_path / "key")
    )
    assert (started.stdout, started.returncode) == ("0123abcd\n", 7)


def test_the_entrypoint_stops_at_a_secret_that_is_missing(tmp_path: Path) -> None:
    started = entrypoint(["echo", "started"], PGPASS_SOURCE=str(tmp_path / "no"), PGPASSFILE=str(tmp_path / "pgpass"))
    assert started.returncode != 0
    assert started.stdout == ""
