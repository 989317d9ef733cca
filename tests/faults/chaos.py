"""Random faults every few seconds during a real search with Postgres and an MLflow server: ``make chaos SEED=7``.

Odd seeds search with random sampling and without pruning. Their settings and values must equal those of a run without
faults. Even seeds search with TPE and ASHA, where the next setting depends on earlier results. Their end state must
pass the end-state checker. A new attempt may repeat only the training since the last checkpoint, unless a fault
damaged files.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.faults.checker import check_end_state, values
from tests.faults.services import MlflowServer, Postgres, running
from tests.faults.test_faults import (
    check_trained_again,
    flip,
    kill_all,
    newest_checkpoints,
    trained_again,
    truncate,
    workers,
)
from tests.tuner.whole_jobs import Place, place
from tuner.execution.dispatcher import CHECKPOINT_S
from tuner.jobs.record import Record
from tuner.storage.file_lock import lock_owner

PAUSE_S = (10.0, 20.0)
OUTAGE_S = (2.0, 15.0)
MOST_FAULTS = 8
LONG_S = 900.0
"""Nothing takes longer than this unless it is stuck, even on a busy machine."""
GAVE_UP = "; try again with: tuner resume "
"""The supervisor's message when two drivers in a row make no progress. On a busy machine we can kill both early."""
SPEC = """\
name: chaos
data: {{name: digits, train_images: 300, val_images: 100, test_images: 100}}
model: {{name: elu_net, width: 0.03}}
baseline: adam_l2
arms: [adam_l2, adamw, noam]
budget: {{trials: 4, epochs: 24, batch_size: 20}}
sampler: {sampler}
scheduler: {scheduler}
resources: {{silent_minutes: 2, retries: 9}}
confirm: {{seeds: 3}}
storage: {storage}
tracking: {{uri: '{tracker}', experiment: {experiment}}}
"""


