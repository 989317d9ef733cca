"""The seconds that an arm's training took, by the state of its trials."""

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.jobs.record import Trial
from tuner.storage.events import LOST, State


@dataclass(frozen=True)
class Spent:
    """Seconds of training in one arm.

    Args:
        useful: seconds of the search trials that trained to the end or still run.
        pruned: seconds of the search trials that were pruned.
        failed: seconds of the search trials that ended without a result.
        confirm: seconds of the confirm runs.
    """

    useful: float
    pruned: float
    failed: float
    confirm: float


def spent(searched: Sequence[Trial], confirmed: Sequence[Trial]) -> Spent:
    """Sums the seconds of training of one arm.

    Args:
        searched: the trials of its search.
        confirmed: its confirm runs.

    Returns:
        The sums, rounded to 0.1 s.
    """

    def seconds(*states: State) -> float:
        return round(sum(trial.seconds for trial in searched if trial.state in states), 1)

    return Spent(
        useful=seconds(State.COMPLETE, State.RUNNING),
        pruned=seconds(State.PRUNED),
        failed=seconds(*LOST),
        confirm=round(sum(trial.seconds for trial in confirmed), 1),
    )
