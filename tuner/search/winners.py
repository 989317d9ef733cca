"""Who won: the trials of an arm in order, and the setting that is confirmed."""

import statistics
from collections.abc import Mapping

from tuner.jobs.record import Record, Trial
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import Stage, State


def ranked(record: Record, spec: SearchSpec, arm: str) -> list[Trial]:
    """The COMPLETE trials of an arm, best first by the validation metric at the last epoch."""
    complete = [trial for trial in record.of(Stage.SEARCH, arm) if trial.state == State.COMPLETE]
    return sorted(complete, key=lambda trial: (-_score(trial, spec), trial.number))


def winners(record: Record, spec: SearchSpec) -> Mapping[str, Trial]:
    """The winner of each arm by validation: the best trial, or the setting with the best mean over selection seeds.

    An arm without a COMPLETE trial has no winner. A setting that failed on a selection seed wins only if all settings
    failed on one.
    """
    found = {}
    for arm in record.arms:
        candidates = ranked(record, spec, arm)[: spec.confirm.top_k]
        if candidates:
            means = {trial.number: _selection_mean(record, spec, trial) for trial in candidates}
            # ``max`` keeps the first of equals: the one that was better in the search.
            found[arm] = max(candidates, key=lambda trial: means[trial.number])
    return found


def test_accuracies(record: Record, arm: str, round_number: int) -> dict[int, float]:
    """Seed to test accuracy of the arm's confirm runs that finished."""
    return {
        trial.seed: trial.result.test_acc
        for trial in record.of(Stage.CONFIRM, arm, round_number)
        if trial.state == State.COMPLETE and trial.result is not None
    }


def _score(trial: Trial, spec: SearchSpec) -> float:
    value = trial.epochs[-1].metric(spec.metric.key)
    return value if spec.metric.goal == "maximize" else -value


def _selection_mean(record: Record, spec: SearchSpec, candidate: Trial) -> float:
    runs = [trial for trial in record.of(Stage.SELECT, candidate.arm) if trial.number == candidate.number]
    done = [trial for trial in runs if trial.state == State.COMPLETE]
    if not runs:
        return _score(candidate, spec)
    if len(done) < len(runs):
        return float("-inf")
    return statistics.fmean(_score(trial, spec) for trial in done)
