"""Where the time of a search goes: the activity of each worker, from the command to its end.

The wall time of a job counts once for every worker. Each second belongs to one of these parts:

start-up    before the worker trains its first epoch: Python, Ray, processes, data
training    epochs with their evaluation, as the trials report them
reporting   the rest of a trial: its set-up, its checkpoints, and the driver's work between two of its epochs
waiting     the worker has no trial: between two trials, or at the end of a stage when no trial is left to start
ending      after the last trial: the last data for MLflow, verdict, report, exports
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import Figure, Result, say
from benchmarks.peers.running import run_tuner
from tests.tuner.whole_jobs import Place, place
from tuner.storage.events import AttemptBegun, Entry, EpochReported, JobDescribed, TrialEnded
from tuner.storage.journal import read

SPEC = Path(__file__).parents[1] / "searches" / "quickstart.yaml"
RUNS = 3
"""Maximum number of runs, because a run takes minutes."""
PARTS = ("start-up", "training", "reporting", "waiting", "ending")


def measure(pairs: int, spec: str | None = None) -> Result:
    """Run the search several times."""
    text = spec or SPEC.read_text()
    runs = []
    for number in range(min(pairs, RUNS)):
        with tempfile.TemporaryDirectory(prefix="bench-") as name, place(Path(name, "place"), text) as where:
            runs.append(parts(where))
            say(f"run {number + 1}: " + ", ".join(f"{part} {took_s:.1f} s" for part, took_s in runs[-1].items()))
            shutil.rmtree(where.home.path)
    whole = [sum(run.values()) for run in runs]
    figures = [
        Figure(part, "% of the workers' time", tuple(100 * run[part] / s for run, s in zip(runs, whole, strict=True)))
        for part in PARTS
    ]
    return Result(
        "searches/quickstart.yaml, from the command to its end, in a new workspace.",
        figures=tuple(figures),
        details={"seconds": [{part: round(took_s, 1) for part, took_s in run.items()} for run in runs]},
    )


def parts(where: Place) -> dict[str, float]:
    """Run the job, and return the seconds of each part, of all workers together."""
    begin = time.time()
    run_tuner(where)
    end = time.time()
    return parts_of(list(read(where.home.job().journal)), begin, end)


def parts_of(entries: Sequence[Entry], begin: float, end: float) -> dict[str, float]:
    """Seconds of each part, of all workers together.

    Args:
        entries: the journal of the job.
        begin, end: the wall clock at the start and the end of the command, in seconds.
    """
    described = entries[0].event
    assert isinstance(described, JobDescribed)
    workers = described.concurrent
    begun: dict[str, float] = {}
    heard: dict[str, float] = {}
    found = dict.fromkeys(PARTS, 0.0)
    started = 0
    for entry in entries:
        now = entry.ms / 1000
        match entry.event:
            case AttemptBegun(trial=key):
                begun[key] = heard[key] = now
            case EpochReported(trial=key, report=report):
                between = now - heard[key] - report.seconds
                if report.epoch == 1 and started < workers:
                    started += 1
                    found["start-up"] += begun[key] - begin + between
                else:
                    found["reporting"] += between
                found["training"] += report.seconds
                heard[key] = now
            case TrialEnded(trial=key):
                found["reporting"] += now - heard[key]
                last = now
    found["ending"] = workers * (end - last)
    found["waiting"] = workers * (end - begin) - sum(found.values())
    return found
