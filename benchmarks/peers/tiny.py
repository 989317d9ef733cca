"""A trial of about ten milliseconds: a linear net on a few tiny images. For ``tuner``, both are code of a user."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from trainables.data.splits import Arrays, Raw

CLASSES = 2
SIDE = 8


class Linear(nn.Module):
    """A linear net from normalised images_BCHW to logits_BK."""

    def __init__(self, classes: int, pixels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(pixels, classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits_BK."""
        logits_BK: Tensor = self.linear(torch.flatten(images_BCHW, 1))
        return logits_BK


def model(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Build the net."""
    channels, height, width = image_shape
    return Linear(num_classes, channels * height * width)


def images(path: Path | None = None) -> Raw:
    """Images of noise, in two classes that differ in brightness."""
    generator = np.random.default_rng(0)

    def some(count: int) -> Arrays:
        labels_B = np.arange(count) % CLASSES
        noise_BHWC = generator.integers(0, 128, (count, SIDE, SIDE, 3))
        return Arrays((noise_BHWC + 100 * labels_B[:, None, None, None]).astype(np.uint8), labels_B.astype(np.int64))

    return Raw(some(40), some(20), ("dark", "bright"), flips=False)
