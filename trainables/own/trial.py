"""``OwnTrial``: what a worker gets for one trial of a user's own trainable. All of it is plain values."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PASSED = ("seed", "read_test")
"""Keys that a spec may hand over in the config of its trainables, besides the knobs."""


@dataclass(frozen=True)
class OwnTrial:
    """One trial of a ``ray.tune.Trainable`` subclass, or of a function that calls ``ray.tune.report``.

    Args:
        trainable: its dotted path, ``module:name``.
        config: the knobs and the fixed values: plain values of YAML.
        epochs: the largest number of reports. The trial ends after them, or earlier by itself.
        seed: seeds the streams of Python, numpy and torch before the trainable is built.
        passed: which of ``PASSED`` the config contains besides the knobs.
        choose: name of the reported number that chooses settings.
        judge: name of the reported number that judges confirm runs; equal to ``choose`` if there is no other.
        threads: CPU threads.
        gpu: whether it has a GPU.
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
        """The fields as nested plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OwnTrial":
        """The inverse of ``to_dict``."""
        # JSON and YAML have no tuples.
        return cls(**{**values, "passed": tuple(values["passed"])})
