"""All of the service on loopback: a Ray cluster with tokens, Postgres, an MLflow server and a shared folder."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.ray_cluster import RayCluster, ray_cluster
from tests.faults.services import MlflowServer, Postgres
from tests.tuner.jobs import Ended, Place, place


@dataclass(frozen=True)
class Stack:
    """A cluster and its stores, and a place that is somebody's own machine.

    Args:
        cluster: the Ray cluster.
        head: the folders of its head: ``home`` is where drivers keep their journals.
        head_env: what the head's environment says of the stores.
        here: where a user works who has nothing but the cluster's address and token.
    """

    cluster: RayCluster
    head: Place
    head_env: Mapping[str, str]
    here: Place

    def tuner(self, *words: str, name: str = "") -> Ended:
        """Run ``tuner`` on the user's machine to its end."""
        return self.here.ended(self.start(*words, name=name), name)

    def start(self, *words: str, name: str = "") -> "subprocess.Popen[str]":
        """The same, without waiting."""
        return self.here.start(*words, env=self.cluster.client_env, name=name)


@contextmanager
def stack(
    folder: Path,
    postgres: Postgres,
    tracker: MlflowServer,
    spec: str,
    workers: Sequence[Mapping[str, int]] = ({"cpus": 1}, {"cpus": 1}),
    modules: Mapping[str, str] | None = None,
) -> Iterator[Stack]:
    """All of it up, and ended afterwards."""
    storage = postgres.create(f"tuner_{time.time_ns()}")
    shared = Path(tempfile.mkdtemp(prefix="shared-", dir=folder))
    with place(folder / "head", spec) as head, place(folder / "here", spec, modules) as here:
        env = {
            "TUNER_HOME": str(head.home.path),
            "TUNER_STORAGE": storage,
            "TUNER_SHARED": str(shared),
            "PGPASSFILE": postgres.env["PGPASSFILE"],
            "MLFLOW_TRACKING_URI": tracker.uri,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder / "head" / "user"),
            "TMPDIR": str(head.scratch),
        }
        worker_env = {"TUNER_CACHE": str(folder / "worker-cache"), "HOME": env["HOME"]}
        with ray_cluster(workers, head_env=env, worker_env=worker_env) as cluster:
            yield Stack(cluster, head, env, here)
    shutil.rmtree(shared, ignore_errors=True)