class Chaos:
    """One job, and the faults that it has to survive.

    Args:
        where: the place of the job.
        postgres: the database of the studies and of the tracker.
        tracker: the MLflow server.
        seed: the seed of all random choices.
    """

    def __init__(self, where: Place, postgres: Postgres, tracker: MlflowServer, seed: int) -> None:
        self._where = where
        self._postgres = postgres
        self._tracker = tracker
        self._random = random.Random(seed)
        self._process: subprocess.Popen[str] | None = None
        self.faults: list[str] = []
        self.resumes = 0

    def run(self) -> Record:
        """Run the job, and resume it after each fault that ends it, until it is finished."""
        self._process = self._where.start("run", "spec.yaml", "-q")
        deadline = time.monotonic() + LONG_S
        while True:
            assert time.monotonic() < deadline, "the job does not finish"
            try:
                code = self._process.wait(self._random.uniform(*PAUSE_S))
            except subprocess.TimeoutExpired:
                if len(self.faults) < MOST_FAULTS:
                    self._cause(self._random.choice(FAULTS))
                continue
            if code == 0:
                break
            self._check_end(code, (self._where.root / "err").read_text())
            self._process = self._where.start(*self._again())
            self.resumes += 1
        synced = self._where.tuner("sync")
        assert synced.code == 0, synced.err
        return check_end_state(self._where)

    def _again(self) -> tuple[str, ...]:
        # A job that was killed before it wrote anything cannot be resumed.
        return ("resume", "-q") if list(self._where.home.jobs()) else ("run", "spec.yaml", "-q")

    @staticmethod
    def _check_end(code: int, said: str) -> None:
        """Only our faults may have ended the command. Code 3: a service was down for longer than the job waits."""
        assert "Traceback" not in said, said
        assert code in (3, 143, -signal.SIGKILL) or (code == 1 and GAVE_UP in said), (code, said)

    def _cause(self, fault: Callable[["Chaos"], None]) -> None:
        try:
            fault(self)
        except NoVictim:
            return
        self.faults.append(fault.__name__)
        print(f"  {fault.__name__}", file=sys.stderr, flush=True)

    def kill_a_worker(self) -> None:
        self._signal_a_worker(signal.SIGKILL)

    def freeze_a_worker(self) -> None:
        self._signal_a_worker(signal.SIGSTOP)

    def kill_the_driver(self) -> None:
        self._signal_the_driver(signal.SIGKILL)

    def freeze_the_driver(self) -> None:
        self._signal_the_driver(signal.SIGSTOP)

    def kill_the_supervisor(self) -> None:
        """Then wait until its driver has ended by itself: only then can another driver start."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        left = self._where.processes_left(patience_s=LONG_S)
        assert left == [], left

    def kill_everything(self) -> None:
        assert self._process is not None
        kill_all(self._where, self._process)

    def ask_it_to_stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def damage_checkpoints(self) -> None:
        self.kill_everything()
        damaged = newest_checkpoints(self._where) if list(self._where.home.jobs()) else []
        for files in damaged:
            truncate(files[0])
        if not damaged:
            raise NoVictim

    def damage_the_journal(self) -> None:
        """The damage is in the second half, so that the job does not start again from the beginning."""
        self.kill_everything()
        journals = [job.journal for job in self._where.home.jobs() if job.journal.exists()]
        if not journals:
            raise NoVictim
        flip(journals[0], int(journals[0].stat().st_size * self._random.uniform(0.5, 1)))

    def take_the_tracker_away(self) -> None:
        self._tracker.stop()
        time.sleep(self._random.uniform(*OUTAGE_S))
        self._tracker.start()

    def take_the_database_away(self) -> None:
        self._postgres.stop()
        time.sleep(self._random.uniform(*OUTAGE_S))
        self._postgres.start()

    def _signal_a_worker(self, number: int) -> None:
        found = workers(self._where)
        if not found:
            raise NoVictim
        _signal(self._random.choice(found), number)

    def _signal_the_driver(self, number: int) -> None:
        jobs = list(self._where.home.jobs())
        found = lock_owner(jobs[0].lock_file) if jobs else None
        if found is None or found.pid == 0:
            raise NoVictim
        _signal(found.pid, number)


class NoVictim(Exception):
    """The fault cannot happen now, because its target does not exist."""


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise NoVictim from None


FAULTS: tuple[Callable[[Chaos], None], ...] = (
    Chaos.kill_a_worker,
    Chaos.freeze_a_worker,
    Chaos.kill_the_driver,
    Chaos.freeze_the_driver,
    Chaos.kill_the_supervisor,
    Chaos.kill_everything,
    Chaos.ask_it_to_stop,
    Chaos.damage_checkpoints,
    Chaos.damage_the_journal,
    Chaos.take_the_tracker_away,
    Chaos.take_the_database_away,
)


@contextmanager
def services() -> Iterator[tuple[Postgres, MlflowServer]]:
    """Postgres, and an MLflow server that uses it."""
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as made, ExitStack() as stack:
        folder = Path(made)
        folder.chmod(0o755)
        postgres = Postgres(folder / "postgres")
        stack.enter_context(running(postgres))
        os.environ["PGPASSFILE"] = postgres.env["PGPASSFILE"]
        tracker = MlflowServer(postgres.create("mlflow"), folder / "mlflow", postgres.env)
        stack.enter_context(running(tracker))
        yield postgres, tracker


@contextmanager
def job_place(seed: int, postgres: Postgres, tracker: MlflowServer) -> Iterator[Place]:
    """A fresh place for the job of a seed."""
    with (
        tempfile.TemporaryDirectory(prefix="chaos-job-") as folder,
        place(Path(folder) / "place", spec_of(seed, postgres, tracker)) as where,
    ):
        yield where


def survive(seed: int, undisturbed: Record | None, postgres: Postgres, tracker: MlflowServer) -> dict[str, object]:
    """Run the job of one seed under faults and check it.

    Returns:
        The results for this seed. If a check failed, ``failed`` has the traceback and ``kept`` a copy of the folder.
    """
    begun = time.monotonic()
    found: dict[str, object] = {"seed": seed, "sampler": "random" if seed % 2 else "tpe"}
    with job_place(seed, postgres, tracker) as where:
        chaos = Chaos(where, postgres, tracker, seed)
        try:
            found |= check(where, chaos, undisturbed)
        except (AssertionError, subprocess.TimeoutExpired):
            kept = Path(tempfile.mkdtemp(prefix=f"chaos-failed-{seed}-"))
            shutil.copytree(where.root, kept, dirs_exist_ok=True)
            found |= {"failed": traceback.format_exc(), "kept": str(kept)}
    conditions = {"seconds": round(time.monotonic() - begun), "load": round(os.getloadavg()[0], 1)}
    return found | {"faults": chaos.faults, "resumes": chaos.resumes} | conditions


def check(where: Place, chaos: Chaos, undisturbed: Record | None) -> dict[str, object]:
    """Run the job under faults, and check its end state."""
    record = chaos.run()
    if undisturbed is not None:
        assert values(record) == values(undisturbed), "settings or values differ from those of the job without faults"
    assert where.processes_left() == []
    again = len(trained_again(where))
    damaged = {"damage_checkpoints", "damage_the_journal"} & set(chaos.faults)
    check_trained_again(where, record, math.inf if damaged else CHECKPOINT_S)
    attempts = sum(trial.attempts for trial in record.trials.values())
    return {"trials": len(record.trials), "attempts": attempts, "epochs_again": again}


def spec_of(seed: int, postgres: Postgres, tracker: MlflowServer) -> str:
    """The spec of a job whose studies are in a separate database."""
    return SPEC.format(
        sampler="random" if seed % 2 else "tpe",
        scheduler="none" if seed % 2 else "{name: asha, first_rung: 3, reduction_factor: 3}",
        storage=postgres.create(f"studies_{seed}_{time.time_ns()}"),
        tracker=tracker.uri,
        experiment=f"chaos-{seed}-{time.time_ns()}",
    )


def main() -> None:
    """Run the requested seeds one after the other. Prints one JSON object per seed to stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int, nargs="+")
    seeds = parser.parse_args().seeds
    warnings.simplefilter("ignore")
    # On SIGTERM, also end the processes that this program started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with services() as (postgres, tracker):
        undisturbed = None
        if any(seed % 2 for seed in seeds):
            with job_place(1, postgres, tracker) as where:
                code = where.start("run", "spec.yaml", "-q").wait(LONG_S)
                assert code == 0, (where.root / "err").read_text()
                undisturbed = check_end_state(where)
        failed = 0
        for seed in seeds:
            print(f"seed {seed}", file=sys.stderr, flush=True)
            result = survive(seed, undisturbed if seed % 2 else None, postgres, tracker)
            failed += "failed" in result
            print(json.dumps(result), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
