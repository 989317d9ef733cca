"""The whole service on loopback: a Ray cluster with tokens, Postgres, an MLflow server and a shared folder."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.ray_cluster import RayCluster, ray_cluster
from tests.faults.services import MlflowServer, Postgres
from tests.tuner.whole_jobs import PATIENCE_S, Ended, Place, place
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.record import load_record


@dataclass(frozen=True)
class Stack:
    """A cluster, its stores, and folders that stand for the machine of a user.

    Args:
        cluster: the Ray cluster.
        head: the folders of the head. The drivers keep their journals in its ``home``.
        head_env: environment of the head, with the addresses of the stores.
        worker_env: environment of a worker.
        here: the folders of a user, who has only the address and the token of the cluster.
    """

    cluster: RayCluster
    head: Place
    head_env: Mapping[str, str]
    worker_env: Mapping[str, str]
    here: Place

    def job(self, job_id: str) -> JobFolder:
        """The folder of a job on the head."""
        return self.head.home.job(job_id)

    def epochs(self, job_id: str) -> int:
        """The number of epochs in the journal of a job on the head."""
        journal = self.head.home.path / "jobs" / job_id / "journal.jsonl"
        return journal.read_bytes().count(b'"kind": "epoch"') if journal.exists() else 0

    def submit(self, spec: str, *words: str, file: str = "other.yaml") -> str:
        """Submit a spec, and return the job's id."""
        (self.here.cwd / file).write_text(spec)
        ended = self.tuner("submit", file, *words)
        assert ended.code == 0, ended.err
        return ended.out.splitlines()[0]

    def trained(self, job_id: str, count: int) -> None:
        """Wait until the journal of a job has at least ``count`` epochs."""
        wait_until(lambda: self.epochs(job_id) >= count)

    def finished(self, job_id: str) -> JobFolder:
        """Wait until a job has finished without a failure."""
        wait_until(lambda: self.state(job_id) in ("finished", "failed"))
        assert self.state(job_id) == "finished", self.tuner("logs", job_id).out[-3000:]
        wait_until(lambda: self.job(job_id).owner() is None)
        return self.job(job_id)

    def restart_head(self) -> None:
        """Kill all nodes, and start a new head at the same address and the same number of workers."""
        gone = list(self.cluster.workers)
        self.cluster.restart_head()
        for worker in gone:
            self.cluster.kill(worker)
            self.cluster.add_worker(cpus=1, env=self.worker_env)
        self.cluster.wait()

    def forget_head(self, job_id: str) -> None:
        """Delete the folder of a job on the head, as if the head had lost its disk."""
        shutil.rmtree(self.head.home.path / "jobs" / job_id)

    def keep_once(self) -> Ended:
        """Run the keeper of the service for one check."""
        keeper = self.here.start("keep", "--once", env={**self.head_env, **self.cluster.client_env}, name="-keep")
        return self.here.ended(keeper, "-keep")

    def state(self, job_id: str) -> str:
        """The state of a job in its journal on the head."""
        journal = self.head.home.path / "jobs" / job_id / "journal.jsonl"
        return load_record(journal).state if journal.exists() else "new"

    def tuner(self, *words: str, name: str = "") -> Ended:
        """Run ``tuner`` on the user's machine, and wait for its end."""
        return self.here.ended(self.start(*words, name=name), name, 2 * PATIENCE_S)

    def start(self, *words: str, name: str = "") -> "subprocess.Popen[str]":
        """Start ``tuner`` on the user's machine without waiting."""
        return self.here.start(*words, env=self.cluster.client_env, name=name)


def named(name: str, spec: str) -> str:
    """A spec with another name, which makes it another job."""
    return re.sub("^name: .*$", f"name: {name}", spec, flags=re.MULTILINE)


def wait_until(seen: Callable[[], object], patience_s: float = 2 * PATIENCE_S) -> None:
    """Wait until ``seen()`` is true."""
    deadline = time.monotonic() + patience_s
    while not seen():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


@contextmanager
def stack(
    folder: Path,
    postgres: Postgres,
    tracker: MlflowServer,
    workers: Sequence[Mapping[str, int]] = ({"cpus": 1}, {"cpus": 1}),
    net: str | None = None,
) -> Iterator[Stack]:
    """Start the whole service, and end it on exit."""
    storage = postgres.create(f"tuner_{time.time_ns()}")
    shared = Path(tempfile.mkdtemp(prefix="shared-", dir=folder))
    with place(folder / "head") as head, place(folder / "here") as here:
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
        with ray_cluster(workers, head_env=env, worker_env=worker_env, net=net) as cluster:
            yield Stack(cluster, head, env, worker_env, here)
    shutil.rmtree(shared, ignore_errors=True)
