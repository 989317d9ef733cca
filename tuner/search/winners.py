"""Who won: the trials of an arm in order, the winner of each search, and the setting that is confirmed."""

import statistics
from collections.abc import Callable, Iterable, Mapping

from trainables.catalog import is_dotted
from trainables.schedules import Schedule
from tuner.jobs.record import Record, Trial
from tuner.spec import trial_config
from tuner.spec.search_spec import SearchSpec
from tuner.spec.trial_config import SearchSeeds
from tuner.storage.events import RoundBegun, Stage, State


def ranked(record: Record, spec: SearchSpec, arm: str, search: int | None = None) -> list[Trial]:
    """The COMPLETE trials of an arm, best first by the validation metric at the last epoch; of one search if given."""
    complete = [trial for trial in record.of(Stage.SEARCH, arm, search=search) if trial.state == State.COMPLETE]
    return sorted(complete, key=lambda trial: (-_score(trial, spec), trial.search, trial.number))


def search_winner(record: Record, spec: SearchSpec, arm: str, search: int) -> Trial | None:
    """The best trial of one search of an arm; None if no trial of it is COMPLETE."""
    return next(iter(ranked(record, spec, arm, search)), None)


def candidates(record: Record, spec: SearchSpec, arm: str) -> list[Trial]:
    """The settings of an arm that may be confirmed, best first: of several searches, only their winners."""
    trials = ranked(record, spec, arm)
    if spec.searches:
        best: dict[int, Trial] = {}
        for trial in trials:
            best.setdefault(trial.search, trial)
        trials = list(best.values())
    return trials[: spec.confirm.top_k]


def winners(record: Record, spec: SearchSpec) -> Mapping[str, Trial]:
    """The winner of each arm by validation: the best trial, or the setting with the best mean over selection seeds.

    An arm without a COMPLETE trial has no winner. A setting that failed on a selection seed wins only if all settings
    failed on one.
    """
    found = {}
    for arm in record.arms:
        if best := candidates(record, spec, arm):
            means = {trial.key: _selection_mean(record, spec, trial) for trial in best}
            # ``max`` keeps the first of equals: the one that was better in the search.
            found[arm] = max(best, key=lambda trial: means[trial.key])
    return found


def of_round(record: Record, confirm_round: RoundBegun) -> Mapping[str, Trial]:
    """The trials that found the settings of a round, by arm."""
    wanted = {(arm, confirm_round.searches.get(arm, 0), number) for arm, number in confirm_round.winners.items()}
    found = {trial.arm: trial for trial in record.of(Stage.SEARCH) if (trial.arm, trial.search, trial.number) in wanted}
    return {arm: found[arm] for arm in confirm_round.winners if arm in found}


def confirm_values(record: Record, arm: str, round_number: int) -> dict[int, float]:
    """Seed to judged value of the arm's confirm runs of a round; those that were lost are missing.

    The judged value is the test accuracy, or the judge metric of the user's trainables. A run that diverged has the
    value of ``lost_value``, because diverging is a property of its setting.
    """
    runs = record.of(Stage.CONFIRM, arm, round_number=round_number)
    return _values(record, runs, lambda: lost_value(record, round_number))


def diverged_seeds(record: Record, arm: str, round_number: int) -> frozenset[int]:
    """The seeds of a round on which an arm's confirm run diverged, so that its value is no value of the user's metric.

    Empty for the built-in trainer, where the accuracy of a guess is as good as that of a run that diverged.
    """
    runs = record.of(Stage.CONFIRM, arm, round_number=round_number) if record.metric.own else []
    return frozenset(run.seed for run in runs if run.state == State.DIVERGED)


def diverged_searches(record: Record, spec: SearchSpec, arm: str) -> frozenset[int]:
    """The same for searches: those with a confirm run that diverged, and those without a winner because of the trials.

    A search that a machine has lost is none of them.
    """
    if not record.metric.own:
        return frozenset()
    runs = record.of(Stage.CONFIRM, arm, round_number=0)
    found = {run.search for run in runs if run.state == State.DIVERGED}
    for search in {trial.search for trial in record.of(Stage.SEARCH, arm)}:
        if search_has_ended(record, spec, arm, search) and _has_diverged(record, spec, arm, search):
            found.add(search)
    return frozenset(found)


def search_values(
    record: Record, spec: SearchSpec, arm: str, at: int | None = None, before: int | None = None
) -> dict[int, float]:
    """Search to judged value of its winner, as the mean over the search's confirm seeds.

    A search whose trials all diverged or were pruned, and a confirm run that diverged, have the value of
    ``lost_value``. A search that has no winner because of a machine, that lost a confirm run to one, or that has not
    ended, is missing.

    Args:
        record: the job's record.
        spec: the job's spec.
        arm: the arm's name.
        at: only searches up to this number, as if there were no others; default: all.
        before: number of the journal's entry up to which runs count for ``lost_value``; default: all.
    """
    found = {}
    for search in sorted({trial.search for trial in record.of(Stage.SEARCH, arm)}):
        value = _search_value(record, spec, arm, search, at, before) if at is None or search <= at else None
        if value is not None:
            found[search] = value
    return found


