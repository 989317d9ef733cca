"""Growth of resources while small jobs run back to back in one workspace, and in one long simulated job. Prints JSON.

The studies are in a Postgres, and the runs are in an MLflow server on it. Each job is its own process, so only things
that survive a job can grow: memory and connections of the services, files, temporary folders, and processes and runs
that were left behind. The memory and the open files of the driver are compared too, job by job, because its workspace
fills up.

    python -m benchmarks.soak --minutes 30 --trials 2000
"""

import argparse
import json
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.conditions import conditions
from tests.faults.services import MlflowServer, Postgres, running
from tests.tuner.whole_jobs import Place, place
from tuner.storage.file_lock import lock_owner

SPEC = """\
name: soak
data: {{name: digits, train_images: 200, val_images: 100, test_images: 100}}
model: {{name: elu_net, width: 0.03}}
baseline: adam_l2
arms: [adam_l2, noam]
budget: {{trials: 4, epochs: 8, batch_size: 20}}
scheduler: {{name: asha, first_rung: 2, reduction_factor: 2}}
confirm: {{seeds: 3}}
storage: {storage}
tracking: {{uri: '{tracker}', experiment: soak}}
"""
LONG_SPEC = """\
name: long
data: {{name: digits}}
model: {{name: elu_net, width: 0.03}}
baseline: adam_l2
arms: [adam_l2, noam]
budget: {{trials: {trials}, epochs: 12, batch_size: 50}}
sampler: random
scheduler: {{name: asha, first_rung: 3, reduction_factor: 3}}
confirm: {{seeds: 3}}
"""
SAMPLE_S = 0.5
FEWEST = 3
"""The smallest number of jobs that can be divided into thirds."""
MB = 2**20


@dataclass
class Samples:
    """Samples of some processes: their memory (PSS, in megabytes) and their open files, all processes together."""

    memory_mb: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def add(self, pids: Sequence[int]) -> None:
        """Take one sample, unless one of the processes is gone."""
        try:
            processes = [psutil.Process(pid) for pid in pids]
            memory = sum(process.memory_full_info().pss for process in processes) / MB
            files = sum(process.num_fds() for process in processes)
        except psutil.NoSuchProcess:
            return
        if pids:
            self.memory_mb.append(memory)
            self.files.append(files)


@contextmanager
def sampling(look: Callable[[], None]) -> Iterator[None]:
    """Call ``look`` every ``SAMPLE_S`` seconds while the block runs."""
    ending = threading.Event()

    def run() -> None:
        while not ending.wait(SAMPLE_S):
            look()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def driver(where: Place) -> list[int]:
    """The process id of the newest job's driver; empty if there is none."""
    jobs = list(where.home.jobs())
    found = lock_owner(jobs[-1].lock_file) if jobs else None
    return [found.pid] if found is not None and found.pid else []


def one_job(where: Place, postgres: Postgres, tracker: MlflowServer) -> dict[str, float]:
    """Run a job to its end. Returns its peak values and what it left behind."""
    seen, connections = Samples(), [connected(postgres)]
    before = len(list(where.home.jobs()))
    began = time.monotonic()
    process = where.start("run", "spec.yaml", "-q")

    def look() -> None:
        if len(list(where.home.jobs())) > before and (pids := driver(where)):
            seen.add([process.pid, *pids])
        connections.append(connected(postgres))

    with sampling(look):
        ended = where.ended(process)
    assert ended.code == 0, ended.err
    seconds = time.monotonic() - began
    server = Samples()
    server.add(family(tracker.pid))
    database = Samples()
    database.add(family(postgres.pid))
    return {
        "seconds": seconds,
        "driver_and_supervisor_peak_mb": max(seen.memory_mb),
        "driver_and_supervisor_files": max(seen.files),
        "connections_most": max(connections),
        "connections_left": connected(postgres),
        "mlflow_mb": server.memory_mb[0],
        "mlflow_files": server.files[0],
        "postgres_mb": database.memory_mb[0],
        "processes_left": len(where.processes_left()),
        "temporary_files_left": len(list(where.scratch.iterdir())),
        "home_files": sum(len(files) for _, _, files in os.walk(where.home.path)),
        "home_mb": sum(file.stat().st_size for file in where.home.path.rglob("*") if file.is_file()) / MB,
    }


