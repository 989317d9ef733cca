"""What one more trial costs, beside its training, when a search already has many: at the end against near its start.

A single job of ``benchmarks.control``'s trials of ten milliseconds, with tracking on; two arms, so that each study has
half of the trials.
"""

import tempfile
from pathlib import Path

from benchmarks.control import spec
from benchmarks.measuring import Comparison, Goal, Result, say
from benchmarks.peers.running import run_tuner
from tests.tuner.whole_jobs import Place, place
from tuner.storage.events import Stage
from tuner.storage.journal import read

EARLY = 100
MARKS = (500, 1000, 2000, 5000)
SAMPLERS = ("tpe", "random")


def measure(pairs: int, trials: int = 10_000, samplers: tuple[str, ...] = SAMPLERS) -> Result:
    """Compare within one search a sampler; ``pairs`` of them would take hours."""
    compared, details = [], {}
    for sampler in samplers:
        with (
            tempfile.TemporaryDirectory(prefix="bench-") as name,
            place(Path(name, "place"), spec(trials, sampler)) as where,
        ):
            run_tuner(where)
            costs, lag_s = _costs(where)
        details[sampler] = {"seconds_a_trial_before": costs, "mlflow_behind_at_end_s": round(lag_s, 1)}
        say(f"{sampler}: {details[sampler]}")
        early, late = costs[min(costs)], costs[max(costs)]
        compared.append(
            Comparison(
                f"Cost of a trial at {trials:,} ({sampler})",
                f"around the {EARLY}th",
                "s",
                (late,),
                (early,),
                Goal(1.5, "most"),
            )
        )
    how = (
        f"One search of {trials:,} trials of about 10 ms with 5 reports, tracked; wall time a trial over the {EARLY} "
        "trials before each number."
    )
    return Result(how, tuple(compared), details)


def _costs(where: Place) -> tuple[dict[int, float], float]:
    """Seconds a trial over the trials before some numbers, and how long MLflow took after the last one."""
    job = where.home.job()
    ends = [
        event["ms"] / 1000
        for event in read(job.journal)
        if event["kind"] == "end" and event["trial"].startswith(Stage.SEARCH)
    ]
    window = min(EARLY, len(ends) // 3)
    # Around the 100th; the first trials wait for workers to start.
    early = window + window // 2
    numbers = [early, *(number for number in MARKS if early < number < len(ends)), len(ends)]
    costs = {number: round((ends[number - 1] - ends[number - 1 - window]) / window, 4) for number in numbers}
    return costs, job.tracked.stat().st_mtime - ends[-1]
