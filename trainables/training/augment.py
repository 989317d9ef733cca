"""Augmentation of a batch of images: what is drawn for it, and what that does to the pixels.

Legend: B batch, H W pixels, C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

CROP_PADDING = 4


@dataclass(frozen=True)
class Draws:
    """What ``flip_crop`` draws for each image: whether it is mirrored, and the row and column its crop begins at."""

    flip_B: Tensor
    top_B: Tensor
    left_B: Tensor

    def to(self, device: torch.device) -> "Draws":
        """On another device."""
        return Draws(self.flip_B.to(device), self.top_B.to(device), self.left_B.to(device))


def draw(batch: int, generator: torch.Generator | None = None) -> Draws:
    """Draw for a batch, from torch's global CPU stream or another, so that CPU and GPU see the same images."""
    flip_B = torch.rand(batch, generator=generator) < 0.5
    shifts = 2 * CROP_PADDING + 1
    top_B = torch.randint(0, shifts, (batch,), generator=generator)
    left_B = torch.randint(0, shifts, (batch,), generator=generator)
    return Draws(flip_B, top_B, left_B)


def flip_crop(images_BHWC: Tensor, draws: Draws) -> Tensor:
    """Each image mirrored or not and shifted by up to 4 pixels, black coming in; all on one device."""
    batch, height, width, _ = images_BHWC.shape
    images_BHWC = torch.where(draws.flip_B[:, None, None, None], images_BHWC.flip(2), images_BHWC)
    padded_BHWC = F.pad(images_BHWC, (0, 0, CROP_PADDING, CROP_PADDING, CROP_PADDING, CROP_PADDING))
    # Every crop of every image, a view; only what is picked is copied, whole rows at a time.
    crops = padded_BHWC.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
    return crops[torch.arange(batch, device=images_BHWC.device), draws.top_B, draws.left_B]
