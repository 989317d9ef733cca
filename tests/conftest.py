"""The services that tests use. They run when a test begins, and a test may leave them stopped or frozen."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.faults.services import MlflowServer, Postgres, Service, running

Up = TypeVar("Up", bound=Service)


@pytest.fixture(scope="session", autouse=True)
def _no_terminal() -> Iterator[None]:
    """Hide the terminal's size from programs that tests start. The processes of pytest-xdist inherit one."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COLUMNS", "LINES"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def services_folder() -> Iterator[Path]:
    """The folder of services. It is not in pytest's own folder, which the user that runs Postgres may not enter."""
    folder = Path(tempfile.mkdtemp(prefix="tuner-services-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def session_postgres(services_folder: Path) -> Iterator[Postgres]:
    """The Postgres of ``postgres``."""
    postgres = Postgres(services_folder / "postgres")
    with pytest.MonkeyPatch.context() as patch, running(postgres):
        patch.setenv("PGPASSFILE", postgres.env["PGPASSFILE"])
        yield postgres


@pytest.fixture(scope="session")
def session_mlflow_server(session_postgres: Postgres, services_folder: Path) -> Iterator[MlflowServer]:
    """The server of ``mlflow_server``."""
    server = MlflowServer(session_postgres.create("mlflow"), services_folder / "mlflow", session_postgres.env)
    with running(server):
        yield server


@pytest.fixture
def postgres(session_postgres: Postgres) -> Postgres:
    """A running Postgres. ``PGPASSFILE`` gives its password to this process and to processes that it starts."""
    return _up(session_postgres)


@pytest.fixture
def mlflow_server(postgres: Postgres, session_mlflow_server: MlflowServer) -> MlflowServer:
    """A running MLflow server, on the database ``mlflow`` of ``postgres``."""
    return _up(session_mlflow_server)


def _up(service: Up) -> Up:
    service.thaw()
    service.start()
    return service
