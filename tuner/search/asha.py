"""Early stopping: ASHA per study, or asynchronous HyperBand; both know about warm-up and restarts.

Li et al. 2020 (arXiv:1810.05934), in its stopping form. Two departures: a rung stops a trial only after
``reduction_factor`` values, and at least ``LEAST``; and a trial is judged only where its value means something
(``judged_epochs``).
"""

import math
from bisect import bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from trainables.schedules import Schedule

LEAST = 3
"""Fewest values at a rung before it stops a trial. With fewer, a short search may train one trial only to its end."""


def rungs(first: int, reduction_factor: int, epochs: int) -> tuple[int, ...]:
    """Epochs ``first``, ``first * reduction_factor``, … below ``epochs``."""
    found = []
    rung = first
    while rung < epochs:
        found.append(rung)
        rung *= reduction_factor
    return tuple(found)


def bracket(number: int, reduction_factor: int, brackets: int) -> int:
    """The bracket of a trial: 1 in ``reduction_factor`` trials skips the first rung, 1 in its square skips two, ….

    HyperBand (Li et al. 2018, arXiv:1603.06560) gives each more patient bracket fewer trials. Here the trial's number
    decides, so that every arm gets the same brackets.
    """
    found = 0
    while found < brackets - 1 and (number + 1) % reduction_factor ** (found + 1) == 0:
        found += 1
    return found


def judged_epochs(schedule: Schedule, at: Sequence[int]) -> tuple[int, ...]:
    """The epochs at which a trial is judged, given its rungs.

    A rung before the end of warm-up is skipped. With restarts the learning rate swings within a cycle, and the accuracy
    with it. So each rung is replaced by the first cycle end at or after it.
    """
    ends = schedule.cycle_ends()
    if ends is None:
        return tuple(rung for rung in at if rung >= schedule.warmup_epochs())
    inner = [end for end in ends if end < schedule.plan.epochs]
    return tuple(sorted({next(end for end in inner if end >= rung) for rung in at if rung <= max(inner, default=0)}))


def comparable_epochs(schedule: Schedule, at: Sequence[int]) -> tuple[int, ...]:
    """The epochs at which a trial's value may be compared within its arm; ``judged_epochs`` are among them."""
    ends = schedule.cycle_ends()
    if ends is None:
        return judged_epochs(schedule, at)
    return tuple(end for end in ends if end < schedule.plan.epochs)


class Rungs:
    """The values at each epoch, in one bracket of one study."""

    def __init__(self, reduction_factor: int) -> None:
        self._factor = reduction_factor
        self._seen: Counter[int] = Counter()
        self._sorted: dict[int, list[float]] = defaultdict(list)
        """The values at each epoch in rising order, so that nobody has to compare with each of them."""

    def record(self, epoch: int, value: float) -> None:
        """Keep a value (larger is better), to compare others at this epoch with it."""
        self._seen[epoch] += 1
        # NaN has no place in an order. It is better than no value, and no value is better than it.
        if not math.isnan(value):
            insort(self._sorted[epoch], value)

    def survives(self, epoch: int, value: float) -> bool:
        """Whether a recorded value is among the best 1/reduction_factor, rounded up, at its epoch."""
        seen, known = self._seen[epoch], self._sorted[epoch]
        if seen < max(LEAST, self._factor):
            return True
        better = 0 if math.isnan(value) else len(known) - bisect_right(known, value)
        return better < -(-seen // self._factor)


@dataclass(frozen=True)
class JudgedEpochs:
    """The epochs at which a trial is judged, and the trials it is compared with.

    Args:
        key: the trial's name in the job.
        study, bracket: it is compared with trials of the same study, that is one search of one arm, and bracket.
        at, comparable: epochs; see ``judged_epochs`` and ``comparable_epochs``.
    """

    key: str
    study: str
    bracket: int
    at: tuple[int, ...]
    comparable: tuple[int, ...]


class EarlyStopper:
    """Stops a trial that does not survive a rung of its own study and bracket.

    Args:
        metric: the field of an epoch's report that it compares.
        maximize: whether larger values are better.
        reduction_factor: one in this many trials passes each rung.
    """

    def __init__(self, metric: str, maximize: bool, reduction_factor: int) -> None:
        self.metric = metric
        self._sign = 1.0 if maximize else -1.0
        self._peers: dict[tuple[str, int], Rungs] = defaultdict(lambda: Rungs(reduction_factor))
        self._seen: set[tuple[str, int]] = set()
        self._out: set[str] = set()

    def stops(self, judged: JudgedEpochs, epoch: int, value: float) -> bool:
        """Take a value, and say whether the trial ends here. A repeated report never ends it: it has passed."""
        self._out.discard(judged.key)
        if epoch not in judged.comparable or (judged.key, epoch) in self._seen:
            return False
        self._seen.add((judged.key, epoch))
        peers = self._peers[judged.study, judged.bracket]
        peers.record(epoch, self._sign * value)
        if epoch not in judged.at or peers.survives(epoch, self._sign * value):
            return False
        self._out.add(judged.key)
        return True

    def has_stopped(self, key: str) -> bool:
        """Whether the trial's last report ended it. Its driver may have died before it could write that down."""
        return key in self._out
