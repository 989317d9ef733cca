"""A trial's request for data: the data set, its source, the number of images and the split."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Normalization = Literal["minmax", "standard"]
"""How pixels are normalised; see ``normalize.constants``."""


class Columns(NamedTuple):
    """The columns of a Parquet file; None means one of the names that ``parquet`` knows."""

    image: str | None = None
    label: str | None = None


USUAL_COLUMNS = Columns()


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
        image_column: column of a Parquet file with the images; None means ``img`` or ``image``.
        label_column: column of a Parquet file with the labels; None means ``label`` or ``labels``.
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
    image_column: str | None = None
    label_column: str | None = None

    @property
    def columns(self) -> Columns:
        """The columns of a Parquet file."""
        return Columns(self.image_column, self.label_column)


@dataclass(frozen=True)
class ImageCounts:
    """How many images each split has."""

    train: int
    val: int
    test: int


@dataclass(frozen=True)
class Survey:
    """What a data set has, as far as it shows before an image is decoded.

    Args:
        train: number of images published for training.
        val: number of published validation images; None if the data set has none.
        test: number of images published for testing.
        classes: number of classes that the training images have.
        notes: what is left out or read in an unusual way, one line each.
        shape_HWC: of the images, if they are not resized; None if it is unknown.
        named: number of classes that the data names, if it names some; a class may have no training image.
    """

    train: int
    val: int | None
    test: int
    classes: int
    notes: tuple[str, ...] = ()
    shape_HWC: tuple[int, ...] | None = field(default=(32, 32, 3), compare=False)
    named: int | None = field(default=None, compare=False)

    def held_out(self, share: float) -> int:
        """How many training images ``splits.stratified_split`` holds out for a share: every class keeps one."""
        return min(round(share * self.train), self.train - self.classes)
