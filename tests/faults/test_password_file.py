"""A tracking server that requires a password. The password is in a file and nowhere else."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.services import MlflowServer, running
from tests.faults.test_security import TINY, Seen, places_of, tree_of
from tests.tuner.small_journals import Told
from tests.tuner.whole_jobs import Place, place
from tuner.errors import ServiceError
from tuner.tracking.credentials import FILE
from tuner.tracking.sync_state import load
from tuner.tracking.writer import Writer

# mlflow triggers deprecation warnings of SQLAlchemy, which we cannot fix.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.faults]

PASSWORD = "s3cret-of-a-file-5b1d77"
CONFIG = """\
[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/auth.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


class AskingServer(MlflowServer):
    """An MLflow server with one user, ``admin``, who has a password."""

    def __init__(self, folder: Path) -> None:
        (folder / "config.ini").write_text(CONFIG.format(folder=folder))
        env = {
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "config.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "made-up",
        }
        super().__init__(f"sqlite:///{folder}/mlflow.db", folder, env)
        self._command += ["--app-name", "basic-auth"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AskingServer]:
    made = AskingServer(tmp_path_factory.mktemp("asking"))
    with running(made):
        yield made


@dataclass(frozen=True)
class Environment:
    """The file with the password, and the environment variables that lead to it."""

    file: Path

    def of(self, server: AskingServer) -> dict[str, str]:
        return {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_TRACKING_USERNAME": "admin", FILE: str(self.file)}


@pytest.fixture
def password(tmp_path: Path) -> Environment:
    file = tmp_path / "password"
    file.touch(mode=0o600)
    file.write_text(f"{PASSWORD}\n")
    return Environment(file)


def test_a_writer_uses_the_password_in_the_file_and_is_refused_with_a_wrong_one(
    server: AskingServer, password: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in password.of(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "")
    told = Told(tmp_path / "told")
    told.job()
    writer = Writer(told.folder, server.uri, "told", None)
    writer.send()
    assert len(writer.runs) == 1
    password.file.write_text("another")
    told.state("finished")
    with pytest.raises(ServiceError, match=r"cannot be written|refuses us"):
        writer.send()
    password.file.unlink()
    with pytest.raises(ServiceError, match=f"{FILE}: {password.file} cannot be read: No such file or directory"):
        writer.send()


def environments(where: Place) -> dict[int, bytes]:
    """The environment of each process of a place, by process id."""
    found = {}
    for pid in tree_of(where.processes()):
        try:
            found[pid] = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
    return found


def test_a_job_uses_the_password_file_and_no_process_has_the_password_in_its_environment(
    server: AskingServer, password: Environment, tmp_path: Path
) -> None:
    secret = {"the password": PASSWORD}
    with place(tmp_path / "place", TINY) as where:
        seen, held = Seen(), set[str]()
        process = where.start("run", "spec.yaml", env=password.of(server))
        while process.poll() is None:
            seen.look(where)
            held |= {str(pid) for pid, environ in environments(where).items() if PASSWORD.encode() in environ}
            time.sleep(0.2)
        ended = where.ended(process)
        assert ended.code == 0, ended.err
        assert "tuner sync" not in ended.err, "something was not sent"
        assert load(where.job.tracked).offset == where.job.journal.stat().st_size
        loaded = where.ended(
            where.start(
                "reproduce",
                f"models:/{where.job.record().spec.name}@champion",
                env=password.of(server),
                name="-loaded",
            ),
            "-loaded",
        )
        assert loaded.code == 0, loaded.err
        assert any("raylet" in argv for argv in seen.argv)
        files = {file: file.read_bytes() for file in where.root.rglob("*") if file.is_file()}
        texts = {argv: argv.encode() for argv in seen.argv}
        assert held == set()
        assert places_of(secret, files) == places_of(secret, texts) == places_of(secret, seen.logs) == []
        assert PASSWORD not in ended.out + ended.err + loaded.out + loaded.err
