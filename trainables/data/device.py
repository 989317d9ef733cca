"""A data set on the training device, copied there once for all trials of a process.

Legend: B images, C H W image.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.data.normalize import constants
from trainables.data.request import Normalization
from trainables.data.splits import Arrays, Splits


@dataclass(frozen=True)
class DeviceArrays:
    """One split's uint8 images and labels on the device; on the CPU these are the mapped files themselves."""

    images_BHWC: Tensor
    labels_B: Tensor

    @classmethod
    def of(cls, arrays: Arrays, device: torch.device) -> "DeviceArrays":
        """Copy a split to a device; on the CPU nothing is copied."""
        return cls(torch.from_numpy(arrays.images_BHWC).to(device), torch.from_numpy(arrays.labels_B).to(device))

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels_B)

    def first(self, count: int) -> "DeviceArrays":
        """A view of the first ``count`` images, or of all if there are fewer."""
        return DeviceArrays(self.images_BHWC[:count], self.labels_B[:count])


class DeviceSplits:
    """All that trials need of a data set. The next trial reuses it: nothing is copied or computed a second time."""

    def __init__(self, splits: Splits, device: torch.device) -> None:
        self.device = device
        self.fingerprint = splits.fingerprint
        self.classes = splits.num_classes
        self.image_shape_HWC = splits.train.images_BHWC.shape[1:]
        self.train, self.val, self.test = (
            DeviceArrays.of(arrays, device) for arrays in (splits.train, splits.val, splits.test)
        )
        self._splits = splits
        self._constants: dict[Normalization, tuple[Tensor, Tensor]] = {}

    def constants(self, kind: Normalization) -> tuple[Tensor, Tensor]:
        """``(shift_CHW, scale_CHW)`` of the training images, from ``normalize.constants``."""
        if kind not in self._constants:
            shift, scale = constants(self._splits.train.images_BHWC, kind)
            self._constants[kind] = torch.from_numpy(shift).to(self.device), torch.from_numpy(scale).to(self.device)
        return self._constants[kind]

    def first(self, train_images: int) -> "DeviceSplits":
        """A view of the first ``train_images`` training images (or all), and of the same share of validation images."""
        part = copy.copy(self)
        share = min(1.0, train_images / len(self.train))
        part.train, part.val = (arrays.first(max(1, round(share * len(arrays)))) for arrays in (self.train, self.val))
        return part
