"""Real jobs in which an arm competes with itself: the whole path from the spec to the verdict, on digits.

Twenty jobs are too few for a rate. They show that real trainings behave as the simulated jobs of ``benchmarks.aa`` do.
"""

import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks.measuring import Figure, Result, say
from tests.tuner.whole_jobs import Place, place
from tuner.storage.events import Outcome

JOBS = 20
AGAIN = "again"
PATIENCE_S = 3600.0

SPEC = """\
name: aa
seed: {seed}
data: {{name: digits}}
model: {{name: elu_net, width: 0.0625, setup: sound}}
baseline: adam_l2
arms: [adam_l2, {{variant: adam_l2, name: {again}}}]
budget: {{trials: 6, epochs: 8, batch_size: 50}}
scheduler: {{name: asha, first_rung: 2, reduction_factor: 3}}
searches: {{at: [4, 6]}}
confirm: {{margin: 1.0}}
"""
"""The sizes of ``searches/quickstart.yaml``."""

HOW = (
    "Each job searches adam_l2 twice, once under another name, with the sizes of `searches/quickstart.yaml` and looks"
    " at 4 and 6 searches. The jobs differ only in their seed. The difference is the other name's minus the baseline's,"
    " in points of test accuracy. Its interval holds at both looks together."
)


def measure(pairs: int) -> Result:
    """Run the jobs one after the other. ``pairs`` is not used: their number is fixed."""
    jobs = []
    for seed in range(1, JOBS + 1):
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bench-") as name, _place(Path(name), seed) as where:
            board = _board(where)
        seconds = round(time.monotonic() - begun, 1)
        jobs.append({"seed": seed, **_found(board), "seconds": seconds})
        say(json.dumps(jobs[-1]))
    false = sum(job["outcome"] in (Outcome.BEATS, Outcome.LOSES) for job in jobs)
    differences = tuple(float(job["difference"]) for job in jobs)
    return Result(
        HOW,
        figures=(Figure("Difference of the same arm", "points", differences),),
        details={"jobs": jobs, "false verdicts": false},
    )


def _place(folder: Path, seed: int) -> AbstractContextManager[Place]:
    return place(folder / "place", SPEC.format(seed=seed, again=AGAIN))


def _board(where: Place) -> Mapping[str, Any]:
    """What ``tuner run`` prints as JSON."""
    ended = where.ended(where.start("run", "spec.yaml", "-q", "--output", "json"), patience_s=PATIENCE_S)
    if ended.code:
        raise RuntimeError(ended.err)
    board: Mapping[str, Any] = json.loads(ended.out)
    return board


def _found(board: Mapping[str, Any]) -> dict[str, Any]:
    baseline, again = board["rows"]
    standing = again["comparison"]
    return {
        "outcome": standing["outcome"],
        "searches": board["looks"][-1],
        "difference": standing["mean_diff"],
        "low": standing["low"],
        "high": standing["high"],
        "tests": {row["arm"]: row["tests"] for row in (baseline, again)},
        "epochs": baseline["epochs"] + again["epochs"],
    }
