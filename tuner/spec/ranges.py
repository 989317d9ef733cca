"""``Range``: the values that a spec allows for a knob, and their conversion to a domain."""

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from trainables.catalog import is_dotted
from trainables.errors import TrainableError, did_you_mean
from trainables.hyper import KNOBS, RANGES, Hyper
from trainables.schedules import LR_SCHEDULES, parse_restarts
from trainables.space import Choice, Domain, Float, Int, PlannedDomain, Scalar, Scale
from tuner.spec.messages import InvalidValue, shown

Kind = Literal["variant", "optimizer", "trainable"]
"""What an arm trains with."""

SCHEDULE_KNOBS = ("lr", "schedule", "warmup", "restarts")
"""Knobs of ``Hyper`` that an arm with an own optimizer has too."""

MODEL_KNOB = "model."
"""A knob ``model.NAME`` is the option NAME of an own model."""

TRAINER_KNOBS = {"batch_size": (1, 1_000_000), "augment_shift": (0, 16)}
"""Knobs of the built-in training beside the optimizer's: whole numbers, with their least and largest values."""

KNOB_NAME = r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$"

KNOB_TYPES: dict[str, type] = {knob: get_type_hints(Hyper)[knob] for knob in KNOBS}
_SMALLEST, _LARGEST = 1e-100, 1e9
LONGEST_TEXT = 20
LONGEST_FREE_TEXT = 200
"""Most characters of a text among the values of a free knob."""
NEEDS_SCHEDULE = {"warmup": "noam", "restarts": "restarts"}
"""Knobs that only one schedule uses -> that schedule."""


