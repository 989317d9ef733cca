"""The leaderboard: one row per arm with its results, its cost and its verdict."""

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.verdict.paired_test import Comparison, Outcome, describe


@dataclass(frozen=True)
class Row:
    """The leaderboard's row of one arm.

    Args:
        arm: name of the arm.
        variant: name of its variant.
        knobs: number of knobs that were searched.
        trials: number of trials that the search started.
        complete: number of these trials that trained to the end.
        pruned: number of these trials that were pruned.
        diverged: number of these trials that diverged.
        failed: number of these trials that failed, or ran out of memory.
        epochs: number of epochs that the search trained.
        seconds: seconds of training in the search, summed over its trials.
        winner: trial number of the winner, which was chosen on validation; None if there is no winner.
        val: the winner's validation metric in the search; None if there is no winner.
        tests: test accuracy of each confirm run, by seed, in [0, 1].
        comparison: comparison with the baseline; None for the baseline itself, and before the first round of
            confirm runs has ended.
    """

    arm: str
    variant: str
    knobs: int
    trials: int
    complete: int
    pruned: int
    diverged: int
    failed: int
    epochs: int
    seconds: float
    winner: int | None
    val: float | None
    tests: Mapping[int, float]
    comparison: Comparison | None

    @property
    def test_mean(self) -> float | None:
        """Mean test accuracy over the confirm seeds, in points."""
        return 100 * statistics.fmean(self.tests.values()) if self.tests else None

    @property
    def test_sd(self) -> float | None:
        """Standard deviation of the test accuracy over the confirm seeds, in points."""
        return 100 * statistics.stdev(self.tests.values()) if len(self.tests) > 1 else None


@dataclass(frozen=True)
class Leaderboard:
    """The leaderboard of one job.

    Args:
        job: id of the job.
        state: state of the job.
        baseline: name of the baseline.
        metric: name of the metric that chose the winners.
        round: number of the last round of confirm runs that ended; 0 if none has ended.
        seeds: seeds of that round; empty if no round has ended.
        margin: points within which a difference does not matter.
        rows: one row per arm, the baseline first.
        warnings: reasons to read the numbers with care, one sentence each.
    """

    job: str
    state: str
    baseline: str
    metric: str
    round: int
    seeds: tuple[int, ...]
    margin: float
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]

    @property
    def beaten(self) -> tuple[str, ...]:
        """Names of the arms that beat the baseline."""
        return tuple(row.arm for row in self.rows if row.comparison and row.comparison.outcome == Outcome.BEATS)

    def best(self) -> str:
        """The arm with the highest mean among those that beat the baseline. If no arm beats it, the baseline."""
        better = [row for row in self.rows if row.arm in self.beaten]
        return max(better, key=lambda row: row.test_mean or 0.0).arm if better else self.baseline

    def to_dict(self) -> dict[str, Any]:
        """The leaderboard as plain values that JSON can hold."""
        values = dataclasses.asdict(self)
        for row, plain in zip(self.rows, values["rows"], strict=True):
            plain |= {
                "test_mean": row.test_mean,
                "test_sd": row.test_sd,
                "verdict": verdict_text(row, self.baseline),
            }
        return values | {"best": self.best()}


def verdict_text(row: Row, baseline: str) -> str:
    """The text in the verdict column of the leaderboard."""
    if row.arm == baseline:
        return "baseline"
    return describe(row.comparison) if row.comparison else "not confirmed yet"
