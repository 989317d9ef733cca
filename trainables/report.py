"""What a trial reports: one report per epoch, and one result at the end of a confirm run.

``EpochReport`` and ``ConfirmResult`` are those of the built-in training. An own trainable names its numbers itself.
Training, the journal, MLflow and the simulation all use these types. Nothing here imports torch.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

HAUNTED = "haunted"
"""Key in a worker's answer: a function of the user's does not stop, so the process must not run another trial."""


@dataclass(frozen=True, slots=True)
class EpochReport:
    """The result of one epoch.

    Args:
        epoch: number of finished epochs, from 1.
        train_loss, train_acc: means over the epoch while the weights change; loss in nats, accuracy in [0, 1].
        val_loss, val_acc: the same on the validation images, after the epoch.
        lr, weight_decay: the values at the epoch's last update.
        seconds: wall time of the epoch, evaluation included.
        diverged: the reason to give up the trial, or None.
    """

    epoch: int
    train_loss: float
    train_acc: float
    val_loss: float
    val_acc: float
    lr: float
    weight_decay: float
    seconds: float
    diverged: str | None = None

    def metric(self, key: str) -> float:
        """A value by its field's name, such as ``val_acc``."""
        return float(getattr(self, key))

    def numbers(self) -> Mapping[str, float]:
        """All numbers by name, without the epoch and its seconds."""
        return {name: getattr(self, name) for name in NUMBERS}


NUMBERS = ("train_loss", "train_acc", "val_loss", "val_acc", "lr", "weight_decay")
"""The numbers of an ``EpochReport``."""


@dataclass(frozen=True, slots=True)
class OwnReport:
    """A report of a user's own trainable.

    Args:
        epoch: the number of the report in its trial, from 1.
        values: the reported numbers by the user's names. The judge metric is not among them, unless it also chooses.
        seconds: wall time since the report before.
        diverged: the reason to give up the trial, or None.
    """

    epoch: int
    values: Mapping[str, float]
    seconds: float
    diverged: str | None = None

    def metric(self, key: str) -> float:
        """A number by its name."""
        return float(self.values[key])

    def numbers(self) -> Mapping[str, float]:
        """All numbers by name."""
        return self.values


Report = EpochReport | OwnReport


@dataclass(frozen=True, slots=True)
class ConfirmResult:
    """The result of a confirm run, measured once after its last epoch.

    Args:
        test_acc, test_loss: on the test images; accuracy in [0, 1], loss in nats.
        weights_sha256: checksum of the final weights.
        device: what the run trained on.
        max_active: share of the weights, in [0, 1], where AMSGrad's maximum is above the second moment at the end;
            None without AMSGrad. With 0, AMSGrad's last update was Adam's.
    """

    test_acc: float
    test_loss: float
    weights_sha256: str
    device: str
    max_active: float | None = None

    def metric(self, key: str) -> float:
        """A value by its field's name: ``test_acc`` or ``test_loss``."""
        return float(getattr(self, key))

    def to_dict(self) -> dict[str, Any]:
        """The fields, without one that says nothing."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class OwnResult:
    """The result of a confirm run of a user's own trainable.

    Args:
        values: the judge metric of the last report, by its name.
        device: what the run trained on.
    """

    values: Mapping[str, float]
    device: str

    def metric(self, key: str) -> float:
        """A number by its name."""
        return float(self.values[key])

    def to_dict(self) -> dict[str, Any]:
        """The fields."""
        return dataclasses.asdict(self)


Result = ConfirmResult | OwnResult


@dataclass(frozen=True, slots=True)
class StepReport:
    """The answer of a worker to one call: the epoch it trained, and the result if the run is a confirm run that ended.

    Args:
        attempt: fencing number of the attempt, from 1.
        epoch: the epoch's report; None if a resumed attempt of an own trainable ended without another report.
        result: the confirm run's result, or None.
        ended: whether an own trainable has ended by itself. ``epoch`` may then be a report that was given before.
    """

    attempt: int
    epoch: Report | None
    result: Result | None = None
    ended: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Flat values, as Ray Tune reports them; those of an own trainable are nested, because it names them."""
        if isinstance(self.epoch, EpochReport):
            result = {} if self.result is None else self.result.to_dict()
            return {**dataclasses.asdict(self.epoch), **result, "attempt": self.attempt}
        epoch, result = ({} if part is None else dataclasses.asdict(part) for part in (self.epoch, self.result))
        return {"own": {"epoch": epoch, "result": result}, "attempt": self.attempt, "ended": self.ended}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of ``to_dict``; other keys, such as Ray Tune's own, are ignored."""
        if "own" in values:
            own = values["own"]
            report = OwnReport(**own["epoch"]) if own["epoch"] else None
            return cls(
                values["attempt"], report, OwnResult(**own["result"]) if own["result"] else None, values["ended"]
            )
        epoch, result = (
            {field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values}
            for kind in (EpochReport, ConfirmResult)
        )
        return cls(values["attempt"], EpochReport(**epoch), ConfirmResult(**result) if result else None)
