"""Confirm runs: each arm's winner, chosen on validation, trained in full on fresh seeds that all arms share."""

from collections.abc import Callable, Mapping, Sequence

from trainables.config import TrialConfig
from trainables.hyper import Hyper
from tuner.jobs.record import Record, Stage, State, Trial
from tuner.search.trial_request import TrialOutcome, TrialRequest
from tuner.search.winners import ranked
from tuner.spec.search_spec import SearchSpec

SELECTION_SEEDS_FROM = 10_000
CONFIRM_SEEDS_FROM = 100_000

MakeTrial = Callable[[Hyper, int], TrialConfig]


class FixedSource:
    """Gives those of a fixed list of trials that have not ended; what becomes of them is read from the record."""

    def __init__(self, requests: Sequence[TrialRequest], record: Record) -> None:
        ended = {key for key, trial in record.trials.items() if trial.state != State.RUNNING}
        self._works = iter([request for request in requests if request.key not in ended])

    def next(self) -> TrialRequest | None:
        """The next of the list."""
        return next(self._works, None)

    def ended(self, request: TrialRequest, ended: TrialOutcome) -> None:
        """Nothing is decided from it."""


def selection_seeds(spec: SearchSpec) -> tuple[int, ...]:
    """Seeds on which an arm's best settings are compared when more than one is."""
    return tuple(spec.seed + SELECTION_SEEDS_FROM + index for index in range(spec.confirm.selection_seeds))


def confirm_seeds(spec: SearchSpec, round_number: int, count: int) -> tuple[int, ...]:
    """The fresh seeds of a round, from 1: no seed of the search, the selection or another round is among them."""
    return tuple(spec.seed + CONFIRM_SEEDS_FROM * round_number + index for index in range(count))


def selection_requests(record: Record, spec: SearchSpec, make_trial: MakeTrial) -> list[TrialRequest]:
    """The best ``top_k`` settings of each arm on the selection seeds; none where only one is to be confirmed."""
    if spec.confirm.top_k == 1:
        return []
    return [
        TrialRequest(
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


def confirm_requests(
    spec: SearchSpec,
    chosen: Mapping[str, Trial],
    seeds: Sequence[int],
    round_number: int,
    make_trial: MakeTrial,
    weights: Callable[[str, int], str],
) -> list[TrialRequest]:
    """Every arm's winner on every seed; the first seed's weights are kept."""
    return [
        TrialRequest(
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
