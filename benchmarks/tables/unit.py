"""The unit cube of a search space: the position of each knob in its range, on its search scale."""

import math
from collections.abc import Mapping, Sequence

from trainables.space import Choice, Domain, Float, Int, Scalar, share

DIGITS = 6
"""Significant digits of a value from the cube. A table holds exactly the value that was trained."""


def setting(space: Mapping[str, Domain], point: Sequence[float]) -> dict[str, Scalar]:
    """The knobs at a point of the cube [0, 1)."""
    return {knob: _value(domain, at) for (knob, domain), at in zip(space.items(), point, strict=True)}


def distance(space: Mapping[str, Domain], one: Mapping[str, Scalar], other: Mapping[str, Scalar]) -> float:
    """Squared distance of two settings in the cube. Two different choices have the distance 1."""
    return sum(_gap(domain, one[knob], other[knob]) ** 2 for knob, domain in space.items())


def _gap(domain: Domain, one: Scalar, other: Scalar) -> float:
    if isinstance(domain, Choice):
        return float(one != other)
    return share(domain.scale, domain.low, domain.high, one) - share(domain.scale, domain.low, domain.high, other)


def _value(domain: Domain, at: float) -> Scalar:
    match domain:
        case Choice():
            return domain.values[int(at * len(domain.values))]
        case Int():
            # Every whole number has its own part of the scale, also the first and the last one.
            half = domain.step / 2
            steps = (_between(domain.scale, domain.low - half, domain.high + half, at) - domain.low) / domain.step
            return min(domain.high, domain.low + max(0, round(steps)) * domain.step)
        case Float():
            value = float(f"{_between(domain.scale, domain.low, domain.high, at):.{DIGITS}g}")
            return min(domain.high, max(domain.low, value))


def _between(scale: str, low: float, high: float, at: float) -> float:
    match scale:
        case "log":
            return low * math.pow(high / low, at)
        case "one-minus-log":
            return 1 - (1 - low) * math.pow((1 - high) / (1 - low), at)
    return low + at * (high - low)
