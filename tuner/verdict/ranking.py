"""Computes the leaderboard from a job's record: the winners, their cost and their verdicts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tuner.jobs.job_folder import JobFolder
from tuner.jobs.record import Record, Trial
from tuner.search.winners import confirm_values, diverged_seeds, of_round, search_values, winners
from tuner.spec.search_spec import PLACEBO, SearchSpec
from tuner.storage.events import ArmDescription, RoundBegun, Stage, State
from tuner.verdict.caveats import caveats
from tuner.verdict.leaderboard import Leaderboard, Row
from tuner.verdict.looks import Standing
from tuner.verdict.method import Values, least_sd, standings
from tuner.verdict.numbers import choose_name, interval_text
from tuner.verdict.paired_test import Comparison, compare


class _Evidence(NamedTuple):
    """What the verdict on an arm rests on; the fields are as in ``Row``, ``winner`` is the best setting's trial."""

    winner: Trial | None
    tests: Mapping[int, float]
    confirmed: int
    comparison: Comparison | Standing | None


def build(record: Record, spec: SearchSpec) -> Leaderboard:
    """The leaderboard of a job's record. The job need not be finished.

    A verdict is given once. In a claim about settings it rests on the first round of confirm runs, and every later
    round is an estimate: whoever confirms again until the verdict looks good would be right too often by chance.
    """
    rounds = record.ended_rounds()
    judged = rounds[-1] if rounds and spec.searches else next(iter(rounds), None)
    number = judged.round if judged else 0
    chosen = {**winners(record, spec), **(of_round(record, judged) if judged else {})}
    confirmed = {arm: confirm_values(record, arm, number) if judged else {} for arm in record.arms}
    tests = {arm: search_values(record, spec, arm) for arm in record.arms} if spec.searches else confirmed
    compared: Mapping[str, Comparison | Standing] = {}
    if spec.searches:
        compared = standings(record, spec)
    elif judged:
        compared = _comparisons(record, spec, tests, number)
    evidence = {
        arm: _Evidence(chosen.get(arm), tests[arm], _complete(record, arm, number), compared.get(arm))
        for arm in record.arms
    }
    rows = tuple(_row(record, spec, arm, evidence[arm.name]) for arm in record.job.arms)
    return Leaderboard(
        job=record.name,
        state=record.state,
        baseline=record.baseline,
        metric=choose_name(spec.metric),
        claim=spec.claim,
        looks=tuple(look.searches for look in record.looks),
        placebo=PLACEBO if spec.placebo else "",
        round=number,
        seeds=judged.seeds if judged else (),
        margin=spec.confirm.margin,
        rows=rows,
        warnings=(*_estimates(record, spec, rounds[1:]), *caveats(record, spec, rows, chosen)),
        measured=spec.metric,
    )


def _complete(record: Record, arm: str, number: int) -> int:
    """How many confirm runs of an arm trained to the end, in a round; 0 in round 0."""
    runs = record.of(Stage.CONFIRM, arm, round_number=number) if number else []
    return sum(run.state == State.COMPLETE for run in runs)


def _comparisons(record: Record, spec: SearchSpec, tests: Values, number: int) -> dict[str, Comparison]:
    others = {arm: values for arm, values in tests.items() if arm != record.baseline}
    found = compare(
        tests[record.baseline],
        others,
        spec.confirm.margin,
        floor=least_sd(record, spec, tests),
        metric=spec.metric,
        diverged={"" if arm == record.baseline else arm: diverged_seeds(record, arm, number) for arm in tests},
    )
    return {comparison.arm: comparison for comparison in found}


def _estimates(record: Record, spec: SearchSpec, later: Sequence[RoundBegun]) -> Iterator[str]:
    """Yields what the rounds of confirm runs after the first one estimate."""
    for confirm_round in later if not spec.searches else ():
        tests = {arm: confirm_values(record, arm, confirm_round.round) for arm in record.arms}
        unit = "points" if spec.metric.in_points else spec.metric.judged
        found = [
            f"{c.arm} {interval_text(spec.metric, c.mean_diff, c.low, c.high)}"
            for c in _comparisons(record, spec, tests, confirm_round.round).values()
            if c.mean_diff is not None
        ]
        yield (
            f"round {confirm_round.round} of confirm runs, on {len(confirm_round.seeds)} other seeds, estimates the "
            f"differences in {unit} as {', '.join(found)}; this is no second verdict: round 1 has given it"
        )


def _row(record: Record, spec: SearchSpec, arm: ArmDescription, found: _Evidence) -> Row:
    trials, winner = record.of(Stage.SEARCH, arm.name), found.winner
    states = [trial.state for trial in trials]
    return Row(
        arm=arm.name,
        variant=arm.variant,
        baseline=spec.baseline_of(arm.name),
        knobs=len(arm.space),
        trials=len(trials),
        complete=states.count(State.COMPLETE),
        pruned=states.count(State.PRUNED),
        diverged=states.count(State.DIVERGED),
        failed=states.count(State.FAILED) + states.count(State.OOM),
        epochs=sum(len(trial.epochs) for trial in trials),
        seconds=sum(trial.seconds for trial in trials),
        winner=None if winner is None else winner.number,
        search=0 if winner is None else winner.search,
        val=None if winner is None else winner.epochs[-1].metric(spec.metric.key),
        tests=found.tests,
        confirmed=found.confirmed,
        comparison=found.comparison,
        measured=spec.metric,
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
