"""Overhead per trial: trials of ten milliseconds with five reports, against Ray Tune at its best settings.

Ours is an ordinary ``tuner run``, with Ray, checkpoints, the journal on disk, the studies in SQLite and MLflow. Both
sides train the trials of ``benchmarks.peers.tiny`` with the same code.
"""

import tempfile
from pathlib import Path

from benchmarks.measuring import Comparison, Goal, Result, interleaved
from benchmarks.peers.running import run_peer, run_tuner
from benchmarks.peers.task import task_of
from tests.tuner.whole_jobs import Place, place
from tuner.storage.events import EpochReported, TrialEnded
from tuner.storage.journal import read

SPEC = """\
name: control
data: {{name: "benchmarks.peers.tiny:images"}}
model: {{name: "benchmarks.peers.tiny:model"}}
baseline: adam_l2
arms: [adam_l2, {{variant: adam_l2, name: again}}]
budget: {{trials: {trials}, epochs: 5, batch_size: 16}}
sampler: {sampler}
scheduler: none
confirm: {{seeds: 3}}
"""


def spec(trials: int, sampler: str = "random") -> str:
    """The spec of a search of ``trials`` trials, in two equal arms."""
    return SPEC.format(trials=trials // 2, sampler=sampler)


def seconds_a_trial(where: Place) -> float:
    """Wall time per trial of our newest job.

    It starts at the first report. It ends when the last trial has ended and MLflow has all data.
    """
    job = where.home.job()
    entries = list(read(job.journal))
    first = next(entry.ms for entry in entries if isinstance(entry.event, EpochReported)) / 1000
    ends = [entry.ms for entry in entries if isinstance(entry.event, TrialEnded)]
    last = max(max(ends) / 1000, job.tracked.stat().st_mtime)
    return float(last - first) / len(ends)


def measure(pairs: int, trials: int = 200) -> Result:
    """Compare our overhead with the peer's."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, place(Path(name, "place"), spec(trials)) as where:

        def ours() -> float:
            run_tuner(where)
            return seconds_a_trial(where)

        ours()
        task = task_of(where.home, loader_workers=0, cpus=1)

        def theirs() -> float:
            done = run_peer(where, "ray_best", task)
            return (done.last_end - done.first_report) / done.trials

        compared = Comparison(
            "Overhead per trial",
            "Ray Tune, class API, actors reused, no loggers, no tracking",
            "s",
            *interleaved(ours, theirs, pairs),
            Goal(0.5, "most"),
        )
    how = (
        f"{len(task.trials)} trials of about 10 ms, with 5 reports each. The figure is the wall time per trial, from"
        " the first report to the end of the last trial. For ours, it ends when MLflow has all data."
    )
    return Result(how, (compared,))
