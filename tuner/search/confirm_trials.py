"""The trials after the search: the best settings on selection seeds, and the winners on fresh confirm seeds."""

from collections.abc import Callable, Mapping, Sequence

from trainables.hyper import Hyper
from tuner.jobs.record import Record, Round, Trial
from tuner.search.trial_request import TrialOutcome, TrialRequest
from tuner.search.winners import ranked
from tuner.spec.search_spec import SearchSpec
from tuner.spec.trial_config import trial_config
from tuner.storage.events import Stage, State

SELECTION_SEEDS_FROM = 10_000
CONFIRM_SEEDS_FROM = 100_000


class FixedSource:
    """Gives the trials of a fixed list that have not ended. Their outcomes are read from the record later."""

    def __init__(self, requests: Sequence[TrialRequest], record: Record) -> None:
        ended = {key for key, trial in record.trials.items() if trial.state != State.RUNNING}
        self._requests = iter([request for request in requests if request.key not in ended])

    def next(self) -> TrialRequest | None:
        """The next trial of the list."""
        return next(self._requests, None)

    def ended(self, request: TrialRequest, outcome: TrialOutcome) -> None:
        """Nothing depends on it here."""


def selection_seeds(spec: SearchSpec) -> tuple[int, ...]:
    """The seeds on which an arm's best settings are compared, if there are several."""
    return tuple(spec.seed + SELECTION_SEEDS_FROM + index for index in range(spec.confirm.selection_seeds))


def confirm_seeds(spec: SearchSpec, round_number: int, count: int) -> tuple[int, ...]:
    """The fresh seeds of a round, counted from 1. The search, the selection and other rounds use none of them."""
    return tuple(spec.seed + CONFIRM_SEEDS_FROM * round_number + index for index in range(count))


def selection_requests(record: Record, spec: SearchSpec) -> list[TrialRequest]:
    """The best ``top_k`` settings of each arm on the selection seeds; none if only one setting is to be confirmed."""
    if spec.confirm.top_k == 1:
        return []
    return [
        TrialRequest(
            key=f"{Stage.SELECT}/{arm}/{trial.number}/{seed}",
            stage=Stage.SELECT,
            arm=arm,
            number=trial.number,
            trial=trial_config(spec, Hyper.of(trial.hyper), seed),
        )
        for seed in selection_seeds(spec)
        for arm in record.arms
        for trial in ranked(record, spec, arm)[: spec.confirm.top_k]
    ]


def confirm_requests(
    spec: SearchSpec, chosen: Mapping[str, Trial], confirm_round: Round, weights: Callable[[str, int], str]
) -> list[TrialRequest]:
    """The winner of every arm on every seed of a round; the weights of the first seed are kept.

    Args:
        spec: the job's spec.
        chosen: each arm's winner.
        confirm_round: the round.
        weights: an arm and a round's number to the file of the weights.
    """
    number, seeds = confirm_round.number, confirm_round.seeds
    return [
        TrialRequest(
            key=f"{Stage.CONFIRM}/{arm}/{number}/{seed}",
            stage=Stage.CONFIRM,
            arm=arm,
            number=winner.number,
            trial=trial_config(spec, Hyper.of(winner.hyper), seed),
            round=number,
            weights_path=weights(arm, number) if seed == seeds[0] else None,
        )
        for seed in seeds
        for arm, winner in chosen.items()
    ]
