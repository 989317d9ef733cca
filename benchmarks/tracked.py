"""The cost of tracking: the epochs of a job with and without it, and the time for which a report blocks the loop.

To switch tracking off, a module that Python imports at its start changes the driver. Everything else stays the same.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ray.air.integrations.mlflow import MLflowLoggerCallback

from benchmarks.measuring import Comparison, Goal, Result, interleaved, seconds
from tests.tuner.events import event_of, report
from tests.tuner.small_journals import Told
from tests.tuner.whole_jobs import Place, place
from tuner.jobs.request import spec_of
from tuner.jobs.workspace import Workspace
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import EpochReported
from tuner.storage.journal import Journal, read
from tuner.tracking.background_sync import BackgroundSync

SPEC = """\
name: tracked
data: {{name: digits}}
model: {{name: elu_net, width: 0.0625}}
baseline: adam_l2
arms: [adam_l2, noam]
budget: {{trials: {trials}, epochs: {epochs}, batch_size: 50}}
sampler: random
scheduler: none
confirm: {{seeds: 3}}
"""
UNTRACKED = """\
import importlib.abc
import sys


class Untracked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "tuner.driver.driver":
            sys.meta_path.remove(self)
            import tuner.jobs.follower
            import tuner.tracking.background_sync

            def nothing(self):
                raise tuner.jobs.follower.NothingLeft

            tuner.tracking.background_sync.BackgroundSync.send = nothing
        return None


sys.meta_path.insert(0, Untracked())
"""
REPORTS = 200
"""Reports per figure. The figure is their mean."""
TRIAL = "search/adam_l2/0"
BETWEEN_S = 0.005
"""Pause between two reports, in which the loop does other work and the sending thread can run."""


def measure(pairs: int, trials: int = 1, epochs: int = 60, reports: int = REPORTS) -> Result:
    """Both comparisons: the time of an epoch, and the time per report."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        root = Path(name)
        (root / "without").mkdir()
        (root / "without" / "sitecustomize.py").write_text(UNTRACKED)
        with place(root / "place", SPEC.format(trials=trials, epochs=epochs)) as where:
            _epoch_s(where)
            slowed = interleaved(lambda: _epoch_s(where), lambda: _epoch_s(where, root / "without"), pairs)
            spec = spec_of(where.home.job())
        with _our_loop(spec, root / "ours") as ours, _stock_loop(root / "stock.db") as stock:
            blocked = interleaved(lambda: ours(reports), lambda: stock(reports), pairs, warmup=1)
    how = (
        f"The first row compares jobs of {2 * trials + 6} trials of {epochs} epochs on digits, at width 1/16. Its"
        " figure is the mean time of an epoch in the workers. The second row is the mean time for which one of"
        f" {reports} reports to SQLite blocks the driver's loop. For ours, this is the time to write the journal, while"
        " a thread sends the reports to MLflow."
    )
    return Result(
        how,
        (
            Comparison("An epoch with tracking", "the same without tracking", "s", *slowed, Goal(1.03, "most")),
            Comparison("Loop time per report", "MLflowLoggerCallback", "ms", *blocked, Goal(1 / 50, "most")),
        ),
    )


def _epoch_s(where: Place, without: Path | None = None) -> float:
    """Run a new job, and return the mean seconds of its epochs."""
    env = {} if without is None else {"PYTHONPATH": f"{without}:{where.env()['PYTHONPATH']}"}
    ended = where.ended(where.start("run", "spec.yaml", "-q", env=env), patience_s=3600)
    if ended.code:
        raise RuntimeError(ended.err)
    job = where.home.job()
    assert job.tracked.exists() == (without is None)
    took = [entry.event.report.seconds for entry in read(job.journal) if isinstance(entry.event, EpochReported)]
    return float(sum(took)) / len(took)


@contextmanager
def _our_loop(spec: SearchSpec, folder: Path) -> Iterator[Callable[[int], float]]:
    """A function from a number of reports to mean milliseconds per report. A thread sends them to SQLite meanwhile."""
    told = Told(folder / "jobs" / "loop-1")
    told.job()
    told.trial(TRIAL)
    epochs = itertools.count(1)
    follower = BackgroundSync(spec, Workspace(folder), told.folder).follower
    follower.start()
    with closing(Journal(told.folder.journal, follower.on_event)) as journal:

        def reported(reports: int) -> float:
            took_s = 0.0
            for epoch in itertools.islice(epochs, reports):
                event = event_of("epoch", trial=TRIAL, attempt=1, **report(epoch, 0.5, 0.5))
                took_s += seconds(partial(journal.append, event))
                time.sleep(BETWEEN_S)
            return 1000 * took_s / reports

        yield reported
    follower.drain()
    if follower.problem is not None:
        raise follower.problem


@contextmanager
def _stock_loop(database: Path) -> Iterator[Callable[[int], float]]:
    """The same for Ray's own callback."""
    callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{database}", experiment_name="loop")
    callback.setup()
    trial: Any = Trial()
    callback.log_trial_start(trial)
    epochs = itertools.count(1)

    def reported(reports: int) -> float:
        took_s = 0.0
        for epoch in itertools.islice(epochs, reports):
            result = {**report(epoch, 0.5, 0.5), "training_iteration": epoch}
            took_s += seconds(partial(callback.log_trial_result, epoch, trial, result))
            time.sleep(BETWEEN_S)
        return 1000 * took_s / reports

    yield reported


class Trial:
    """The part of Tune's trial that the callback uses."""

    config: Mapping[str, float] = {"lr": 0.1, "l2": 0.0}

    def __str__(self) -> str:
        return "trial"