def lost_value(record: Record, round_number: int = 0, at: int | None = None, before: int | None = None) -> float | None:
    """What counts in place of the judged value of a confirm run that diverged; None if nothing can.

    For the built-in trainer this is chance: the accuracy of a guess, which old journals do not tell. A metric of the
    user's has no chance. Its worst value among the confirm runs so far counts, so that diverging never helps an arm.

    Args:
        record: the job's record.
        round_number: only confirm runs up to this round count as those so far: a verdict must not change later.
        at: and only those of searches up to this number; default: of all.
        before: and only those that ended before this entry of the journal: an arm that an extension takes up again
            adds runs of earlier searches. Default: all.
    """
    metric = record.metric
    if not metric.own:
        return 1 / record.job.classes if record.job.classes else None
    values = [
        run.result.metric(metric.judged)
        for run in record.of(Stage.CONFIRM)
        if run.state == State.COMPLETE and run.result is not None
        if run.round <= round_number and (at is None or run.search <= at)
        if before is None or (run.ended_n or 0) < before
    ]
    return (min if metric.judge_maximize else max)(values, default=None)


def schedule_of(record: Record, spec: SearchSpec, trial: Trial) -> Schedule | None:
    """The schedule of a trial; None if only the user's code knows it: an own trainable, or an own schedule."""
    if is_dotted(str(trial.hyper.get("schedule", ""))):
        return None
    return trial_config.schedule_of(spec, record.plan, trial.arm, trial.hyper)


def search_has_ended(record: Record, spec: SearchSpec, arm: str, search: int) -> bool:
    """Whether all trials of one search of an arm have ended."""
    begun = record.group(Stage.SEARCH, arm, search=search)
    spent = len(begun.trials) == spec.budget.trials or epochs_are_spent(record, spec, arm, search)
    return spent and not begun.running


def epochs_are_spent(record: Record, spec: SearchSpec, arm: str, search: int) -> bool:
    """Whether the trials of one search of an arm have used its epochs, if those are limited."""
    cap = spec.budget.epochs_per_search
    return cap is not None and record.group(Stage.SEARCH, arm, search=search).epochs >= cap


def _search_value(
    record: Record, spec: SearchSpec, arm: str, search: int, at: int | None, before: int | None
) -> float | None:
    if not search_has_ended(record, spec, arm, search):
        return None
    if search_winner(record, spec, arm, search) is None:
        return lost_value(record, at=at, before=before) if _has_diverged(record, spec, arm, search) else None
    runs = record.of(Stage.CONFIRM, arm, search=search, round_number=0)
    by_seed = _values(record, runs, lambda: lost_value(record, at=at, before=before))
    # A mean over fewer seeds would be no equal of the other units.
    return statistics.fmean(by_seed.values()) if by_seed.keys() == set(SearchSeeds.of(spec, search).confirm) else None


def _has_diverged(record: Record, spec: SearchSpec, arm: str, search: int) -> bool:
    """Whether a search that has ended has no winner, and no machine has lost it."""
    states = {trial.state for trial in record.of(Stage.SEARCH, arm, search=search)}
    # A trial that was pruned was worse than one that diverged later.
    return search_winner(record, spec, arm, search) is None and states <= {State.DIVERGED, State.PRUNED}


def _values(record: Record, runs: Iterable[Trial], lost: Callable[[], float | None]) -> dict[int, float]:
    found = {}
    judged = record.metric.judged
    for run in runs:
        if run.state == State.COMPLETE and run.result is not None:
            found[run.seed] = run.result.metric(judged)
        elif run.state == State.DIVERGED and (value := lost()) is not None:
            found[run.seed] = value
    return found


def _score(trial: Trial, spec: SearchSpec) -> float:
    value = trial.epochs[-1].metric(spec.metric.key)
    return value if spec.metric.maximize else -value


def _selection_mean(record: Record, spec: SearchSpec, candidate: Trial) -> float:
    runs = [
        trial
        for trial in record.of(Stage.SELECT, candidate.arm, search=candidate.search)
        if trial.number == candidate.number
    ]
    done = [trial for trial in runs if trial.state == State.COMPLETE]
    if not runs:
        return _score(candidate, spec)
    if len(done) < len(runs):
        return float("-inf")
    return statistics.fmean(_score(trial, spec) for trial in done)
