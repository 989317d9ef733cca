"""``TrialConfig``: everything that decides one trial's bits, as plain values that travel to a worker."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainables.data.normalize import Kind
from trainables.data.request import DataRequest
from trainables.hyper import Hyper
from trainables.space import Scalar


@dataclass(frozen=True)
class ModelConfig:
    """A model by name and its options.

    Args:
        name: an entry of ``catalog.MODELS``, or ``"module:callable"``.
        options: keyword arguments for its ``build`` beside the number of classes and the image shape.
    """

    name: str = "elu_net"
    options: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialConfig:
    """One trial.

    Args:
        data: what images, and how they are split.
        model: what net.
        hyper: the optimizer's knobs.
        epochs: passes over the training images.
        batch_size: images an update.
        seed: of initial weights, data order and augmentation.
        augment: ``none`` or ``flip_crop``.
        normalize: ``standard`` (per channel) or ``minmax`` (per position and channel).
        precision: ``fp32`` or ``bf16`` (autocast).
        deterministic: on CUDA, use deterministic algorithms; CPU runs always are.
        cuda_graph: on CUDA, capture an update once and replay it; else plain eager updates, the reference.
        threads: CPU threads of one trial.
        gpu: train on the CUDA device this process is given.
    """

    data: DataRequest
    model: ModelConfig
    hyper: Hyper
    epochs: int
    batch_size: int
    seed: int
    augment: str = "none"
    normalize: Kind = "standard"
    precision: str = "fp32"
    deterministic: bool = False
    cuda_graph: bool = True
    threads: int = 1
    gpu: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrialConfig":
        """The inverse of ``to_dict``."""
        data = values["data"]
        return cls(
            **{
                **values,
                # JSON and YAML have no tuples.
                "data": DataRequest(**{**data, "sha256": tuple((file, checksum) for file, checksum in data["sha256"])}),
                "model": ModelConfig(**values["model"]),
                "hyper": Hyper(**values["hyper"]),
            }
        )


def derive_seed(seed: int, *parts: int | str) -> int:
    """An independent seed in [0, 2**63) for a named stream of ``seed``: the same on every machine."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
