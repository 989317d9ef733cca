"""The leaderboard: one row an arm, with what it found, what it cost and what the verdict on it is."""

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.verdict.paired_test import Comparison, Outcome, describe


@dataclass(frozen=True)
class Row:
    """One arm.

    Args:
        arm, variant: names.
        knobs: how many knobs were searched.
        trials: started in the search; ``complete``, ``pruned``, ``diverged`` and ``failed`` are parts of it.
        epochs: trained in the search.
        seconds: of training in the search, summed over trials.
        winner: trial number of the setting chosen on validation, or None.
        val: the winner's validation metric in the search.
        tests: test accuracy of each confirm run, by seed, in [0, 1].
        comparison: with the baseline; None for the baseline itself and before any confirm run.
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
        """Its standard deviation over the seeds, in points."""
        return 100 * statistics.stdev(self.tests.values()) if len(self.tests) > 1 else None


@dataclass(frozen=True)
class Leaderboard:
    """A job's rows, the baseline first, and what to keep in mind when reading them.

    Args:
        job, state, baseline: the job's id, its state, the baseline's name.
        metric: what the winners were chosen by.
        round, seeds: the last round of confirm runs and its seeds; 0 and none before one.
        margin: in points.
        rows: the arms.
        warnings: one sentence each.
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
        """The arms that beat the baseline."""
        return tuple(row.arm for row in self.rows if row.comparison and row.comparison.outcome == Outcome.BEATS)

    def best(self) -> str:
        """The arm to use: of those that beat the baseline, the one with the highest mean; else the baseline."""
        better = [row for row in self.rows if row.arm in self.beaten]
        return max(better, key=lambda row: row.test_mean or 0.0).arm if better else self.baseline

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = dataclasses.asdict(self)
        for row, plain in zip(self.rows, values["rows"], strict=True):
            plain |= {
                "test_mean": row.test_mean,
                "test_sd": row.test_sd,
                "verdict": verdict_text(row, self.baseline),
            }
        return values | {"best": self.best()}


def verdict_text(row: Row, baseline: str) -> str:
    """The last column."""
    if row.arm == baseline:
        return "baseline"
    return describe(row.comparison) if row.comparison else "not confirmed yet"