def connected(postgres: Postgres) -> int:
    """Number of connections to the database server, without this one."""
    with postgres.connect() as connection:
        found = connection.execute("select count(*) from pg_stat_activity where backend_type = 'client backend'")
        row = found.fetchone()
    assert row is not None
    return int(str(row[0])) - 1


def left_running(postgres: Postgres) -> int:
    """Number of MLflow runs in the state RUNNING."""
    with postgres.connect("mlflow") as connection:
        row = connection.execute("select count(*) from runs where status = 'RUNNING'").fetchone()
    assert row is not None
    return int(str(row[0]))


def back_to_back(minutes: float) -> dict[str, object]:
    """Run jobs one after the other, and compare the first third with the last."""
    with tempfile.TemporaryDirectory(prefix="tuner-soak-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        postgres = Postgres(folder / "postgres", {"fsync": "on"})
        os.environ |= postgres.env
        with running(postgres):
            tracker = MlflowServer(postgres.create("mlflow"), folder / "mlflow", postgres.env)
            spec = SPEC.format(storage=postgres.create("studies"), tracker=tracker.uri)
            with running(tracker), place(folder / "place", spec) as where:
                began = time.monotonic()
                jobs: list[dict[str, float]] = []
                # The first job is not counted: it decodes the data and creates the tables.
                one_job(where, postgres, tracker)
                while time.monotonic() - began < 60 * minutes or len(jobs) < FEWEST:
                    jobs.append(one_job(where, postgres, tracker))
                seconds, runs = time.monotonic() - began, left_running(postgres)
    third = len(jobs) // 3
    compared = {key: change([job[key] for job in jobs[:third]], [job[key] for job in jobs[-third:]]) for key in jobs[0]}
    return {"minutes": round(seconds / 60, 1), "jobs": len(jobs), "runs_left_running": runs, "thirds": compared}


def change(first: Sequence[float], last: Sequence[float]) -> dict[str, float | None]:
    """Medians of the first and the last third of the jobs, the maximum of both, and the growth in per cent."""
    then, now = statistics.median(first), statistics.median(last)
    growth = round(100 * (now / then - 1), 1) if then else None
    return {"first": round(then, 1), "last": round(now, 1), "most": round(max(*first, *last), 1), "growth_%": growth}


def long_driver(trials: int) -> dict[str, object]:
    """Run one simulated job of ``trials`` trials in two arms, and sample the memory of its driver."""
    with (
        tempfile.TemporaryDirectory(prefix="tuner-long-") as name,
        place(Path(name) / "place", LONG_SPEC.format(trials=trials // 2)) as where,
    ):
        seen: list[tuple[float, float]] = []

        def look() -> None:
            for pid in driver(where):
                journal = where.job.journal
                written = journal.stat().st_size / MB if journal.exists() else 0.0
                seen.append((written, psutil.Process(pid).memory_info().rss / MB))

        began = time.monotonic()
        with sampling(look):
            ended = where.ended(where.start("run", "spec.yaml", "--simulate", "-q"))
        assert ended.code == 0, ended.err
        whole = where.job.journal.stat().st_size / MB
    shares = (0.1, 0.25, 0.5, 0.75, 1.0)
    return {
        "trials": trials,
        "seconds": round(time.monotonic() - began, 1),
        "journal_mb": round(whole, 1),
        "rss_mb_peak": round(max(rss for _, rss in seen), 1),
        "rss_mb_by_share_of_journal": {
            str(share): round(max(rss for written, rss in seen if written <= share * whole), 1) for share in shares
        },
    }


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--trials", type=int, default=2000)
    asked = parser.parse_args()
    # SIGTERM raises KeyboardInterrupt, so that the services are stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found: dict[str, object] = {}
    if asked.trials:
        found["long_driver"] = long_driver(asked.trials)
    if asked.minutes:
        found["back_to_back"] = back_to_back(asked.minutes)
    print(json.dumps(found | conditions(), indent=2))


if __name__ == "__main__":
    main()
