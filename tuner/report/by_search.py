"""What several searches of an arm show beside the verdict: the share that it won, and the epochs to a target."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import betaincinv

from tuner.jobs.record import Trial
from tuner.storage.events import State

LEVEL = 0.95


@dataclass(frozen=True)
class Won:
    """The searches in which an arm was better than its baseline, among those that both have.

    Args:
        searches: how many it won; equal results are not won.
        of: how many there are.
        low, high: the 95 % interval of the share (Clopper & Pearson 1934), in [0, 1]. It is not adjusted for looks.
    """

    searches: int
    of: int
    low: float
    high: float

    @classmethod
    def over(cls, arm: Mapping[int, float], baseline: Mapping[int, float], maximize: bool = True) -> "Won | None":
        """The share for two arms' judged values by search; None if no search has both.

        Args:
            arm, baseline: their values.
            maximize: whether a larger value is better.
        """
        shared = arm.keys() & baseline.keys()
        if not shared:
            return None
        n, tail = len(shared), (1 - LEVEL) / 2
        k = sum(arm[search] > baseline[search] if maximize else arm[search] < baseline[search] for search in shared)
        low = float(betaincinv(k, n - k + 1, tail)) if k else 0.0
        high = float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
        return cls(k, n, low, high)

    def text(self) -> str:
        """The share in words."""
        return f"{self.searches} of {self.of} [{100 * self.low:.0f}, {100 * self.high:.0f} %]"


@dataclass(frozen=True)
class ToTarget:
    """What an arm's searches spent until a trial of full length reached a target.

    Args:
        target: value of the objective.
        epochs, seconds: medians over the searches that reached it; None if none did.
        reached, of: searches that reached it, and all.
    """

    target: float
    epochs: float | None
    seconds: float | None
    reached: int
    of: int

    def text(self) -> str:
        """The medians in words."""
        if self.epochs is None or self.seconds is None:
            return f"not reached in {self.of}"
        rest = "" if self.reached == self.of else f" ({self.reached} of {self.of} searches)"
        return f"{self.epochs:g} epochs, {self.seconds:.0f} s{rest}"


def target(baseline: Sequence[Sequence[Trial]], key: str, maximize: bool) -> float | None:
    """The median over the baseline's searches of their best results; None without results.

    Args:
        baseline: the trials of each of its searches.
        key: the objective's field in an epoch's report.
        maximize: whether larger values are better.
    """
    best = max if maximize else min
    results = [found for search in baseline if (found := [trial.epochs[-1].metric(key) for trial in _whole(search)])]
    return statistics.median(best(found) for found in results) if results else None


def to_target(searches: Sequence[Sequence[Trial]], goal: float, key: str, maximize: bool) -> ToTarget:
    """What the searches of an arm spent until they reached ``goal``, counting their trials one after the other."""
    spent = [used for search in searches if (used := _spent(search, goal, key, maximize)) is not None]
    return ToTarget(
        target=goal,
        epochs=statistics.median(epochs for epochs, _ in spent) if spent else None,
        seconds=statistics.median(seconds for _, seconds in spent) if spent else None,
        reached=len(spent),
        of=len(searches),
    )


def _spent(search: Sequence[Trial], goal: float, key: str, maximize: bool) -> tuple[int, float] | None:
    epochs, seconds = 0, 0.0
    for trial in search:
        epochs, seconds = epochs + len(trial.epochs), seconds + trial.seconds
        if trial.state == State.COMPLETE:
            value = trial.epochs[-1].metric(key)
            if value >= goal if maximize else value <= goal:
                return epochs, seconds
    return None


def _whole(search: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in search if trial.state == State.COMPLETE]
