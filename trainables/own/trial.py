"""``OwnTrial``: one trial of a user's own trainable, as plain values that can be sent to a worker."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class OwnTrial:
    """One trial of a user's own trainable.

    Args:
        trainable: ``module:name`` of a ``ray.tune.Trainable`` subclass, or of a function that calls ``tune.report``.
        config: the knobs and the fixed values: plain JSON values.
        epochs: the most reports of the trial.
        seed: seed of Python's, numpy's and torch's random numbers.
        passed: keys that are added to the config, of ``seed`` and ``read_test``.
        choose: name of the metric that chooses settings.
        judge: name of the metric that judges them; equal to ``choose`` if there is no other.
        threads: CPU threads per trial.
        gpu: whether a CUDA device is assigned to the process.
    """

    trainable: str
    config: Mapping[str, Any]
    epochs: int
    seed: int
    passed: tuple[str, ...]
    choose: str
    judge: str
    threads: int = 1
    gpu: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The trial as nested plain values."""
        return {**dataclasses.asdict(self), "passed": list(self.passed)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OwnTrial":
        """The inverse of ``to_dict``."""
        return cls(**{**values, "config": dict(values["config"]), "passed": tuple(values["passed"])})
