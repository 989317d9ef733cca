"""Confirm runs: each arm's winner, chosen on validation, trained in full on fresh seeds that all arms share."""

import statistics
from collections.abc import Callable, Mapping, Sequence

from trainables.config import TrialConfig
from trainables.hyper import Hyper
from tuner.record import Record, Stage, State, Trial
from tuner.spec import SearchSpec
from tuner.work import Ended, Work

SELECTION_SEEDS_FROM = 10_000
CONFIRM_SEEDS_FROM = 100_000

MakeTrial = Callable[[Hyper, int], TrialConfig]


class ListSource:
    """Gives those of a fixed list of trials that have not ended; what becomes of them is read from the record."""

    def __init__(self, works: Sequence[Work], record: Record) -> None:
        ended = {key for key, trial in record.trials.items() if trial.state != State.RUNNING}
        self._works = iter([work for work in works if work.key not in ended])

    def next(self) -> Work | None:
        """The next of the list."""
        return next(self._works, None)

    def ended(self, work: Work, ended: Ended) -> None:
        """Nothing is decided from it."""


def selection_seeds(spec: SearchSpec) -> tuple[int, ...]:
    """Seeds on which an arm's best settings are compared when more than one is."""
    return tuple(spec.seed + SELECTION_SEEDS_FROM + index for index in range(spec.confirm.selection_seeds))


def confirm_seeds(spec: SearchSpec, round_number: int, count: int) -> tuple[int, ...]:
    """The fresh seeds of a round, from 1: no seed of the search, the selection or another round is among them."""
    return tuple(spec.seed + CONFIRM_SEEDS_FROM * round_number + index for index in range(count))


def ranked(record: Record, spec: SearchSpec, arm: str) -> list[Trial]:
    """The arm's COMPLETE trials, the best by the validation metric at the last epoch first."""
    complete = [trial for trial in record.of(Stage.SEARCH, arm) if trial.state == State.COMPLETE]
    return sorted(complete, key=lambda trial: (-_score(trial, spec), trial.number))


def selection_works(record: Record, spec: SearchSpec, make_trial: MakeTrial) -> list[Work]:
    """The best ``top_k`` settings of each arm on the selection seeds; none where only one is to be confirmed."""
    if spec.confirm.top_k == 1:
        return []
    return [
        Work(
            key=f"{Stage.SELECT}/{arm}/{trial.number}/{seed}",
            stage=Stage.SELECT,
            arm=arm,
            number=trial.number,
            trial=make_trial(Hyper(**trial.hyper), seed),
        )
        for seed in selection_seeds(spec)
        for arm in record.arms
        for trial in ranked(record, spec, arm)[: spec.confirm.top_k]
    ]


def winners(record: Record, spec: SearchSpec) -> Mapping[str, Trial]:
    """Each arm's winner by validation: the best trial, or the best mean over the selection seeds.

    An arm none of whose trials is COMPLETE has none. A setting that failed on a selection seed is no candidate
    unless all did.
    """
    found = {}
    for arm in record.arms:
        candidates = ranked(record, spec, arm)[: spec.confirm.top_k]
        if candidates:
            means = {trial.number: _selection_mean(record, spec, trial) for trial in candidates}
            # ``max`` keeps the first of equals: the one that was better in the search.
            found[arm] = max(candidates, key=lambda trial: means[trial.number])
    return found


def confirm_works(
    spec: SearchSpec,
    chosen: Mapping[str, Trial],
    seeds: Sequence[int],
    round_number: int,
    make_trial: MakeTrial,
    weights: Callable[[str, int], str],
) -> list[Work]:
    """Every arm's winner on every seed; the first seed's weights are kept."""
    return [
        Work(
            key=f"{Stage.CONFIRM}/{arm}/{round_number}/{seed}",
            stage=Stage.CONFIRM,
            arm=arm,
            number=winner.number,
            trial=make_trial(Hyper(**winner.hyper), seed),
            round=round_number,
            weights_path=weights(arm, round_number) if seed == seeds[0] else None,
        )
        for seed in seeds
        for arm, winner in chosen.items()
    ]


def test_accuracies(record: Record, arm: str, round_number: int) -> dict[int, float]:
    """Seed to test accuracy, of the arm's confirm runs that finished."""
    return {
        trial.seed: float(trial.result["test_acc"])
        for trial in record.of(Stage.CONFIRM, arm, round_number)
        if trial.state == State.COMPLETE
    }


def _score(trial: Trial, spec: SearchSpec) -> float:
    value = float(trial.epochs[-1][spec.metric.key])
    return value if spec.metric.goal == "maximize" else -value


def _selection_mean(record: Record, spec: SearchSpec, candidate: Trial) -> float:
    runs = [trial for trial in record.of(Stage.SELECT, candidate.arm) if trial.number == candidate.number]
    done = [trial for trial in runs if trial.state == State.COMPLETE]
    if not runs:
        return _score(candidate, spec)
    if len(done) < len(runs):
        return float("-inf")
    return statistics.fmean(_score(trial, spec) for trial in done)
