"""Runs trials of users' trainables on real workers of Ray: ``python -m tests.tuner.execution.own_run FOLDER``.

The folder gets the journal. Some of the trials crash, hang or raise.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from cluster.runtime import embedded_ray
from tests.tuner.events import History
from trainables.own.trial import OwnTrial
from trainables.own.worker import OwnWorker
from tuner.execution.capacity import FixedCapacity
from tuner.execution.dispatcher import Dispatcher
from tuner.execution.ray_executor import RayExecutor
from tuner.execution.ray_workers import Workers, start_actors
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.record import Record
from tuner.jobs.stop import StopRequest
from tuner.search.trial_request import TrialOutcome, TrialRequest
from tuner.spec.search_spec import from_dict
from tuner.spec.settings import ResourcesSpec
from tuner.storage.events import Stage
from tuner.storage.file_lock import exclusive
from tuner.storage.journal import Journal

CODE = '''
import json
import os
import signal
import time
from pathlib import Path

from ray import tune


class Count(tune.Trainable):
    """It counts, and does at report 3 what its config says: once, or always."""

    def setup(self, config):
        self.at = 0

    def step(self):
        self.at += 1
        if self.at == 3 and (what := self.config.get("once") or self.config.get("always")):
            mark = Path(self.config["mark"])
            if not mark.exists() or "always" in self.config:
                mark.touch()
                getattr(self, what)()
        return {"loss": float(self.at), "test": self.at + 0.5}

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self):
        time.sleep(600)

    def fail(self):
        raise ValueError("the third is bad")

    def overflow(self):
        raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")

    def save_checkpoint(self, folder):
        Path(folder, "at.json").write_text(json.dumps(self.at))

    def load_checkpoint(self, folder):
        self.at = json.loads(Path(folder, "at.json").read_text())


def two(config):
    tune.report({"loss": 2.0, "test": 0.0})
    tune.report({"loss": 1.0, "test": 0.0})


def lost(config):
    tune.report({"loss": 1.0})
    tune.report({"loss": float("inf")})
'''
SPEC = {
    "name": "own",
    "metric": {"choose": "loss", "judge": "test", "goal": "minimize"},
    "baseline": "fine",
    "arms": [
        {"name": name, "trainable": "theirs:Count", "parameters": {"x": {"values": [1, 2]}}} for name in ("fine", "die")
    ],
    "budget": {"trials": 2, "epochs": 4},
}
TRIALS: Sequence[tuple[str, str, Mapping[str, str]]] = (
    ("fine", "Count", {}),
    ("die", "Count", {"once": "die"}),
    ("hang", "Count", {"once": "hang"}),
    ("fail", "Count", {"always": "fail"}),
    ("overflow", "Count", {"always": "overflow"}),
    ("two", "two", {}),
    ("lost", "lost", {}),
)


def new_record() -> Record:
    """A record of a job that has begun; the journal here has only the trials."""
    record = Record()
    for entry in History(from_dict(SPEC)).entries:
        record.add(entry)
    return record


class Source:
    """The trials, each as a confirm run."""

    def __init__(self, folder: Path) -> None:
        self._requests = self._made(folder)

    def _made(self, folder: Path) -> Iterator[TrialRequest]:
        for number, (arm, name, config) in enumerate(TRIALS):
            whole = {"mark": str(folder / f"{arm}.mark"), **config}
            trial = OwnTrial(f"theirs:{name}", whole, 4, number, (), "loss", "test")
            yield TrialRequest(f"confirm/{arm}/0", Stage.CONFIRM, arm, 0, trial, config)

    def next(self) -> TrialRequest | None:
        return next(self._requests, None)

    def ended(self, request: TrialRequest, outcome: TrialOutcome) -> None:
        pass


def main(folder: Path) -> None:
    code = folder / "code"
    code.mkdir()
    (code / "theirs.py").write_text(CODE)
    record, job = new_record(), JobFolder(folder)
    limits = ResourcesSpec(silent_minutes=0.1)
    with (
        embedded_ray(2, 0, folder / "r", (code,)),
        closing(Journal(job.journal, record.add, durable=False)) as journal,
        exclusive(job.lock_file, 1.0) as lock,
    ):
        dispatcher = Dispatcher(Source(folder), journal, record, limits)
        workers = Workers(start_actors(OwnWorker, 1, 0.0))
        RayExecutor(workers, job, folder / "cache", FixedCapacity(2), StopRequest(), lock).run(dispatcher)
        workers.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
