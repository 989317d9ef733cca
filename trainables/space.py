"""Search-space domains: the values that a knob may take, and the scale on which they are searched.

A domain may depend on the trial's planned length (``UpdateShare``, ``Cycles``, ``MomentDecay``) or on the model's width
(``PerWidth``); ``resolve`` turns it into a plain domain for a given ``Plan`` and width. A knob may apply only where
other knobs have certain values (``Conditions``). This module imports neither torch nor optuna.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, Literal

from trainables.errors import TrainableError

Scalar = bool | int | float | str
Scale = Literal["linear", "log", "one-minus-log"]

ONE_MINUS = "one_minus_"
"""Prefix of the name under which a study knows a knob with the scale ``one-minus-log``."""

MAX_CYCLES = 8
"""Largest number of cosine cycles that is offered by default; with more, each cycle is too short for annealing."""

SAME_STEP = 1e-8
"""Share of a step by which a number may miss it: the sum of steps has rounding errors."""

LONGEST_MEMORY = 0.1
"""Longest memory of a moment that is offered by default, as a share of the planned updates."""


@dataclass(frozen=True)
class Plan:
    """A trial's planned length.

    Args:
        epochs: passes over the training images, at least 1.
        steps_per_epoch: optimizer updates per pass, at least 1 (a last, smaller batch is dropped).
        images: training images per pass; 0 if nobody asks for another batch size.
    """

    epochs: int
    steps_per_epoch: int
    images: int = field(default=0, compare=False, repr=False)

    def with_batch(self, batch_size: int) -> "Plan":
        """The plan of a trial with another batch size; itself if the images are not known.

        Raises:
            TrainableError: the images do not fill one batch.
        """
        if not self.images:
            return self
        if self.images < batch_size:
            raise TrainableError(f"batch_size {batch_size} is more than the {self.images} training images")
        return Plan(self.epochs, self.images // batch_size, self.images)

    @property
    def updates(self) -> int:
        """Optimizer updates in the whole trial."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class Float:
    """A real number in [low, high], uniform on the scale; ``one-minus-log`` is log-uniform in 1 - x.

    With a step, on the linear scale only, it is one of the numbers low, low + step, …, high.
    """

    low: float
    high: float
    scale: Scale = "linear"
    step: float | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.scale)
        if self.step is None:
            return
        if self.scale != "linear":
            raise TrainableError(f"step cannot be combined with scale {self.scale}")
        if not 0 < self.step <= self.high - self.low or (_exact(self.high) - _exact(self.low)) % _exact(self.step):
            raise TrainableError(f"step {self.step:g} does not divide the range {self.low:g} to {self.high:g}")

    def __str__(self) -> str:
        step = "" if self.step is None else f", step {self.step:g}"
        return f"{self.low:g} to {self.high:g}, {self.scale}{step}"

    def resolve(self, plan: Plan, width: float | None = None) -> "Float":
        """Itself, because it depends neither on the plan nor on the width."""
        return self

    def contains(self, value: Scalar) -> bool:
        """Whether ``value`` lies in the domain. With a step, the last bits of a value do not count."""
        if not (_is_number(value) and self.low <= float(value) <= self.high):
            return False
        return self.step is None or abs((steps := (float(value) - self.low) / self.step) - round(steps)) < SAME_STEP

    def on_grid(self, value: float) -> float:
        """The value of the domain next to ``value``, which lies between its ends: ``value`` itself without a step."""
        if self.step is None:
            return value
        return float(_exact(self.low) + round((value - self.low) / self.step) * _exact(self.step))


@dataclass(frozen=True)
class Int:
    """A whole number in [low, high], in steps of ``step`` from low; the scale is linear or log."""

    low: int
    high: int
    scale: Scale = "linear"
    step: int = 1

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.scale)
        if self.scale == "one-minus-log":
            raise TrainableError("scale one-minus-log is for numbers below 1; a whole number takes linear or log")
        if self.step < 1 or (self.high - self.low) % self.step:
            raise TrainableError(f"step {self.step} does not divide the range {self.low} to {self.high}")
        if self.scale == "log" and self.step != 1:
            raise TrainableError("step cannot be combined with scale log")

    def __str__(self) -> str:
        step = f", step {self.step}" if self.step != 1 else ""
        return f"{self.low} to {self.high}, {self.scale}{step}"

    def resolve(self, plan: Plan, width: float | None = None) -> "Int":
        """Itself, because it depends neither on the plan nor on the width."""
        return self

    def contains(self, value: Scalar) -> bool:
        """Whether ``value`` lies in the domain."""
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and self.low <= value <= self.high
            and (value - self.low) % self.step == 0
        )


