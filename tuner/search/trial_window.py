"""The trials of a long study that a sampler sees, so that an ask costs the same however long the study is."""

import copy
from bisect import insort
from collections.abc import Callable, Container, Sequence
from itertools import islice
from typing import Generic, TypeVar

import optuna
from optuna.trial import FrozenTrial, TrialState

T = TypeVar("T")

Rank = tuple[float, ...]


class TrialWindow(Generic[T]):
    """The best and the newest trials of a study that gave a result, and all trials that have not ended.

    The choice depends only on the trials, so a rebuilt study shows the same ones. An ended trial is ranked once.

    Args:
        best, newest: how many trials of each kind.
        has_ended: whether a trial has ended. After that it does not change any more.
        rank: rank of an ended trial: smaller is better, and None means no result. Of equals, the first is better.
    """

    def __init__(
        self, best: int, newest: int, has_ended: Callable[[T], bool], rank: Callable[[T], Rank | None]
    ) -> None:
        self._most = best
        self._newest = newest
        self._has_ended = has_ended
        self._rank = rank
        self._best: list[tuple[Rank, int]] = []
        self._ended: list[int] = []
        self._open: list[int] = []
        self._known = 0

    def shown(self, trials: Sequence[T]) -> list[T]:
        """The trials that a sampler sees, out of all trials of a study in their order."""
        self._update(trials)
        best = {number for _, number in self._best}
        newest = islice((number for number in reversed(self._ended) if number not in best), self._newest)
        return [trials[number] for number in sorted({*best, *newest, *self._open})]

    def _update(self, trials: Sequence[T]) -> None:
        numbers = [*self._open, *range(self._known, len(trials))]
        self._open, self._known = [], len(trials)
        for number in numbers:
            if not self._has_ended(trials[number]):
                self._open.append(number)
            elif (rank := self._rank(trials[number])) is not None:
                insort(self._ended, number)
                insort(self._best, (rank, number))
                del self._best[self._most :]


WINDOWED = ("tpe",)
"""Samplers that see only a part of a long study: each trial raises their cost, but hardly changes their choice."""


BEST = 25
"""TPE never takes more than this many trials as good ones, by its own order. The sampler sees all of them."""


NEWEST = 225
"""With this many other trials, TPE counts BEST good ones: a tenth of all."""


class ShownStudy(optuna.Study):
    """A study that shows only some of its trials."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        self.__setstate__(study.__getstate__())
        self._trials = trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


def tpe_rank(sign: float, trial: FrozenTrial) -> Rank | None:
    """A trial's place in TPE's order: complete trials by value, then pruned ones by last epoch and value."""
    if trial.state == TrialState.COMPLETE:
        assert trial.value is not None
        return 0, sign * trial.value
    if trial.state != TrialState.PRUNED:
        return None
    if not trial.intermediate_values:
        return (2,)
    step, value = max(trial.intermediate_values.items())
    return 1, -step, sign * value
