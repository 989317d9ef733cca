"""A bare cluster that tests share, in which nothing may be killed; and all of the service, which tests may break."""

from collections.abc import Iterator
from pathlib import Path

import cluster.runtime  # isort: skip  (before ray: it sets what ray reads when it is imported)
import pytest

from cluster.jobs import JobsApi
from tests.cluster.ray_cluster import RayCluster, ray_cluster
from tests.cluster.stack import Stack, stack
from tests.faults.services import MlflowServer, Postgres

assert cluster.runtime.SETTINGS


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[RayCluster]:
    """A head and two workers of two CPUs; the second says it has two GPUs."""
    with ray_cluster(workers=({"cpus": 2}, {"cpus": 2, "gpus": 2})) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No address and no token is known, whoever runs the tests."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))


@pytest.fixture
def api(shared_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> JobsApi:
    """The jobs of the shared cluster."""
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(shared_cluster.token_file))
    return JobsApi.connect(shared_cluster.address)


@pytest.fixture(scope="session")
def whole_stack(
    tmp_path_factory: pytest.TempPathFactory, session_postgres: Postgres, session_mlflow_server: MlflowServer
) -> Iterator[Stack]:
    """The stack of ``up``."""
    with stack(tmp_path_factory.mktemp("stack"), session_postgres, session_mlflow_server) as made:
        yield made


@pytest.fixture
def up(whole_stack: Stack, postgres: Postgres, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """All of the service, up; a test leaves it with a head and two workers of a CPU each.

    The stores that the head uses are named to this process too, for the checker looks into them.
    """
    for name in ("TUNER_STORAGE", "MLFLOW_TRACKING_URI", "TUNER_SHARED"):
        monkeypatch.setenv(name, whole_stack.head_env[name])
    return whole_stack
