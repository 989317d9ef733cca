"""Labelled images in memory, and the pure functions that split them.

Legend: B images, H W pixels, C channels (RGB), K classes.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.data.layout import shared_notes, some
from trainables.data.request import DataRequest
from trainables.errors import DataError


@dataclass(frozen=True)
class Arrays:
    """The images and labels of one split: ``images_BHWC`` are 0..255, ``labels_B`` are 0..K-1."""

    images_BHWC: NDArray[np.uint8]
    labels_B: NDArray[np.int64]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels_B)

    def take(self, index_B: NDArray[np.int64]) -> "Arrays":
        """Copy the images and labels at ``index_B``."""
        return Arrays(self.images_BHWC[index_B], self.labels_B[index_B])


@dataclass(frozen=True)
class Raw:
    """A data set as its reader returns it, before we split it.

    Args:
        train: the images published for training.
        test: the images published for testing.
        classes: class names; the label is the index.
        flips: whether a horizontal flip keeps the label (true for a cat, false for a digit).
        val: the published validation images; None if the data set has none.
    """

    train: Arrays
    test: Arrays
    classes: tuple[str, ...]
    flips: bool
    val: Arrays | None = None


@dataclass(frozen=True)
class Splits:
    """The three splits of a data set: for training, for selection and for the final judgement.

    Args:
        train: images that the weights are fitted to.
        val: images that settings are selected on.
        test: images that the selected setting is judged on.
        classes: class names; the label is the index.
        fingerprint: sha256 of the three splits' images and labels; it also depends on the subset and the split.
        flips: whether a horizontal flip keeps the label.
    """

    train: Arrays
    val: Arrays
    test: Arrays
    classes: tuple[str, ...]
    fingerprint: str
    flips: bool

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return len(self.classes)


def stratified_subset(labels_B: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Draw ``count`` indices; every class keeps its share (largest remainder; ties go to the lower class).

    Args:
        labels_B: class of each image.
        count: number of indices to draw, 0..B.
        seed: seed of the draw.

    Returns:
        The indices in increasing order.

    Raises:
        DataError: there are fewer than ``count`` images.
    """
    if not 0 <= count <= len(labels_B):
        raise DataError(f"cannot take {count:,} images out of {len(labels_B):,}")
    return _draw(labels_B, _quotas(np.unique(labels_B, return_counts=True)[1], count), seed)


