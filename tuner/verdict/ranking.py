"""Computes the leaderboard from a job's record: the winners, their cost and their verdicts."""

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
    """The leaderboard of a job's record. The job need not be finished."""
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
    """Yields the verdicts of the earlier rounds of confirm runs, if there are any.

    A user who confirms again until the verdict looks good does optional stopping. So the reader must see every verdict.
    """
    rounds = record.ended_rounds()
    earlier = []
    for confirm_round in rounds[:-1]:
        tests = {arm: test_accuracies(record, arm, confirm_round.number) for arm in record.arms}
        outcomes = _comparisons(tests, record.baseline, spec.confirm.margin).values()
        earlier.append(f"round {confirm_round.number}: " + ", ".join(f"{c.arm} {c.outcome}" for c in outcomes))
    if earlier:
        last = rounds[-1].number
        yield f"the verdict uses only the confirm runs of round {last}; the earlier verdicts: {'; '.join(earlier)}"


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
    """The results of a job. They are computed once, and the leaderboard, report, exports and registry all use them."""

    folder: JobFolder
    record: Record
    spec: SearchSpec
    board: Leaderboard


def job_results(folder: JobFolder, record: Record | None = None) -> JobResults:
    """The results of a job so far.

    Args:
        folder: the folder of the job.
        record: the record of the job, if the caller has read its journal already; else this function reads it.

    Returns:
        The folder, the record, the spec and the leaderboard of the job.

    Raises:
        NotFound: the job has not started.
        IntegrityError: the journal is damaged.
    """
    record = folder.record() if record is None else record
    return JobResults(folder, record, record.spec, build(record, record.spec))
