"""The model of a trial: how we build it, and how we call it on pixels.

Legend: B batch, C H W image, K classes.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from trainables.catalog import MODELS, is_dotted, load_object
from trainables.config import TrialConfig, derive_seed
from trainables.data.device import DeviceSplits
from trainables.errors import CodeError, TrainableError
from trainables.foreign_text import raised


class Net:
    """A trial's model on its device, with the constants that normalise its input pixels.

    Raises:
        CodeError: the model's code fails or does not return a model.
    """

    def __init__(self, config: TrialConfig, data: DeviceSplits) -> None:
        self._name, self._classes = config.model.name, data.classes
        self.device = data.device
        self.model = build_model(config, data.classes, data.image_shape_HWC).to(data.device)
        self._channels_last = config.channels_last
        if self._channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self._shift_CHW, self._scale_CHW = data.constants(config.normalize)
        self._half = config.precision == "bf16"

    def logits(self, images_BHWC: Tensor) -> Tensor:
        """Float32 logits_BK of uint8 images_BHWC.

        Raises:
            CodeError: the model does not return one row of logits per image.
        """
        images_BCHW = self.inputs(images_BHWC)
        with self.autocast():
            logits_BK: object = self.model(images_BCHW)
        check_logits(logits_BK, self._name, len(images_BCHW), self._classes, self.model.training)
        assert isinstance(logits_BK, Tensor)
        return logits_BK.float()

    def inputs(self, images_BHWC: Tensor) -> Tensor:
        """The model's input, normalised float32 images_BCHW, of uint8 images_BHWC."""
        # A contiguous BHWC batch becomes a channels_last BCHW batch by permutation, without a copy.
        images_BCHW = (images_BHWC.permute(0, 3, 1, 2).float() - self._shift_CHW) * self._scale_CHW
        return images_BCHW if self._channels_last else images_BCHW.contiguous()

    def autocast(self) -> torch.autocast:
        """The precision in which the model runs."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)


def build_model(config: TrialConfig, classes: int, image_shape_HWC: tuple[int, ...]) -> nn.Module:
    """Build the model with the initial weights of ``config.seed``; the global random state does not change.

    Raises:
        CodeError: the dotted path does not build an ``nn.Module``, the module does not return one row of logits per
            image, or its code raised an exception.
    """
    height, width, channels = image_shape_HWC
    path = config.model.name if is_dotted(config.model.name) else MODELS[config.model.name]
    build = load_object(path)
    if not callable(build):
        raise CodeError(f"{path} is not a function that builds a model")
    with random_stream(derive_seed(config.seed, "initial weights"), torch.device("cpu")):
        try:
            model = build(classes, (channels, height, width), **config.model.options)
            if not isinstance(model, nn.Module):
                raise CodeError(f"{path} returned an object of type {type(model).__name__}, not a torch.nn.Module")
            _check_logits(model, path, classes, (channels, height, width))
        except TrainableError:
            raise
        except Exception as error:
            raise CodeError(raised(path, error)) from error
    return model


@contextmanager
def random_stream(seed: int, device: torch.device) -> Iterator[None]:
    """Start all global random streams at ``seed``, and restore them on exit.

    These are torch's, of the CPU and of ``device``, and those of ``random`` and ``numpy.random``, which a user's own
    model may draw from.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), host_streams_restored():
        # ``torch.manual_seed`` also records its caller for every kind of unused device, which takes 1 ms.
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        random.seed(seed)
        np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
        yield


@contextmanager
def host_streams_restored() -> Iterator[None]:
    """On exit, restore the streams of ``random`` and ``numpy.random`` as they are now."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def check_logits(found: object, path: str, images: int, classes: int, training: bool) -> None:
    """Raise ``CodeError`` unless a model returned one row of logits per image."""
    if isinstance(found, Tensor) and found.shape == (images, classes):
        return
    mode = "in training mode, " if training else ""
    got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    raise CodeError(f"{path}: {mode}logits for {images} images must have shape ({images}, {classes}), not {got}")


def _check_logits(model: nn.Module, path: str, classes: int, shape_CHW: tuple[int, int, int]) -> None:
    model.eval()
    with torch.no_grad():
        check_logits(model(torch.zeros(2, *shape_CHW)), path, 2, classes, training=False)