def stratified_split(
    labels_B: NDArray[np.int64], fraction_or_count: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hold out a part of the images; every class keeps its share, and none loses its last image.

    Args:
        labels_B: class of each image.
        fraction_or_count: size of the held-out part: a float is a fraction in [0, 1], an int is a number of images. It
            is at most the number of images minus the number of classes.
        seed: seed of the draw.

    Returns:
        ``(train_idx, val_idx)``, each in increasing order; together they contain every index once.

    Raises:
        DataError: the part is larger than the number of images.
    """
    total = len(labels_B)
    count = fraction_or_count if isinstance(fraction_or_count, int) else round(fraction_or_count * total)
    if not 0 <= count <= total:
        raise DataError(f"cannot take {count:,} images out of {total:,}")
    sizes_K = np.unique(labels_B, return_counts=True)[1]
    quotas_K = np.minimum(_quotas(sizes_K, count), sizes_K - 1)
    # What classes that would lose their last image do not give, the others give.
    spare_K = sizes_K - 1 - quotas_K
    quotas_K += _quotas(spare_K, min(count, total - len(sizes_K)) - int(quotas_K.sum()))
    val_idx = _draw(labels_B, quotas_K, seed)
    return np.setdiff1d(np.arange(total), val_idx, assume_unique=True), val_idx


def split(raw: Raw, request: DataRequest) -> Splits:
    """Hold out the validation images, then take the subsets of ``request``.

    The hold-out comes first, so that the validation images do not depend on ``train_images``.

    Raises:
        DataError: ``raw`` is malformed, a split would be empty, or a subset is larger than its split.
    """
    _check(raw)
    train, val = raw.train, raw.val
    if val is None:
        train_idx, val_idx = stratified_split(train.labels_B, request.validation, request.seed)
        if request.validation and len(val_idx) == 0 and len(train_idx) == len(np.unique(train.labels_B)):
            raise DataError("no image can be held out for validation, because every class has only one training image")
        train, val = raw.train.take(train_idx), raw.train.take(val_idx)
    train = _subset(train, request.train_images, request.seed, "training")
    val = _subset(val, request.val_images, request.seed, "validation")
    test = _subset(raw.test, request.test_images, request.seed, "test")
    return Splits(train, val, test, raw.classes, fingerprint(train, val, test), raw.flips)


def described(splits: Splits) -> str:
    """One line: numbers of images, height, width, channels and classes, and the training images per class."""
    sizes = " / ".join(f"{len(part):,}" for part in (splits.train, splits.val, splits.test))
    height, width, channels = splits.train.images_BHWC.shape[1:]
    counts_K = np.bincount(splits.train.labels_B, minlength=splits.num_classes)
    low, high = int(counts_K.min()), int(counts_K.max())
    per_class = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return (
        f"{sizes} train / val / test images, height {height}, width {width}, {_some_of(channels, 'channel')}, "
        f"{_some_of(splits.num_classes, 'class')} ({per_class} training images each)"
    )


def doubts(raw: Raw, splits: Splits) -> Iterator[str]:
    """Yields what weakens every result on these images, one line each.

    Args:
        raw: the data set as it was read.
        splits: its splits.
    """
    parts = {"train": raw.train, "val": raw.val, "test": raw.test}
    yield from shared_notes({name: _image_keys(part) for name, part in parts.items() if part is not None})
    for what, part in (("training", splits.train), ("validation", splits.val), ("test", splits.test)):
        empty = np.flatnonzero(np.bincount(part.labels_B, minlength=splits.num_classes) == 0)
        if len(empty):
            names = some(splits.classes[index] for index in empty)
            yield f"classes without a {what} image: {len(empty):,} of {splits.num_classes:,} ({names})"
    flat = sum(bool((image_HWC == image_HWC[0, 0]).all()) for image_HWC in splits.train.images_BHWC)
    if flat:
        yield f"{flat:,} of {len(splits.train):,} training images have one colour only"


def _image_keys(part: Arrays) -> list[bytes]:
    return [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() for image in part.images_BHWC]


def _some_of(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "es" if what.endswith("s") else "s")


def fingerprint(*parts: Arrays) -> str:
    """The sha256 of the bytes of all images and labels, in order (labels as little-endian int64)."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part.images_BHWC).data)
        digest.update(np.ascontiguousarray(part.labels_B, dtype="<i8").data)
    return digest.hexdigest()


def _draw(labels_B: NDArray[np.int64], quotas_K: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Draw ``quotas_K`` indices of the classes that occur, in increasing order."""
    generator = np.random.default_rng(seed)
    chosen = [
        generator.permutation(np.flatnonzero(labels_B == label))[:quota]
        for label, quota in zip(np.unique(labels_B), quotas_K, strict=True)
    ]
    return np.sort(np.concatenate([np.empty(0, np.int64), *chosen])).astype(np.int64)


def _quotas(sizes_K: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Quotas by largest remainder, in whole numbers so that no rounding error decides a tie."""
    total = max(int(sizes_K.sum()), 1)
    quotas_K, remainders_K = np.divmod(sizes_K * count, total)
    most_short = np.argsort(-remainders_K, kind="stable")[: count - int(quotas_K.sum())]
    quotas_K[most_short] += 1
    return quotas_K.astype(np.int64)


def _subset(part: Arrays, count: int | None, seed: int, what: str) -> Arrays:
    if count is not None and count > len(part):
        raise DataError(f"{count:,} {what} images are requested, but there are only {len(part):,}")
    subset = part if count is None else part.take(stratified_subset(part.labels_B, count, seed))
    if len(subset) == 0:
        raise DataError(f"the {what} split has no images")
    return subset


def _check(raw: Raw) -> None:
    for what, part in (("train", raw.train), ("val", raw.val), ("test", raw.test)):
        if part is None:
            continue
        images, labels = part.images_BHWC, part.labels_B
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != raw.train.images_BHWC.shape[1:]:
            raise DataError(f"{what} images must be uint8 BHWC of one size, not {images.dtype} {images.shape}")
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            raise DataError(f"{what} labels must be int64, one per image, not {labels.dtype} {labels.shape}")
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(raw.classes)):
            raise DataError(
                f"{what} labels are {labels.min()}..{labels.max()}, outside 0..{len(raw.classes) - 1}, "
                f"the {len(raw.classes)} classes"
            )
    if len(np.unique(raw.train.labels_B)) == 1:
        only = raw.classes[int(raw.train.labels_B[0])]
        raise DataError(f"all training images have the same label, {only}; there is only one class")
