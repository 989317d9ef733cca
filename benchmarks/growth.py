"""Time per trial at the end of a long search, against the time per trial near its start.

The benchmark runs one job of ``benchmarks.control``'s trials of ten milliseconds, with tracking. The job has two arms,
so each study has half of the trials.
"""

import tempfile
from pathlib import Path

from benchmarks.control import spec
from benchmarks.measuring import Comparison, Goal, Result, say
from benchmarks.peers.running import run_tuner
from tests.tuner.whole_jobs import Place, place
from tuner.storage.events import Stage, TrialEnded
from tuner.storage.journal import read

EARLY = 100
MARKS = (500, 1000, 2000, 5000)
SAMPLERS = ("tpe", "random")


def measure(pairs: int, trials: int = 10_000, samplers: tuple[str, ...] = SAMPLERS) -> Result:
    """Compare within one search per sampler. ``pairs`` is not used, because more searches would take hours."""
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
                f"Time per trial at {trials:,} trials ({sampler})",
                f"the same around the {EARLY}th trial",
                "s",
                (late,),
                (early,),
                Goal(1.5, "most"),
            )
        )
    how = (
        f"Each sampler runs one search of {trials:,} trials of about 10 ms, with 5 reports each and with tracking. The"
        f" figure is the wall time per trial, over the {EARLY} trials before the given number."
    )
    return Result(how, tuple(compared), details)


def _costs(where: Place) -> tuple[dict[int, float], float]:
    """The time per trial in the course of the search, and the delay of MLflow at its end.

    Returns:
        Seconds per trial over the trials before each of some trial numbers, and the seconds from the end of the last
        trial until MLflow has all data.
    """
    job = where.home.job()
    ends = [
        entry.ms / 1000
        for entry in read(job.journal)
        if isinstance(entry.event, TrialEnded) and entry.event.trial.startswith(Stage.SEARCH)
    ]
    window = min(EARLY, len(ends) // 3)
    # The early window lies around the 100th trial, because the first trials wait for workers to start.
    early = window + window // 2
    numbers = [early, *(number for number in MARKS if early < number < len(ends)), len(ends)]
    costs = {number: round((ends[number - 1] - ends[number - 1 - window]) / window, 4) for number in numbers}
    return costs, job.tracked.stat().st_mtime - ends[-1]
