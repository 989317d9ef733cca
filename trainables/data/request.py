"""A trial's request for data: the data set, its source, the number of images and the split."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataRequest:
    """A request for one data set with one split; equal requests give equal arrays.

    Args:
        name: a row of ``catalog.DATASETS``, or ``module:callable``, which is called with ``path`` and
            returns ``Raw``.
        path: folder or file with the data; ``digits`` needs none, ``cifar10`` downloads to it.
        size: side in pixels that images are resized to; None uses the reader's default size.
        sha256: pairs of (file name relative to ``path``, expected checksum), checked before decoding.
        train_images: size of a stratified subset of the training split; None keeps all images.
        val_images: the same for the validation split.
        test_images: the same for the test split.
        validation: fraction of the training images that is held out, in (0, 1); ignored if the data set has its own
            validation split.
        seed: seed of the split and of the subsets.
    """

    name: str
    path: str | None = None
    size: int | None = None
    sha256: tuple[tuple[str, str], ...] = ()
    train_images: int | None = None
    val_images: int | None = None
    test_images: int | None = None
    validation: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class ImageCounts:
    """How many images each split has."""

    train: int
    val: int
    test: int
