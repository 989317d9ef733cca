"""The leaderboard computed from a job's record: who won, at what cost, and with what verdict."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tuner.jobs.job_folder import JobFolder
from tuner.jobs.record import Record, Trial
from tuner.search.winners import test_accuracies, winners
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import ArmDescription, Stage, State
from tuner.verdict.caveats import caveats
from tuner.verdict.leaderboard import Leaderboard, Row
from tuner.verdict.paired_test import Comparison, compare


def build(record: Record, spec: SearchSpec) -> Leaderboard:
    """The leaderboard of a record, finished or not."""
    last = next(reversed(record.ended_rounds()), None)
    chosen = winners(record, spec)
    tests = {arm: test_accuracies(record, arm, last.number) if last else {} for arm in record.arms}
    comparisons = _comparisons(tests, record.baseline, spec.confirm.margin) if last else {}
    rows = tuple(
        _row(record, spec, arm, chosen.get(arm.name), tests[arm.name], comparisons.get(arm.name))
        for arm in record.job.arms
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
        warnings=(*_earlier_rounds(record, spec), *caveats(record, spec, rows, chosen)),
    )


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
    arm: ArmDescription,
    winner: Trial | None,
    tests: Mapping[int, float],
    comparison: Comparison | None,
) -> Row:
    trials = record.of(Stage.SEARCH, arm.name)
    states = [trial.state for trial in trials]
    return Row(
        arm=arm.name,
        variant=arm.variant,
        knobs=len(arm.space),
        trials=len(trials),
        complete=states.count(State.COMPLETE),
        pruned=states.count(State.PRUNED),
        diverged=states.count(State.DIVERGED),
        failed=states.count(State.FAILED) + states.count(State.OOM),
        epochs=sum(len(trial.epochs) for trial in trials),
        seconds=sum(trial.seconds for trial in trials),
        winner=None if winner is None else winner.number,
        val=None if winner is None else winner.epochs[-1].metric(spec.metric.key),
        tests=dict(tests),
        comparison=comparison,
    )


@dataclass(frozen=True)
class JobResults:
    """The results of a job, computed once and handed to leaderboard, report, exports and registry."""

    folder: JobFolder
    record: Record
    spec: SearchSpec
    board: Leaderboard


def job_results(folder: JobFolder, record: Record | None = None) -> JobResults:
    """The results of a job as it stands.

    Args:
        folder: the job's.
        record: what its journal says, where that is known already; else the journal is read.

    Raises:
        NotFound: the job has not begun.
        IntegrityError: the journal is damaged.
    """
    record = folder.record() if record is None else record
    return JobResults(folder, record, record.spec, build(record, record.spec))
