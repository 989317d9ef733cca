"""A data set on the device that trains: copied there once, for all trials of a process.

Legend: B images, C H W image.
"""

import torch
from torch import Tensor

from trainables.data.normalize import Kind, constants
from trainables.data.splits import Arrays, Splits


class DeviceArrays:
    """One split's uint8 images and labels on the device; on CPU, the mapped files themselves."""

    def __init__(self, arrays: Arrays, device: torch.device) -> None:
        self.images_BHWC = torch.from_numpy(arrays.images_BHWC).to(device)
        self.labels_B = torch.from_numpy(arrays.labels_B).to(device)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels_B)


class DeviceSplits:
    """All that trials want of the data: nothing here is copied or computed again for the next trial."""

    def __init__(self, splits: Splits, device: torch.device) -> None:
        self.device = device
        self.fingerprint = splits.fingerprint
        self.classes = splits.num_classes
        self.image_shape_HWC = splits.train.images_BHWC.shape[1:]
        self.train, self.val, self.test = (
            DeviceArrays(arrays, device) for arrays in (splits.train, splits.val, splits.test)
        )
        self._splits = splits
        self._constants: dict[Kind, tuple[Tensor, Tensor]] = {}

    def constants(self, kind: Kind) -> tuple[Tensor, Tensor]:
        """``(shift_CHW, scale_CHW)`` of the training images, as ``normalize.constants``."""
        if kind not in self._constants:
            shift, scale = constants(self._splits.train.images_BHWC, kind)
            self._constants[kind] = torch.from_numpy(shift).to(self.device), torch.from_numpy(scale).to(self.device)
        return self._constants[kind]
