"""What a sampler is shown of a long study, so that asking it costs the same however long the study is."""

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
    """The best and the newest of a study's trials that gave a result, and all that have not ended.

    Which these are depends on the trials alone: a study that is opened again shows the same. A trial that has ended
    is looked at once.

    Args:
        best, newest: how many.
        has_ended: whether a trial has; then it does not change any more.
        rank: of one that has: the smaller the better, None if it gave no result. Of equals the first is better.
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
        """Those of a study's trials, all of them and in order, that a sampler is shown."""
        self._look_at(trials)
        best = {number for _, number in self._best}
        newest = islice((number for number in reversed(self._ended) if number not in best), self._newest)
        return [trials[number] for number in sorted({*best, *newest, *self._open})]

    def _look_at(self, trials: Sequence[T]) -> None:
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
"""Samplers that are shown a part of a long study: whose cost grows with every trial, and whose choice hardly does."""


BEST = 25
"""As many good trials as TPE ever tells from the others, by its own order: none of them is missed."""


NEWEST = 225
"""With so many others there are BEST good ones among them, as TPE counts (a tenth)."""


class ShownStudy(optuna.Study):
    """A study of which only some trials are seen."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        self.__setstate__(study.__getstate__())
        self._trials = trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


def tpe_rank(sign: float, trial: FrozenTrial) -> Rank | None:
    """A trial's place in TPE's order: complete ones by value, then pruned ones by how far they came, then by value."""
    if trial.state == TrialState.COMPLETE:
        assert trial.value is not None
        return 0, sign * trial.value
    if trial.state != TrialState.PRUNED:
        return None
    if not trial.intermediate_values:
        return (2,)
    step, value = max(trial.intermediate_values.items())
    return 1, -step, sign * value
