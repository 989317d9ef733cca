"""How a benchmark measures: ours and a peer in turn, judged by the ratio within each pair.

The machines are shared and their speed drifts: two figures measured next to each other drift together, so their ratio
says more than either.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Side = Callable[[], float]
"""Runs once and returns the figure, in the comparison's unit."""


@dataclass(frozen=True)
class Goal:
    """What a median is meant to be, of ratios or of values: ``at`` least or at most ``value``."""

    value: float
    at: Literal["least", "most"]

    def met(self, value: float) -> bool:
        """Whether a median is what was aimed at."""
        return value >= self.value if self.at == "least" else value <= self.value


@dataclass(frozen=True)
class Comparison:
    """Ours against one peer.

    Args:
        title: what was measured.
        peer: what it was compared with.
        unit: of the figures, such as ``trials/h`` or ``s``.
        ours, theirs: the figures, pair by pair.
        goal: on the median of ours / theirs, if there is one.
    """

    title: str
    peer: str
    unit: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    goal: Goal | None = None

    def ratios(self) -> list[float]:
        """Ours / theirs, pair by pair."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    def ratio(self) -> float:
        """The median of ``ratios``."""
        return statistics.median(self.ratios())


@dataclass(frozen=True)
class Figure:
    """What was measured of ours alone.

    Args:
        title: what was measured.
        unit: of the values.
        values: one a run.
        goal: on their median, if there is one.
    """

    title: str
    unit: str
    values: tuple[float, ...]
    goal: Goal | None = None

    def median(self) -> float:
        """Of the values."""
        return statistics.median(self.values)


@dataclass(frozen=True)
class Result:
    """What a benchmark came to.

    Args:
        how: in one or two sentences, what was run: data, size, seeds, what is counted.
        comparisons: against each peer.
        details: more of it, for the record.
        figures: of ours alone.
    """

    how: str
    comparisons: tuple[Comparison, ...] = ()
    details: Mapping[str, object] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()


def interleaved(
    ours: Side, theirs: Side, pairs: int, *, warmup: int = 0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Figures of both sides, run in turn: A B, B A, A B, so that neither always comes first.

    Args:
        pairs: counted pairs.
        warmup: pairs before them that are not counted.
    """
    figures: tuple[list[float], list[float]] = ([], [])
    for number in range(warmup + pairs):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            figure = (ours, theirs)[side]()
            counted = number >= warmup
            say(
                f"pair {number + 1}/{warmup + pairs}: {('ours', 'peer')[side]} {figure:.4g}"
                + " (warm-up)" * (not counted)
            )
            if counted:
                figures[side].append(figure)
    return tuple(figures[0]), tuple(figures[1])


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def say(line: str) -> None:
    """Progress, on standard error."""
    print(f"  {line}", file=sys.stderr, flush=True)
