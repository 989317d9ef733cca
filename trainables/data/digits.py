"""Scikit-learn's built-in digits for examples and tests: 1,797 grey images of 8x8 pixels, without a download."""

from pathlib import Path

import numpy as np

from trainables.data.images import resize
from trainables.data.request import USUAL_COLUMNS, Columns, Survey
from trainables.data.splits import Arrays, Raw, stratified_split

TEST_FRACTION = 0.2
TEST_SEED = 0
"""Fixed, so that the test images do not depend on the seed of the validation split."""


def read(path: Path | None = None, size: int | None = None, columns: Columns = USUAL_COLUMNS) -> Raw:
    """Read the digits, scale 0..16 to 0..255, resize, and hold out a stratified fifth for testing.

    These are the UCI digits (Alpaydin & Kaynak 1998, test part) as scikit-learn ships them, without a split. For a
    60/20/20 split, hold out a quarter of ``train`` for validation.

    Args:
        path: not used.
        size: side in pixels; None means 32.
        columns: not used.

    Returns:
        1,438 training and 359 test images, RGB with three equal channels.
    """
    from sklearn.datasets import load_digits  # takes a second

    grey_BHW, labels_B = load_digits(return_X_y=True)
    grey_BHW = np.rint(grey_BHW.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images_BHWC = resize(np.repeat(grey_BHW[..., None], 3, axis=-1), size or 32)
    every = Arrays(images_BHWC, labels_B.astype(np.int64))
    train_idx, test_idx = stratified_split(every.labels_B, TEST_FRACTION, TEST_SEED)
    return Raw(every.take(train_idx), every.take(test_idx), tuple("0123456789"), flips=False)


def survey(path: Path | None = None, columns: Columns = USUAL_COLUMNS, compare: bool = False) -> Survey:
    """The numbers of images and classes; no argument changes them."""
    return Survey(train=1438, val=None, test=359, classes=10)


def sources(path: Path | None = None) -> list[Path]:
    """No files: the digits are part of scikit-learn."""
    return []
