"""What an arm's training cost, by what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.jobs.record import Trial
from tuner.storage.events import LOST, State


@dataclass(frozen=True)
class Spent:
    """Seconds of training by what came of them: trials that trained to their end, were pruned, or gave no result."""

    useful: float
    pruned: float
    failed: float
    confirm: float


def spent(searched: Sequence[Trial], confirmed: Sequence[Trial]) -> Spent:
    """Of the trials of its search, and of its confirm runs."""

    def seconds(*states: State) -> float:
        return round(sum(trial.seconds for trial in searched if trial.state in states), 1)

    return Spent(
        useful=seconds(State.COMPLETE, State.RUNNING),
        pruned=seconds(State.PRUNED),
        failed=seconds(*LOST),
        confirm=round(sum(trial.seconds for trial in confirmed), 1),
    )
