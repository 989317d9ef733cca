"""Image augmentation: the random draws for a batch, and the function that applies them to the pixels.

Legend: B batch, H W pixels, C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.config import SHIFT


@dataclass(frozen=True)
class Draws:
    """The random draws for each image: whether it is mirrored, and the row and column at which its crop starts.

    ``shift`` is the black border in pixels out of which the crops are cut.
    """

    flip_B: Tensor
    top_B: Tensor
    left_B: Tensor
    shift: int = SHIFT

    def to(self, device: torch.device) -> "Draws":
        """The same draws on another device."""
        return Draws(self.flip_B.to(device), self.top_B.to(device), self.left_B.to(device), self.shift)


def draw(batch: int, generator: torch.Generator | None = None, shift: int = SHIFT) -> Draws:
    """Draw for a batch on the CPU, so that training on CPU and GPU sees the same images.

    Args:
        batch: number of images.
        generator: source of the random numbers; None uses torch's global CPU stream.
        shift: pixels by which an image is shifted at most, in each direction; at least 0.
    """
    flip_B = torch.rand(batch, generator=generator) < 0.5
    shifts = 2 * shift + 1
    top_B = torch.randint(0, shifts, (batch,), generator=generator)
    left_B = torch.randint(0, shifts, (batch,), generator=generator)
    return Draws(flip_B, top_B, left_B, shift)


def flip_crop(images_BHWC: Tensor, draws: Draws) -> Tensor:
    """Mirror each image or not, and shift it by up to ``draws.shift`` pixels; black fills the gap.

    All tensors are on one device.
    """
    batch, height, width, _ = images_BHWC.shape
    images_BHWC = torch.where(draws.flip_B[:, None, None, None], images_BHWC.flip(2), images_BHWC)
    padded_BHWC = F.pad(images_BHWC, (0, 0, *[draws.shift] * 4))
    # ``crops`` is a view of all crops of all images. The indexing copies only the chosen crops, whole rows at a time.
    crops = padded_BHWC.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
    return crops[torch.arange(batch, device=images_BHWC.device), draws.top_B, draws.left_B]
