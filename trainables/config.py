"""``TrialConfig``: all that determines one trial's result bit for bit, as plain values that can be sent to a worker."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainables.data.request import DataRequest, Normalization
from trainables.hyper import Hyper
from trainables.space import Scalar

SHIFT = 4
"""Pixels by which ``flip_crop`` shifts an image at most, unless the trial says otherwise."""


@dataclass(frozen=True)
class ModelConfig:
    """The name and the options of a model.

    Args:
        name: a row of ``catalog.MODELS``, or ``"module:callable"``.
        options: further keyword arguments of the build function, after the number of classes and the image shape.
    """

    name: str = "elu_net"
    options: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerConfig:
    """A user's own optimizer.

    Args:
        name: the dotted path of a subclass of ``torch.optim.Optimizer``.
        arguments: keyword arguments of the class, without the learning rate. ``betas.1`` is element 1 of ``betas``.
        groups: the dotted path of a function that takes the model and returns its parameter groups; None for one group
            of all parameters.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    groups: str | None = None


@dataclass(frozen=True)
class TrialConfig:
    """The configuration of one trial.

    Args:
        data: the images and their split.
        model: the model to train.
        hyper: the optimizer's knobs; with an own optimizer, those of the learning rate only.
        epochs: passes over the training images.
        batch_size: images per update.
        seed: seed of the initial weights, the data order and the augmentation.
        augment: ``none`` or ``flip_crop``.
        normalize: ``standard`` (per channel) or ``minmax`` (per position and channel).
        precision: ``fp32`` or ``bf16`` (autocast).
        deterministic: on CUDA, use deterministic algorithms; CPU runs are always deterministic.
        cuda_graph: on CUDA, capture an update once and replay it; if false, run eager updates, which are the reference.
        threads: CPU threads per trial.
        gpu: train on the CUDA device that is assigned to this process.
        channels_last: lay images and convolutions out as channels_last; false for a user's own model, because code such
            as ``x.view(len(x), -1)`` after a convolution needs contiguous BCHW images.
        optimizer: the user's own optimizer; None for Adam and its variants, which ``hyper`` describes.
        shift: farthest that ``flip_crop`` shifts an image, in pixels.
    """

    data: DataRequest
    model: ModelConfig
    hyper: Hyper
    epochs: int
    batch_size: int
    seed: int
    augment: str = "none"
    normalize: Normalization = "standard"
    precision: str = "fp32"
    deterministic: bool = False
    cuda_graph: bool = True
    threads: int = 1
    gpu: bool = False
    channels_last: bool = True
    optimizer: OptimizerConfig | None = None
    shift: int = SHIFT

    def to_dict(self) -> dict[str, Any]:
        """The config as nested plain values. Values that older versions do not know are left out if default."""
        values = dataclasses.asdict(self)
        for key, default in (("channels_last", True), ("optimizer", None), ("shift", SHIFT)):
            if values[key] == default:
                del values[key]
        for key in ("image_column", "label_column"):
            if values["data"][key] is None:
                del values["data"][key]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrialConfig":
        """The inverse of ``to_dict``."""
        data, optimizer = values["data"], values.get("optimizer")
        return cls(
            **{
                **values,
                "optimizer": None if optimizer is None else OptimizerConfig(**optimizer),
                # JSON and YAML have no tuples.
                "data": DataRequest(**{**data, "sha256": tuple((file, checksum) for file, checksum in data["sha256"])}),
                "model": ModelConfig(**values["model"]),
                "hyper": Hyper(**values["hyper"]),
            }
        )


def derive_seed(seed: int, *parts: int | str) -> int:
    """An independent seed in [0, 2**63) for a named random stream of ``seed``; it is the same on every machine."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
