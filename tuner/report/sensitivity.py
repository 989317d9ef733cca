"""Sensitivity cards: how far each setting could move in a search before a stated loss, as far as its trials show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainables.space import Choice, Domain, Scalar, short_text

ROUNDING = 1e-9
"""0.90 - 0.89 is a little more than 0.01."""
LEAST = 3
"""Fewer trials near the best say nothing of a range."""


@dataclass(frozen=True)
class Near:
    """What one knob was in the trials that came near the best.

    Args:
        knob: its name.
        best: the winner's value.
        searched: its whole range, in words.
        low, high: the least and the largest among the trials near the best; None for a choice, or with too few.
        values: of a choice, those among the trials near the best.
        trials: how many came near the best, the best among them.
    """

    knob: str
    best: Scalar
    searched: str
    low: Scalar | None
    high: Scalar | None
    values: tuple[Scalar, ...]
    trials: int

    @property
    def enough(self) -> bool:
        """Whether so many trials came near the best that they say something."""
        return self.trials >= LEAST


def near_best(
    space: Mapping[str, Domain],
    best: Mapping[str, Scalar],
    trials: Sequence[tuple[Mapping[str, Scalar], float]],
    best_value: float,
    tolerance: float,
    maximize: bool,
) -> tuple[Near, ...]:
    """Each knob's spread among the trials that lost no more than ``tolerance``.

    All other knobs moved with it, so that a wide spread is a fact and a narrow one may be chance: the trials that
    would have shown it may not have been drawn.

    Args:
        space: what was searched.
        best: the winner's knobs.
        trials: knobs and objective of each that trained to its end.
        best_value: the winner's objective.
        tolerance: of the objective, at least 0.
        maximize: whether larger is better.
    """
    lost = [(best_value - value) if maximize else (value - best_value) for _, value in trials]
    near = [knobs for (knobs, _), loss in zip(trials, lost, strict=True) if loss <= tolerance + ROUNDING]
    return tuple(_near(knob, domain, best[knob], [knobs[knob] for knobs in near]) for knob, domain in space.items())


def _near(knob: str, domain: Domain, best: Scalar, values: Sequence[Scalar]) -> Near:
    if isinstance(domain, Choice):
        seen = tuple(value for value in domain.values if value in values)
        return Near(knob, best, str(domain), None, None, seen, len(values))
    ordered = sorted(values, key=float)
    low, high = (ordered[0], ordered[-1]) if len(values) >= LEAST else (None, None)
    return Near(knob, best, str(domain), low, high, (), len(values))


def reach(near: Near) -> str:
    """How far it moved, in words."""
    if not near.enough:
        return f"too few trials to tell ({near.trials})"
    if near.low is None or near.high is None:
        return ", ".join(map(str, near.values))
    return f"{short_text(near.low)} to {short_text(near.high)}"