@dataclass(frozen=True)
class Choice:
    """One of a few values, without an order."""

    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise TrainableError("a choice needs at least one value")
        if len({(type(value), value) for value in self.values}) < len(self.values):
            raise TrainableError(f"a choice names a value twice: {list(self.values)}")

    def __str__(self) -> str:
        return ", ".join(str(value) for value in self.values)

    def resolve(self, plan: Plan, width: float | None = None) -> "Choice":
        """Itself, because it depends neither on the plan nor on the width."""
        return self

    def contains(self, value: Scalar) -> bool:
        """Whether ``value`` is one of the choices."""
        return value in self.values


@dataclass(frozen=True)
class UpdateShare:
    """A whole number of updates, log-uniform between two shares of the trial's planned updates."""

    scale: ClassVar[Scale] = "log"
    low: float
    high: float

    def resolve(self, plan: Plan, width: float | None = None) -> Int | Choice:
        """The range in updates; both ends are at least 1 and below the planned number of updates."""
        low = max(1, math.ceil(self.low * plan.updates))
        high = min(plan.updates - 1, math.floor(self.high * plan.updates))
        if high < low:
            raise TrainableError(
                f"a warm-up of {self.low:.0%} to {self.high:.0%} of {plan.updates} updates is less than one update; "
                f"train for more epochs"
            )
        return Int(low, high, "log") if high > low else Choice((low,))


@dataclass(frozen=True)
class Cycles:
    """Cosine restarts ``"T_0xT_mult"`` (T_0 in epochs) of 2 to 8 whole cycles that end exactly with the trial."""

    scale: ClassVar[Scale] = "linear"

    def resolve(self, plan: Plan, width: float | None = None) -> Choice:
        """All such pairs with T_mult 1 or 2, fewest cycles first."""
        pairs = restart_pairs(plan.epochs)
        if not pairs:
            near = ", ".join(str(epochs) for epochs in near_restart_epochs(plan.epochs))
            raise TrainableError(
                f"no warm restarts of 2 to {MAX_CYCLES} cycles end after {plan.epochs} epochs; nearest that do: {near}"
            )
        return Choice(tuple(f"{t_0}x{t_mult}" for t_0, t_mult in pairs))


@dataclass(frozen=True)
class PerWidth:
    """A real number, log-uniform in a range whose ends are divided by the model's width.

    Args:
        low, high: the ends for a model of width 1.
        without: the range for a model that has no width.
    """

    low: float
    high: float
    without: Float
    scale: ClassVar[Scale] = "log"

    def resolve(self, plan: Plan, width: float | None = None) -> Float:
        """The range for this width; its ends have two digits."""
        if width is None:
            return self.without
        return Float(two_digits(self.low / width), two_digits(self.high / width), "log")


@dataclass(frozen=True)
class MomentDecay:
    """A moment's decay per update, log-uniform in 1 - beta, for a memory that is short beside the training.

    A decay of beta averages over about 1 / (1 - beta) updates. With a longer memory than a tenth of the training, the
    maximum of AMSGrad hardly ever differs from the moment itself.

    Args:
        low, high: the ends for a long training.
    """

    low: float
    high: float
    scale: ClassVar[Scale] = "one-minus-log"

    def resolve(self, plan: Plan, width: float | None = None) -> Float:
        """The range whose longest memory is a tenth of the planned updates, but at least twice the shortest memory.

        Without this least range, a training of up to ``10 / (1 - low)`` updates would have nothing to search.
        """
        least = two_digits((1 - self.low) / 2)
        rest = min(two_digits(1 / (LONGEST_MEMORY * plan.updates)), least)
        return Float(self.low, min(self.high, round(1 - rest, 12)), "one-minus-log")


Domain = Float | Int | Choice
PlannedDomain = Domain | UpdateShare | Cycles | PerWidth | MomentDecay


Conditions = Mapping[str, Mapping[str, tuple[Scalar, ...]]]
"""A conditional knob -> each knob that it depends on -> the values of that knob with which it applies."""


