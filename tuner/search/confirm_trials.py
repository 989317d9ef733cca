"""The trials after a search: the best settings on selection seeds, and winners on fresh confirm seeds."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from tuner.jobs.record import Record, Trial
from tuner.search.trial_request import TrialOutcome, TrialRequest
from tuner.search.winners import candidates
from tuner.spec.search_spec import SearchSpec
from tuner.spec.trial_config import SearchSeeds, selection_seeds, trial_config
from tuner.storage.events import RoundBegun, Stage, State


class FixedSource:
    """Gives the trials of a fixed list that have not ended. Their outcomes are read from the record later."""

    def __init__(self, requests: Sequence[TrialRequest], record: Record) -> None:
        self._requests = iter(not_ended(requests, record))

    def next(self) -> TrialRequest | None:
        """The next trial of the list."""
        return next(self._requests, None)

    def ended(self, request: TrialRequest, outcome: TrialOutcome) -> None:
        """Nothing depends on it here."""


def not_ended(requests: Iterable[TrialRequest], record: Record) -> list[TrialRequest]:
    """The requests without those that have ended."""
    known = record.trials
    return [request for request in requests if request.key not in known or known[request.key].state == State.RUNNING]


def selection_requests(record: Record, spec: SearchSpec, arms: Iterable[str]) -> list[TrialRequest]:
    """The best settings of these arms on the selection seeds; none for an arm with only one setting to choose from.

    All of them train on one common split, whatever split their searches had.
    """
    found = {arm: best for arm in arms if len(best := candidates(record, spec, arm)) > 1}
    return [
        TrialRequest(
            key=f"{Stage.SELECT}/{arm}/{trial.label}/{seed}",
            stage=Stage.SELECT,
            arm=arm,
            number=trial.number,
            trial=trial_config(spec, arm, trial.hyper, seed, contiguous=record.contiguous),
            setting=trial.hyper,
            search=trial.search,
        )
        for seed in selection_seeds(spec)
        for arm, best in found.items()
        for trial in best
    ]


def search_confirm_requests(record: Record, spec: SearchSpec, winner: Trial) -> list[TrialRequest]:
    """The winner of one of several searches on the fresh seeds of that search, with the split of that search."""
    seeds = SearchSeeds.of(spec, winner.search)
    return [
        TrialRequest(
            key=f"{Stage.CONFIRM}/{winner.arm}/{winner.search}/{seed}",
            stage=Stage.CONFIRM,
            arm=winner.arm,
            number=winner.number,
            trial=trial_config(spec, winner.arm, winner.hyper, seed, seeds.split, contiguous=record.contiguous),
            setting=winner.hyper,
            search=winner.search,
        )
        for seed in seeds.confirm
    ]


def confirm_requests(
    record: Record,
    spec: SearchSpec,
    chosen: Mapping[str, Trial],
    confirm_round: RoundBegun,
    weights: Callable[[str, int], str],
) -> list[TrialRequest]:
    """The winner of every arm of a round on every seed of it; the weights of the first seed are kept.

    Args:
        record: what the job's journal says.
        spec: the job's spec.
        chosen: the winner of each arm of the round.
        confirm_round: the round.
        weights: an arm and a round's number to the file of the weights.
    """
    number, seeds = confirm_round.round, confirm_round.seeds
    prefix = f"{Stage.CONFIRM}/round" if spec.searches else Stage.CONFIRM
    return [
        TrialRequest(
            key=f"{prefix}/{arm}/{number}/{seed}",
            stage=Stage.CONFIRM,
            arm=arm,
            number=winner.number,
            trial=trial_config(spec, arm, winner.hyper, seed, contiguous=record.contiguous),
            setting=winner.hyper,
            search=winner.search,
            round=number,
            weights_path=weights(arm, number) if seed == seeds[0] and not spec.own_trainable else None,
        )
        for seed in seeds
        for arm, winner in chosen.items()
    ]
