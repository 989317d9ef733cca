"""Fixtures: a plain Ray cluster, in which no test may kill anything, and the whole service, which tests may break."""

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
    """A head and two workers with two CPUs each. The second worker declares two GPUs."""
    with ray_cluster(workers=({"cpus": 2}, {"cpus": 2, "gpus": 2})) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the cluster address and the token of the user who runs the tests."""
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
    """The stack that ``up`` returns."""
    with stack(tmp_path_factory.mktemp("stack"), session_postgres, session_mlflow_server) as made:
        yield made


@pytest.fixture
def up(whole_stack: Stack, postgres: Postgres, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """The whole service. A test must leave it with a head and two workers with one CPU each.

    This process gets the addresses of the head's stores too, because the checker reads them.
    """
    for name in ("TUNER_STORAGE", "MLFLOW_TRACKING_URI", "TUNER_SHARED"):
        monkeypatch.setenv(name, whole_stack.head_env[name])
    return whole_stack
