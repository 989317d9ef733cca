"""The leaderboard: one row an arm, with what it found, what it cost and what the verdict on it is."""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tuner.advice import advice
from tuner.confirm import test_accuracies, winners
from tuner.record import Record, Stage, State, Trial
from tuner.spec import SearchSpec
from tuner.verdict import Comparison, Outcome, compare, describe


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


def build(record: Record, spec: SearchSpec) -> Leaderboard:
    """The leaderboard of a record, finished or not."""
    last = next(reversed(record.ended_rounds()), None)
    chosen = winners(record, spec)
    tests = {arm: test_accuracies(record, arm, last.number) if last else {} for arm in record.arms}
    comparisons = _comparisons(tests, record.baseline, spec.confirm.margin) if last else {}
    rows = tuple(
        _row(record, spec, arm, chosen.get(arm["name"]), tests[arm["name"]], comparisons.get(arm["name"]))
        for arm in record.job["arms"]
    )
    return Leaderboard(
        job=record.name,
        state=record.state,
        baseline=record.baseline,
        metric=spec.metric.name,
        round=last.number if last else 0,
        seeds=last.seeds if last else (),
        margin=spec.confirm.margin,
        rows=rows,
        warnings=(*_earlier_rounds(record, spec), *advice(record, spec, rows, chosen)),
    )


def verdict_text(row: Row, baseline: str) -> str:
    """The last column."""
    if row.arm == baseline:
        return "baseline"
    return describe(row.comparison) if row.comparison else "not confirmed yet"


def _comparisons(tests: Mapping[str, Mapping[int, float]], baseline: str, margin: float) -> dict[str, Comparison]:
    others = {arm: values for arm, values in tests.items() if arm != baseline}
    return {comparison.arm: comparison for comparison in compare(tests[baseline], others, margin)}


def _earlier_rounds(record: Record, spec: SearchSpec) -> Iterator[str]:
    """Confirming again until a verdict pleases is optional stopping: say what the rounds before it came to."""
    rounds = record.ended_rounds()
    came_to = []
    for confirm_round in rounds[:-1]:
        tests = {arm: test_accuracies(record, arm, confirm_round.number) for arm in record.arms}
        outcomes = _comparisons(tests, record.baseline, spec.confirm.margin).values()
        came_to.append(f"round {confirm_round.number}: " + ", ".join(f"{c.arm} {c.outcome}" for c in outcomes))
    if came_to:
        before = "; ".join(came_to)
        yield f"this is the verdict of round {rounds[-1].number} of confirm runs alone; before it came {before}"


def _row(
    record: Record,
    spec: SearchSpec,
    arm: Mapping[str, Any],
    winner: Trial | None,
    tests: Mapping[int, float],
    comparison: Comparison | None,
) -> Row:
    trials = record.of(Stage.SEARCH, arm["name"])
    states = [trial.state for trial in trials]
    return Row(
        arm=arm["name"],
        variant=arm["variant"],
        knobs=len(arm["space"]),
        trials=len(trials),
        complete=states.count(State.COMPLETE),
        pruned=states.count(State.PRUNED),
        diverged=states.count(State.DIVERGED),
        failed=states.count(State.FAILED) + states.count(State.OOM),
        epochs=sum(len(trial.epochs) for trial in trials),
        seconds=sum(trial.seconds for trial in trials),
        winner=None if winner is None else winner.number,
        val=None if winner is None else winner.epochs[-1][spec.metric.key],
        tests=dict(tests),
        comparison=comparison,
    )
