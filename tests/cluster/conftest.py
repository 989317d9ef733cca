"""One cluster that all tests share: nothing may be killed in it. And this process as a client that knows its token."""

from collections.abc import Iterator
from pathlib import Path

import cluster.runtime  # isort: skip  (before ray: it sets what ray reads when it is imported)
import pytest

from cluster.jobs import JobsApi
from tests.cluster.ray_cluster import RayCluster, ray_cluster

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
