"""Who won: the trials of an arm in order, the winner of each search, and the setting that is confirmed."""

import statistics
from collections.abc import Iterable, Mapping

from tuner.jobs.record import Record, Trial
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


def test_accuracies(record: Record, arm: str, round_number: int) -> dict[int, float]:
    """Seed to test accuracy of the arm's confirm runs of a round; those that were lost are missing.

    A run that diverged counts as chance, because diverging is a property of its setting.
    """
    return _accuracies(record, record.of(Stage.CONFIRM, arm, round_number=round_number))


def search_accuracies(record: Record, spec: SearchSpec, arm: str) -> dict[int, float]:
    """Search to test accuracy of its winner, as the mean over the search's confirm seeds.

    A search whose trials all diverged or were pruned, and a confirm run that diverged, count as chance. A search that
    has no winner because of a machine, that lost a confirm run to one, or that has not ended, is missing.
    """
    found = {}
    for search in sorted({trial.search for trial in record.of(Stage.SEARCH, arm)}):
        accuracy = _search_accuracy(record, spec, arm, search)
        if accuracy is not None:
            found[search] = accuracy
    return found


def search_has_ended(record: Record, spec: SearchSpec, arm: str, search: int) -> bool:
    """Whether all trials of one search of an arm have ended."""
    begun = record.group(Stage.SEARCH, arm, search=search)
    spent = len(begun.trials) == spec.budget.trials or epochs_are_spent(record, spec, arm, search)
    return spent and not begun.running


def epochs_are_spent(record: Record, spec: SearchSpec, arm: str, search: int) -> bool:
    """Whether the trials of one search of an arm have used its epochs, if those are limited."""
    cap = spec.budget.epochs_per_search
    return cap is not None and record.group(Stage.SEARCH, arm, search=search).epochs >= cap


def _search_accuracy(record: Record, spec: SearchSpec, arm: str, search: int) -> float | None:
    if not search_has_ended(record, spec, arm, search):
        return None
    if search_winner(record, spec, arm, search) is None:
        states = {trial.state for trial in record.of(Stage.SEARCH, arm, search=search)}
        # A trial that was pruned was worse than one that diverged later: no machine has lost this search.
        return _chance(record) if states <= {State.DIVERGED, State.PRUNED} else None
    runs = record.of(Stage.CONFIRM, arm, search=search, round_number=0)
    by_seed = _accuracies(record, runs)
    # A mean over fewer seeds would be no equal of the other units.
    return statistics.fmean(by_seed.values()) if by_seed.keys() == set(SearchSeeds.of(spec, search).confirm) else None


def _accuracies(record: Record, runs: Iterable[Trial]) -> dict[int, float]:
    found = {}
    for run in runs:
        if run.state == State.COMPLETE and run.result is not None:
            found[run.seed] = run.result.test_acc
        elif run.state == State.DIVERGED and (chance := _chance(record)) is not None:
            found[run.seed] = chance
    return found


def _chance(record: Record) -> float | None:
    """The accuracy of a guess; None in old journals, which do not say the number of classes."""
    return 1 / record.job.classes if record.job.classes else None


def _score(trial: Trial, spec: SearchSpec) -> float:
    value = trial.epochs[-1].metric(spec.metric.key)
    return value if spec.metric.goal == "maximize" else -value


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