class Frozen(BaseModel):
    """Base of all parts of a spec. A part cannot be changed, refuses unknown keys and does not convert types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _number(value: Any) -> Any:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InvalidValue(f"is {shown(value)}; must be a number")
    return value


def _scalar(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise InvalidValue(f"is {shown(value)}; must be a number, text, true or false")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


Number = Annotated[int | float, BeforeValidator(_number)]
ScalarValue = Annotated[bool | int | float | str, BeforeValidator(_scalar)]
SomeValues = Annotated[
    tuple[ScalarValue, ...],
    BeforeValidator(lambda value: value if isinstance(value, tuple) else (value,)),
    Field(min_length=1, max_length=100),
]
"""One value, or a list of values."""
PlainValue = Annotated[Any, BeforeValidator(_plain)]
"""A value of YAML: a scalar, null, a list or a mapping."""


class Range(Frozen):
    """The values that a knob may take: an interval (min, max) or a list of values."""

    min: Number | None = Field(default=None, description="smallest value")
    max: Number | None = Field(default=None, description="largest value")
    scale: Scale | None = Field(
        default=None,
        description="scale of the interval; default: the scale of the variant if it has one, else linear",
    )
    step: Number | None = Field(
        default=None, gt=0, le=10**9, description="distance between the values, counted from min, on a linear scale"
    )
    values: tuple[ScalarValue, ...] | None = Field(
        default=None, max_length=100, description="the values to choose from"
    )
    when: dict[str, SomeValues] | None = Field(
        default=None,
        min_length=1,
        max_length=20,
        description="another knob of the arm -> the value or values of it with which this knob applies; without one of "
        "them, a trial does not have this knob",
    )

    @model_serializer(mode="wrap")
    def _without_none(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A spec without conditions keeps its fingerprint.
        values: dict[str, Any] = whole(self)
        if self.when is None:
            values.pop("when", None)
        return values

    def domain(self, knob: str, own: PlannedDomain | None = None) -> Domain:
        """The domain that this range gives to a knob.

        Args:
            knob: the name of the knob.
            own: the variant's own domain for it, if there is one. Its scale is the default scale.

        Raises:
            InvalidValue: the range is incomplete or invalid, or its values are not allowed for the knob.
        """
        check_knob_name(knob)
        domain = self._choice(knob) if self.values is not None else self._interval(knob, own)
        for value in ends(domain):
            check_value(knob, value)
        return domain

    def free_domain(self) -> Domain:
        """The domain that this range gives to a knob whose values nobody knows: an argument of the user's own code.

        Its type follows from the range: whole numbers if min, max and step are whole, real numbers if one of them is
        not, and for values a choice of just these.

        Raises:
            InvalidValue: the range is incomplete or invalid.
        """
        if self.values is not None:
            values = self._values()
            for index, value in enumerate(values):
                if isinstance(value, str) and len(value) > LONGEST_FREE_TEXT:
                    text = f"is {shown(value)}; must have at most {LONGEST_FREE_TEXT} characters"
                    raise InvalidValue(text, "values", index)
                # Optuna takes equal values for the same one: 1, 1.0 and true.
                if value in values[:index]:
                    raise InvalidValue(f"a choice names a value twice: {list(values)}", "values")
            return Choice(values)
        low, high = self._ends()
        whole = all(isinstance(value, int) for value in (low, high, self.step) if value is not None)
        return self._numbers(low, high, int if whole else float, self.scale or "linear", "")

    def _values(self) -> tuple[Scalar, ...]:
        assert self.values is not None
        other = next((key for key in ("min", "max", "scale", "step") if getattr(self, key) is not None), None)
        if other:
            raise InvalidValue("cannot be used together with values; give values, or min and max", other)
        if len(self.values) < 2:
            text = f"has {len(self.values)}; must have at least 2, put a single value under 'fixed' of an arm"
            raise InvalidValue(text, "values")
        return self.values

    def _choice(self, knob: str) -> Choice:
        values = self._values()
        for index, value in enumerate(values):
            try:
                check_value(knob, value)
            except InvalidValue as wrong:
                raise wrong.under("values", index) from None
        try:
            return Choice(tuple(KNOB_TYPES[knob](value) for value in values))
        except TrainableError as error:
            raise InvalidValue(str(error), "values") from None

    def _interval(self, knob: str, own: PlannedDomain | None) -> Float | Int:
        low, high = self._ends(knob)
        kind = KNOB_TYPES[knob]
        for key, bound in (("min", low), ("max", high), ("step", self.step)):
            if kind is int and bound is not None and not isinstance(bound, int):
                raise InvalidValue(f"is {shown(bound)}; {knob} {RANGES[knob]}", key)
        scale = self.scale or ("linear" if self.step is not None else _scale(own))
        hint = f" (the default scale of {knob} is {scale})" if not self.scale else ""
        return self._numbers(low, high, kind, scale, hint)

    def _ends(self, knob: str | None = None) -> tuple[int | float, int | float]:
        """min and max; ``knob`` is the name of a knob that may be no number."""
        if self.min is None or self.max is None:
            missing = "min" if self.min is None else "max"
            raise InvalidValue(f"{missing} is missing; a range has min and max, or values")
        if knob is not None and KNOB_TYPES[knob] not in (int, float):
            raise InvalidValue(f"{knob} is not a number ({RANGES[knob]}); give values instead of min and max")
        for key, bound in (("min", self.min), ("max", self.max)):
            if bound and not _SMALLEST <= abs(bound) <= _LARGEST:
                raise InvalidValue(
                    f"is {shown(bound)}; its absolute value must be 0, or {_SMALLEST:g} to {_LARGEST:g}", key
                )
        return self.min, self.max

    def _numbers(self, low: int | float, high: int | float, kind: type, scale: Scale, hint: str) -> Float | Int:
        try:
            if kind is float:
                return Float(float(low), float(high), scale, None if self.step is None else float(self.step))
            return Int(int(low), int(high), scale, 1 if self.step is None else int(self.step))
        except TrainableError as error:
            raise InvalidValue(f"{error}{hint if 'scale' in str(error) else ''}") from None


def ends(domain: Domain) -> Iterator[Scalar]:
    """The smallest and the largest value of a domain; for a choice, all values."""
    yield from domain.values if isinstance(domain, Choice) else (domain.low, domain.high)


def check_knob_name(knob: str) -> None:
    """Raise ``InvalidValue`` unless a knob has this name."""
    if knob not in KNOBS:
        known = (*KNOBS, *TRAINER_KNOBS)
        raise InvalidValue(f"no knob has this name; there are: {', '.join(known)}{did_you_mean(knob, known)}")


def check_value(knob: str, value: Scalar) -> None:
    """Raise ``InvalidValue`` unless the knob exists and can have this value."""
    check_knob_name(knob)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValue(f"is {value}; must be finite")
    if knob == "schedule" and isinstance(value, str) and is_dotted(value):
        return
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise InvalidValue(f"is {shown(value)}; must have at most {LONGEST_TEXT} characters")
    try:
        Hyper.of({"lr": 1e-3, knob: value})
        if knob == "restarts":
            parse_restarts(str(value))
    except TrainableError as error:
        text = str(error).partition("; ")[2] if str(error).startswith(f"{knob} is ") else str(error)
        raise InvalidValue(f"is {shown(value)}; {text}") from None
    if knob == "schedule" and value not in LR_SCHEDULES:
        raise InvalidValue(
            f"no schedule named {shown(value)}; there are: {', '.join(LR_SCHEDULES)}"
            f"{did_you_mean(str(value), LR_SCHEDULES)}"
        )


def domain_of(kind: Kind, knob: str, range_: Range, own: PlannedDomain | None = None) -> Domain:
    """The domain that a range gives to a knob of an arm.

    Args:
        kind: what the arm trains with.
        knob: the name of the knob.
        range_: the range.
        own: the variant's own domain for it, if there is one. Its scale is the default scale.

    Raises:
        InvalidValue: no such knob; or the range is incomplete or invalid, or its values are not allowed for the knob.
    """
    if _is_typed(kind, knob):
        return range_.domain(knob, own)
    domain = range_.free_domain()
    for value in ends(domain):
        check_knob(kind, knob, value)
    return domain


def check_knob(kind: Kind, knob: str, value: Any) -> None:
    """Raise ``InvalidValue`` unless an arm of this kind can have the knob with this value."""
    if _is_typed(kind, knob):
        check_value(knob, _scalar(value))
        return
    if not re.fullmatch(KNOB_NAME, knob):
        raise InvalidValue(
            "a knob's name has 1 to 64 letters, digits, '_', '.' or '-', and begins with a letter or '_'"
        )
    if kind == "trainable":
        return
    if knob in TRAINER_KNOBS:
        least, most = TRAINER_KNOBS[knob]
        if type(value) is not int or not least <= value <= most:
            raise InvalidValue(f"is {shown(value)}; must be a whole number from {least} to {most}")
    elif knob.startswith(MODEL_KNOB):
        _scalar(value)


def is_trainer_knob(knob: str) -> bool:
    """Whether a knob of the built-in training does not belong to the optimizer."""
    return knob in TRAINER_KNOBS or knob.startswith(MODEL_KNOB)


def _is_typed(kind: Kind, knob: str) -> bool:
    """Whether the knob is one of ``Hyper``'s, whose values have fixed types; for a variant, so is every other name."""
    if kind == "variant":
        return not is_trainer_knob(knob)
    return kind == "optimizer" and knob in SCHEDULE_KNOBS


def _scale(own: PlannedDomain | None) -> Scale:
    return "linear" if own is None or isinstance(own, Choice) else own.scale
