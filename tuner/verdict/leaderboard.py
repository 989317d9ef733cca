"""The leaderboard: one row per arm with its results, its cost and its verdict."""

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.spec.experiment import MetricSpec
from tuner.storage.events import Outcome, setting_label
from tuner.verdict import method
from tuner.verdict.looks import Standing
from tuner.verdict.numbers import ACCURACY, mean_text
from tuner.verdict.paired_test import Comparison, describe


@dataclass(frozen=True)
class Row:
    """The leaderboard's row of one arm.

    Args:
        arm: name of the arm.
        variant: name of its variant.
        baseline: the arm that it is compared with.
        knobs: number of knobs that were searched.
        trials: number of trials that the search started.
        complete: number of these trials that trained to the end.
        pruned: number of these trials that were pruned.
        diverged: number of these trials that diverged.
        failed: number of these trials that failed, or ran out of memory.
        epochs: number of epochs that the search trained.
        seconds: seconds of training in the search, summed over its trials.
        winner: trial number of the best setting, which was chosen on validation; None if there is none.
        search: the search that this setting comes from; 0 in a job with one search per arm.
        val: the best setting's validation metric in the search; None if there is none.
        tests: judged values that the verdict rests on, by confirm seed if the claim is about one setting, else by
            search: test accuracies in [0, 1], or values of the user's judge metric.
        confirmed: number of confirm runs of the best setting that trained to the end, in the last round of them.
        comparison: comparison with the baseline; None for the baseline itself, and before the first verdict.
        measured: the metrics of the job.
    """

    arm: str
    variant: str
    baseline: str
    knobs: int
    trials: int
    complete: int
    pruned: int
    diverged: int
    failed: int
    epochs: int
    seconds: float
    winner: int | None
    search: int
    val: float | None
    tests: Mapping[int, float]
    confirmed: int
    comparison: Comparison | Standing | None
    measured: MetricSpec = ACCURACY

    @property
    def label(self) -> str:
        """The best setting in its arm, in words; empty if there is none."""
        return "" if self.winner is None else setting_label(self.search, self.winner)

    @property
    def evidence(self) -> dict[str, Any] | None:
        """The comparison as plain values; None if there is none."""
        if self.comparison is None:
            return None
        values = dataclasses.asdict(self.comparison)
        if isinstance(self.comparison, Standing) and not self.comparison.note:
            # As older versions wrote it: the same job exports to the same bytes.
            del values["note"]
        return values

    @property
    def test_mean(self) -> float | None:
        """Mean of ``tests``, in the unit of the verdict: points, or the unit of the user's metric."""
        return self.measured.factor * statistics.fmean(self.tests.values()) if self.tests else None

    @property
    def test_sd(self) -> float | None:
        """Standard deviation of ``tests``, in the same unit."""
        return self.measured.factor * statistics.stdev(self.tests.values()) if len(self.tests) > 1 else None

    @property
    def test_text(self) -> str:
        """Mean ± standard deviation of ``tests``; a dash if there are none."""
        return mean_text(self.measured, list(self.tests.values())) if self.tests else "–"


@dataclass(frozen=True)
class Leaderboard:
    """The leaderboard of one job.

    Args:
        job: id of the job.
        state: state of the job.
        baseline: name of the baseline.
        metric: name of the metric that chose the winners.
        claim: ``method`` or ``setting``: what the verdict is about.
        looks: searches per arm at each look so far; empty if the claim is about one setting.
        placebo: name of the arm that repeats the baseline; empty if there is none.
        round: number of the last round of confirm runs that ended; 0 if none has ended.
        seeds: seeds of that round; empty if no round has ended.
        margin: gain within which a difference does not matter, in the unit of the verdict.
        rows: one row per arm, the baseline first.
        warnings: reasons to read the numbers with care, one sentence each.
        measured: the metrics of the job.
    """

    job: str
    state: str
    baseline: str
    metric: str
    claim: str
    looks: tuple[int, ...]
    placebo: str
    round: int
    seeds: tuple[int, ...]
    margin: float
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    measured: MetricSpec = ACCURACY

    @property
    def judged(self) -> bool:
        """Whether there is a verdict."""
        return bool(self.looks or self.round)

    @property
    def unit(self) -> str:
        """What the verdict compares: a ``search`` or a ``seed``."""
        return "search" if self.claim == "method" else "seed"

    @property
    def beaten(self) -> tuple[str, ...]:
        """Names of the arms that beat the baseline. The placebo is none of them: it is the baseline."""
        return tuple(
            row.arm
            for row in self.rows
            if row.comparison and row.comparison.outcome == Outcome.BEATS and row.arm != self.placebo
        )

    def best(self) -> str:
        """The best arm by validation among those that beat the baseline; if no arm beats it, the baseline.

        The judged values do not choose, because the best of several is too high by luck. An arm that beats another
        baseline than the job's counts only if that one beats the job's. An arm whose best setting was confirmed comes
        before one whose best setting was not: its selection may have taken a setting with a lower value.
        """
        beaten = self.beaten
        sign = 1.0 if self.measured.maximize else -1.0
        better = [
            (row.confirmed > 0, sign * row.val, row.arm)
            for row in self.rows
            if row.arm in beaten and row.baseline in (self.baseline, *beaten) and row.val is not None
        ]
        # ``max`` keeps the first of equals.
        return max(better, key=lambda found: found[:2])[2] if better else self.baseline

    def to_dict(self) -> dict[str, Any]:
        """The leaderboard as plain values that JSON can hold."""
        values = dataclasses.asdict(self)
        measured = values.pop("measured")
        if measured.own:
            values |= {"judge": measured.judged, "goal": measured.goal, "unit": measured.unit or ""}
        for row, plain in zip(self.rows, values["rows"], strict=True):
            del plain["measured"]
            plain |= {
                "comparison": row.evidence,
                "test_mean": row.test_mean,
                "test_sd": row.test_sd,
                "verdict": verdict_text(row, self),
            }
        return values | {"best": self.best()}


def verdict_text(row: Row, board: Leaderboard) -> str:
    """The text in the verdict column of the leaderboard."""
    match row.comparison:
        case Comparison():
            return describe(row.comparison, board.measured)
        case Standing():
            return method.describe(row.comparison, row.baseline, board.margin, board.looks, board.measured)
    return "baseline" if row.arm == board.baseline else "not confirmed yet"
