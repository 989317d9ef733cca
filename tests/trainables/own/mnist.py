"""MNIST's files, made of scikit-learn's digits: 28x28 grey images in the layout that torchvision reads."""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

TEST = 297


def write_mnist(root: Path) -> None:
    """Write the four files of ``torchvision.datasets.MNIST(root)``; with them it downloads nothing.

    Args:
        root: its root folder, which is created.
    """
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    digits = load_digits()
    # 8x8 pixels from 0 to 16, each three wide, and two more on each side.
    small_BHW = np.minimum(digits.images * 16, 255).astype(np.uint8)
    images_BHW = np.pad(small_BHW.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
    labels_B = digits.target.astype(np.uint8)
    for name, part in (("train", slice(TEST, None)), ("t10k", slice(TEST))):
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images_BHW[part]))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels_B[part]))


def idx(array: NDArray[np.uint8]) -> bytes:
    """An array in the IDX format: type 8 (uint8), number of axes, their sizes, the bytes."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