def applies(conditions: Conditions, knob: str, setting: Mapping[str, Scalar]) -> bool:
    """Whether a knob applies in a setting.

    It applies if every knob that it depends on applies too, and has one of the values. Conditions have no cycles.

    Args:
        conditions: the conditions of the search space; a knob without one always applies.
        knob: the name of the knob.
        setting: the values of other knobs, at least of those that the knob depends on.
    """
    return all(
        other in setting and applies(conditions, other, setting) and is_one_of(setting[other], values)
        for other, values in conditions.get(knob, {}).items()
    )


def condition_text(conditions: Conditions, knob: str) -> str:
    """When a knob applies, in words; empty for a knob that always applies."""
    parts = [
        f"{other} is {' or '.join(short_text(value) for value in values)}"
        for other, values in conditions.get(knob, {}).items()
    ]
    return f" (if {' and '.join(parts)})" if parts else ""


def is_one_of(value: Scalar, values: Iterable[Scalar]) -> bool:
    """Whether a value is one of several; true is not 1."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values)


def middle(domain: Domain) -> Scalar:
    """The middle of a domain on its own scale; for a choice, its first value."""
    if isinstance(domain, Choice):
        return domain.values[0]
    low, high = float(domain.low), float(domain.high)
    if domain.scale == "log":
        value = math.sqrt(low * high)
    elif domain.scale == "one-minus-log":
        value = 1 - math.sqrt((1 - low) * (1 - high))
    else:
        value = (low + high) / 2
    if isinstance(domain, Float):
        return domain.on_grid(value)
    return domain.low + round((value - domain.low) / domain.step) * domain.step


def restart_pairs(epochs: int) -> list[tuple[int, int]]:
    """Pairs (T_0, T_mult) of 2 to 8 whole cycles that end exactly after ``epochs`` epochs, fewest cycles first.

    T_mult is 1 or 2, the values of Loshchilov & Hutter 2017 (arXiv:1608.03983).
    """
    pairs = []
    for cycles in range(2, MAX_CYCLES + 1):
        for t_mult, units in ((2, 2**cycles - 1), (1, cycles)):
            if epochs % units == 0:
                pairs.append((epochs // units, t_mult))
    return pairs


def near_restart_epochs(epochs: int) -> list[int]:
    """The nearest trial lengths below and above ``epochs`` that have restart pairs."""
    below = next((e for e in range(epochs - 1, 0, -1) if restart_pairs(e)), None)
    above = next(e for e in range(epochs + 1, 2 * epochs + 3) if restart_pairs(e))
    return [e for e in (below, above) if e is not None]


def _exact(number: float) -> Decimal:
    """The decimal number that a person wrote: 0.1, and not the binary number next to it."""
    return Decimal(str(number))


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_range(low: float, high: float, scale: Scale) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise TrainableError(f"bounds must be finite, not {low} to {high}")
    if low > high:
        raise TrainableError(f"min {low} is above max {high}")
    if low == high:
        raise TrainableError(f"min and max are both {low}; put a single value under 'fixed'")
    if scale == "log" and low <= 0:
        raise TrainableError(f"scale log needs min above 0, not {low}")
    if scale == "one-minus-log" and high >= 1:
        raise TrainableError(f"scale one-minus-log needs max below 1, not {high}")


LEAST_WHOLE = 10
"""Ranges of fewer whole numbers, or of fewer steps of a real number, have no outer tenth."""


def position(domain: Domain, value: Scalar) -> float | None:
    """Where in a range a value lies on the range's scale, from 0 to 1; None for a choice and for few numbers."""
    if isinstance(domain, Choice):
        return None
    step = 1 if isinstance(domain, Int) else domain.step
    if step is not None and domain.high - domain.low < LEAST_WHOLE * step:
        return None
    return share(domain.scale, domain.low, domain.high, value)


def share(scale: str, low: float, high: float, value: Scalar) -> float:
    """Where between two ends a number lies on a scale, from 0 to 1."""
    bottom, top, at = (scaled(scale, float(number)) for number in (low, high, value))
    return (at - bottom) / (top - bottom)


def scaled(scale: str, number: float) -> float:
    """A number where equal steps are equal on the scale."""
    if scale == "log":
        return math.log(number)
    return -math.log(1 - number) if scale == "one-minus-log" else number


def unscaled(domain: Float, at: float) -> float:
    if domain.scale == "log":
        return math.exp(at)
    return 1 - math.exp(-at) if domain.scale == "one-minus-log" else at


def two_digits(number: float) -> float:
    """A number rounded to two digits, so that the texts of ranges stay readable."""
    return float(f"{number:.2g}")


def short_text(value: Any) -> str:
    """A value for people: four digits are enough."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
