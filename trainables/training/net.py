"""The model of a trial: how we build it, and how we call it on pixels.

Legend: B batch, C H W image, K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainables.catalog import MODELS, is_dotted, load_object
from trainables.config import TrialConfig, derive_seed
from trainables.data.device import DeviceSplits
from trainables.errors import CodeError, TrainableError


class Net:
    """A trial's model on its device, with the constants that normalise its input pixels.

    Raises:
        CodeError: the model's code fails or does not return a model.
    """

    def __init__(self, config: TrialConfig, data: DeviceSplits) -> None:
        model = build_model(config, data.classes, data.image_shape_HWC)
        self.device = data.device
        self.model = model.to(data.device).to(memory_format=torch.channels_last)
        self._shift_CHW, self._scale_CHW = data.constants(config.normalize)
        self._half = config.precision == "bf16"

    def logits(self, images_BHWC: Tensor) -> Tensor:
        """Float32 logits_BK of uint8 images_BHWC."""
        # A contiguous BHWC batch becomes a channels_last BCHW batch by permutation, without a copy.
        images_BCHW = (images_BHWC.permute(0, 3, 1, 2).float() - self._shift_CHW) * self._scale_CHW
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            logits_BK: Tensor = self.model(images_BCHW)
        return logits_BK.float()


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
            message = f"{path} raised {type(error).__name__}: {' '.join(str(error).split())}"
            raise CodeError(message) from error
    return model


@contextmanager
def random_stream(seed: int, device: torch.device) -> Iterator[None]:
    """Start torch's global random streams, of the CPU and of ``device``, at ``seed``; restore them on exit."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # ``torch.manual_seed`` also records its caller for every kind of unused device, which takes 1 ms.
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _check_logits(model: nn.Module, path: str, classes: int, shape_CHW: tuple[int, int, int]) -> None:
    model.eval()
    with torch.no_grad():
        logits_BK = model(torch.zeros(2, *shape_CHW))
    if not isinstance(logits_BK, Tensor) or logits_BK.shape != (2, classes):
        got = tuple(logits_BK.shape) if isinstance(logits_BK, Tensor) else type(logits_BK).__name__
        raise CodeError(f"{path}: logits for 2 images must have shape (2, {classes}), not {got}")
