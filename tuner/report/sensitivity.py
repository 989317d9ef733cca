"""Sensitivity cards: the range that each setting covers in the trials close to the best one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainables.space import Choice, Domain, Scalar, short_text

ROUNDING = 1e-9
"""Allowance for rounding errors: 0.90 - 0.89 is slightly more than 0.01."""
LEAST = 3
"""Fewest trials near the best from which a range is shown."""


@dataclass(frozen=True)
class Near:
    """The values of one knob in the trials near the best one.

    Args:
        knob: the knob's name.
        best: the winner's value.
        searched: the whole searched range in words.
        low, high: the smallest and largest value near the best; None for a choice, or with too few trials.
        values: for a choice, its values near the best; else empty.
        trials: number of trials near the best, the best one included.
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
        """Whether there are enough trials near the best to show a range."""
        return self.trials >= LEAST


def near_best(
    space: Mapping[str, Domain],
    best: Mapping[str, Scalar],
    trials: Sequence[tuple[Mapping[str, Scalar], float]],
    best_value: float,
    tolerance: float,
    maximize: bool,
) -> tuple[Near, ...]:
    """Each knob's range among the trials that are at most ``tolerance`` worse than the best.

    All knobs change together. So a wide range is a fact, but a narrow one may be chance: the trials that would have
    shown a wider range may not have been sampled.

    Args:
        space: the search space.
        best: the winner's knobs. A conditional knob that does not apply to the winner has no card.
        trials: knobs and objective of each trial that finished training.
        best_value: the winner's objective.
        tolerance: accepted loss of the objective, at least 0.
        maximize: whether a larger objective is better.

    Returns:
        One entry per knob of the winner. A card counts only the trials that have its knob.
    """
    lost = [(best_value - value) if maximize else (value - best_value) for _, value in trials]
    near = [knobs for (knobs, _), loss in zip(trials, lost, strict=True) if loss <= tolerance + ROUNDING]
    return tuple(
        _near(knob, domain, best[knob], [knobs[knob] for knobs in near if knob in knobs])
        for knob, domain in space.items()
        if knob in best
    )


def _near(knob: str, domain: Domain, best: Scalar, values: Sequence[Scalar]) -> Near:
    if isinstance(domain, Choice):
        seen = tuple(value for value in domain.values if value in values)
        return Near(knob, best, str(domain), None, None, seen, len(values))
    ordered = sorted(values, key=float)
    low, high = (ordered[0], ordered[-1]) if len(values) >= LEAST else (None, None)
    return Near(knob, best, str(domain), low, high, (), len(values))


def reach(near: Near) -> str:
    """The knob's range near the best, in words."""
    if not near.enough:
        return f"too few trials to tell ({near.trials})"
    if near.low is None or near.high is None:
        return ", ".join(map(str, near.values))
    return f"{short_text(near.low)} to {short_text(near.high)}"
