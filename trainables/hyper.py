"""``Hyper``: the checked values of all knobs of one trial's optimizer."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from trainables.errors import TrainableError
from trainables.space import Scalar


@dataclass(frozen=True)
class Hyper:
    """A trial's hyperparameters; a knob left at its default does nothing.

    Args:
        lr: peak learning rate, above 0; the schedule's factor is at most 1.
        beta1: decay of the first moment, in [0, 1).
        beta2: decay of the second moment, in [0, 1).
        eps: added to the denominator, above 0.
        l2: added to the gradient as ``l2 * w``, so it passes through the moments. At least 0.
        lambda_norm: decoupled decay, normalised by the training's length (arXiv:1711.05101, appendix B.1); it
            bypasses the moments. At least 0.
        decay_schedule: ``constant``, or ``halving`` at the article's shares of the training.
        amsgrad: use the running maximum of the second moment.
        schedule: name of the learning-rate schedule, a key of ``schedules.LR_SCHEDULES``.
        warmup: number of updates until the peak, for the schedule ``noam``.
        restarts: ``"T_0xT_mult"``, for the schedule ``restarts``: T_0 is the length of the first cycle in epochs, and
            each next cycle is T_mult times as long.

    Raises:
        TrainableError: a value is outside its range, or ``l2`` and ``lambda_norm`` are both above 0.
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    l2: float = 0.0
    lambda_norm: float = 0.0
    decay_schedule: str = "constant"
    amsgrad: bool = False
    schedule: str = "halving"
    warmup: int = 0
    restarts: str = ""

    def __post_init__(self) -> None:
        checks = {
            "lr": self.lr > 0,
            "beta1": 0 <= self.beta1 < 1,
            "beta2": 0 <= self.beta2 < 1,
            "eps": self.eps > 0,
            "l2": self.l2 >= 0,
            "lambda_norm": self.lambda_norm >= 0,
            "decay_schedule": self.decay_schedule in ("constant", "halving"),
            "warmup": self.warmup >= 0,
        }
        for knob, good in checks.items():
            if not good:
                raise TrainableError(f"{knob} is {getattr(self, knob)!r}; {RANGES[knob]}")
        if self.l2 and self.lambda_norm:
            raise TrainableError("l2 and lambda_norm are both above 0; a variant uses one kind of decay")

    @classmethod
    def of(cls, knobs: Mapping[str, Scalar]) -> "Hyper":
        """Build the hyperparameters from knobs; raise ``TrainableError`` for an unknown knob or a wrong type."""
        for knob, value in knobs.items():
            check_knob(knob, value)
        return cls(**{knob: _TYPES[knob](value) for knob, value in knobs.items()})  # type: ignore[arg-type]


RANGES: Mapping[str, str] = {
    "lr": "must be above 0",
    "beta1": "must be at least 0 and below 1",
    "beta2": "must be at least 0 and below 1",
    "eps": "must be above 0",
    "l2": "must be at least 0",
    "lambda_norm": "must be at least 0",
    "decay_schedule": "must be constant or halving",
    "amsgrad": "must be true or false",
    "schedule": "must be the name of a schedule",
    "warmup": "must be a whole number of updates, at least 0",
    "restarts": "must be written T_0xT_mult, for example 10x2",
}
"""The allowed values of each knob, in words."""

_TYPES: Mapping[str, type[bool] | type[int] | type[float] | type[str]] = {
    field.name: {"float": float, "int": int, "str": str, "bool": bool}[getattr(field.type, "__name__", str(field.type))]
    for field in dataclasses.fields(Hyper)
}

KNOBS: tuple[str, ...] = tuple(_TYPES)
"""The names of all knobs."""


def check_knob(knob: str, value: Scalar) -> None:
    """Raise ``TrainableError`` if there is no such knob or the value has the wrong type for it."""
    if knob not in _TYPES:
        raise TrainableError(f"no knob named {knob!r} (there are: {', '.join(KNOBS)})")
    wanted = _TYPES[knob]
    good = type(value) is wanted or (wanted is float and type(value) is int)
    if not good:
        raise TrainableError(f"{knob} is {value!r}; {RANGES[knob]}")
