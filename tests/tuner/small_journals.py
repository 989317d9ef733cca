"""Small jobs, written to a real journal by hand, and the expected content of a tracker, derived event by event."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tuner.events import event_of, report
from tuner.jobs.job_folder import JobFolder
from tuner.storage.journal import Journal, read

NUMBERS = {"train_loss": "train/loss", "val_acc": "val/acc"}
"""Some values of a trial's report -> their names in the tracker."""
HYPER = {"lr": 0.1, "l2": 0.0}
"""The default hyperparameters of a trial."""


METRIC = {"name": "val/acc", "goal": "maximize"}
"""The metric of a job on the built-in training."""


class Told:
    """A job folder whose journal grows by one event per call.

    Args:
        folder: the folder of the job; it is created if it does not exist.
        now: the clock of the journal.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = JobFolder(folder)
        self._now = now

    def job(self, metric: Mapping[str, str] = METRIC) -> None:
        """The job begins, with this section ``metric`` of its spec."""
        spec: dict[str, Any] = {
            "name": "told",
            "budget": {"trials": 2},
            "metric": dict(metric),
            "arms": ["adam_l2", "noam"],
        }
        arms = [
            {"name": arm, "variant": arm, "space": {"lr": "0.1 to 1"}, "fixed": {}, "default": {"lr": 0.1}}
            for arm in spec["arms"]
        ]
        self._tell(
            "job",
            job=self.folder.id,
            simulated=False,
            spec=spec,
            spec_sha256="e" * 64,
            arms=arms,
            plan={"epochs": 2, "steps_per_epoch": 10},
            data_fingerprint="f" * 64,
            data_images={"train": 20, "val": 10, "test": 10},
            concurrent=2,
            versions={"python": "3.11"},
            machine={"cpus": "2"},
            git_commit="none",
            folder=".",
        )
        self.state("running")

    def state(self, state: str) -> None:
        """Write a state of the job."""
        self._tell("state", state=state)

    def trial(self, key: str, hyper: Mapping[str, float] = HYPER) -> None:
        """Start a trial and its first attempt; ``key`` is ``stage/arm/number``."""
        stage, arm, number = key.split("/")
        self._tell(
            "trial",
            trial=key,
            stage=stage,
            arm=arm,
            number=int(number),
            seed=1,
            round=0,
            hyper=dict(hyper),
            knobs={"lr": 0.1},
        )
        self.attempt(key, 1, 0)

    def attempt(self, key: str, attempt: int, epoch: int) -> None:
        """Start an attempt that continues after ``epoch``."""
        self._tell("attempt", trial=key, attempt=attempt, epoch=epoch)

    def epochs(self, key: str, first: int, last: int, attempt: int = 1) -> None:
        """Report the epochs from ``first`` to ``last`` of a trial."""
        for epoch in range(first, last + 1):
            self._tell("epoch", trial=key, attempt=attempt, **report(epoch, epoch / 100, 1 / epoch))

    def own_report(self, key: str, epoch: int, values: Mapping[str, float]) -> None:
        """A report of a user's own trainable."""
        self._tell("epoch", trial=key, attempt=1, epoch=epoch, values=dict(values), seconds=1.0)

    def own_end(self, key: str, values: Mapping[str, float]) -> None:
        """A confirm run of a user's own trainable ends with this judge metric."""
        self._tell("end", trial=key, state="complete", reason=None, result={"values": dict(values), "device": "cpu"})

    def end(self, key: str, state: str = "complete", reason: str | None = None, test_acc: float | None = None) -> None:
        """A trial ends; a confirm run has a test accuracy."""
        result: dict[str, Any] = {}
        if test_acc is not None:
            result = {"test_acc": test_acc, "test_loss": 1 - test_acc, "weights_sha256": "a" * 64, "device": "cpu"}
        self._tell("end", trial=key, state=state, reason=reason, result=result)

    def _tell(self, kind: str, **fields: Any) -> None:
        with closing(Journal(self.folder.journal, durable=False, now=self._now)) as journal:
            journal.append(event_of(kind, **fields))


@dataclass
class Held:
    """The content of one run in a tracker: its status, some tags, and the rows of each metric as (step, value)."""

    status: str = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    rows: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


TAGS = ("tuner.state", "tuner.attempts", "tuner.reason")
ENDS = {"complete": "FINISHED", "pruned": "KILLED", "diverged": "FAILED", "failed": "FAILED", "oom": "FAILED"}


def due(folder: JobFolder) -> dict[str, Held]:
    """The expected content of a tracker for a job: trial key -> run. The parent run has an empty key."""
    runs: dict[str, Held] = {}
    for event in (entry.to_json() for entry in read(folder.journal)):
        key = event.get("trial", "")
        held = runs.setdefault(key, Held())
        match event["kind"]:
            case "trial":
                held.tags["tuner.state"] = "running"
            case "attempt":
                held.status, held.tags["tuner.state"] = "RUNNING", "running"
                if event["attempt"] > 1:
                    held.tags["tuner.attempts"] = str(event["attempt"])
            case "epoch":
                for ours, theirs in NUMBERS.items():
                    held.rows.setdefault(theirs, []).append((event["epoch"], event[ours]))
            case "end":
                held.status, held.tags["tuner.state"] = ENDS[event["state"]], event["state"]
                if event["reason"]:
                    held.tags["tuner.reason"] = event["reason"][-5000:]
                if event["result"]:
                    held.rows["test/acc"] = [(0, event["result"]["test_acc"])]
            case "state":
                held.tags["tuner.state"] = event["state"]
                held.status = {"running": "RUNNING", "interrupted": "KILLED"}.get(event["state"], "FINISHED")
                if event["state"] == "interrupted":
                    for other in runs.values():
                        if other.tags.get("tuner.state") == "running":
                            other.status, other.tags["tuner.state"] = "KILLED", "interrupted"
    return runs


def held(client: Any, folder: JobFolder) -> dict[str, Held]:
    """The actual content of a tracker for a job: trial key -> run. Fails if a trial has two runs."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs: dict[str, Held] = {}
    for run in client.search_runs(experiments, f"tags.`tuner.job` = '{folder.id}'"):
        key = run.data.tags["tuner.trial"]
        assert key not in runs, f"{key!r} has two runs"
        tags = {name: run.data.tags[name] for name in TAGS if name in run.data.tags}
        runs[key] = Held(run.info.status, tags, dict(_rows(client, run)))
    return runs


def _rows(client: Any, run: Any) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    for name in (*NUMBERS.values(), "test/acc"):
        if name in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, name)
            yield name, sorted((row.step, row.value) for row in history)
