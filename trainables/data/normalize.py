"""The constants that normalise pixels for training.

Legend: B images, H W pixels, C channels.
"""

import numpy as np
from numpy.typing import NDArray

from trainables.data.request import Normalization

CHUNK = 1024


def constants(images_BHWC: NDArray[np.uint8], kind: Normalization) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return ``(shift_CHW, scale_CHW)``, such that ``(x_CHW - shift_CHW) * scale_CHW`` is normalised.

    Pass the training images. The article normalised its test images with their own minimum and maximum; we use the
    constants of the training images for every split.

    Args:
        images_BHWC: pixels 0..255, at least one image.
        kind: "minmax", which the article uses, maps every position and channel to 0..1 over the images;
            "standard" gives every channel mean 0 and standard deviation 1.

    Returns:
        Two float32 arrays (C, H, W). A value that is constant over the images gets the scale 1/255.
    """
    low_CHW, range_CHW = _minmax(images_BHWC) if kind == "minmax" else _standard(images_BHWC)
    scale_CHW = 1 / np.where(range_CHW > 0, range_CHW, 255.0)
    return low_CHW.astype(np.float32), scale_CHW.astype(np.float32)


def _minmax(images_BHWC: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low_HWC = images_BHWC.min(axis=0).astype(np.float64)
    range_HWC = images_BHWC.max(axis=0) - low_HWC
    return np.moveaxis(low_HWC, -1, 0), np.moveaxis(range_HWC, -1, 0)


def _standard(images_BHWC: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Histograms give the exact result without a float copy of the whole data set.
    _, height, width, channels = images_BHWC.shape
    histogram_CV = np.zeros((channels, 256))
    for start in range(0, len(images_BHWC), CHUNK):
        chunk = images_BHWC[start : start + CHUNK]
        histogram_CV += [np.bincount(chunk[..., c].ravel(), minlength=256) for c in range(channels)]
    share_CV = histogram_CV / histogram_CV.sum(axis=1, keepdims=True)
    values_V = np.arange(256.0)
    mean_C = share_CV @ values_V
    std_C = np.sqrt((share_CV * (values_V - mean_C[:, None]) ** 2).sum(axis=1))
    shape = (channels, height, width)
    return np.broadcast_to(mean_C[:, None, None], shape), np.broadcast_to(std_C[:, None, None], shape)
