"""How a benchmark measures: ours and a peer run in turn, and the result is the ratio within each pair.

The machines are shared, and their speed changes over time. Two figures that are measured directly after each other
change together, so their ratio is more reliable than the figures.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Side = Callable[[], float]
"""A function that runs one side once and returns the figure, in the unit of the comparison."""


@dataclass(frozen=True)
class Goal:
    """A goal for the median of ratios or values: ``at`` least or at most ``value``."""

    value: float
    at: Literal["least", "most"]

    def met(self, value: float) -> bool:
        """Whether a median meets the goal."""
        return value >= self.value if self.at == "least" else value <= self.value


@dataclass(frozen=True)
class Comparison:
    """Ours against one peer.

    Args:
        title: the measured quantity.
        peer: name of the peer.
        unit: unit of the figures, such as ``trials/h`` or ``s``.
        ours, theirs: the figures, pair by pair.
        goal: goal for the median of ours / theirs, if there is one.
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
    """A measurement of ours, without a peer.

    Args:
        title: the measured quantity.
        unit: unit of the values.
        values: one value per run.
        goal: goal for their median, if there is one.
    """

    title: str
    unit: str
    values: tuple[float, ...]
    goal: Goal | None = None

    def median(self) -> float:
        """The median of the values."""
        return statistics.median(self.values)


@dataclass(frozen=True)
class Result:
    """The result of a benchmark.

    Args:
        how: a few sentences about the run: data, size, seeds, and the meaning of the figures.
        comparisons: one comparison per peer.
        details: more results, for the record.
        figures: measurements without a peer.
        tables: title to a table of text for the page, with its header first.
    """

    how: str
    comparisons: tuple[Comparison, ...] = ()
    details: Mapping[str, object] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    tables: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)


def interleaved(
    ours: Side, theirs: Side, pairs: int, *, warmup: int = 0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Run both sides in turn and return the figures of both.

    The order is A B, B A, A B, so that neither side is always first.

    Args:
        pairs: number of counted pairs.
        warmup: number of pairs before them that are not counted.
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
    """Print a line of progress on standard error."""
    print(f"  {line}", file=sys.stderr, flush=True)
