"""Image files in one folder per class: ``root/train/<class>/*.png`` and ``root/test/<class>/*.png``."""

from pathlib import Path

import numpy as np

from trainables.data.images import decode, stack
from trainables.data.splits import Arrays, Raw
from trainables.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".tif", ".tiff"})


def read(path: Path | None, size: int | None = None) -> Raw:
    """Decode every image to RGB; the classes are the folders of ``train``, sorted by name.

    We assume that a horizontal flip keeps the label, because a folder cannot say otherwise.

    Args:
        path: the folder that contains ``train`` and ``test``.
        size: side in pixels that all images are resized to; None means 32.

    Raises:
        DataError: a folder is missing or empty, ``test`` has other classes than ``train``, or an image is
            broken.
    """
    train, test = _files(path, "train"), _files(path, "test")
    if train.keys() != test.keys():
        odd = ", ".join(sorted(train.keys() ^ test.keys()))
        raise DataError(f"{path}: train and test must have the same classes; only one of them has {odd}")
    return Raw(_arrays(train, size or 32), _arrays(test, size or 32), tuple(train), flips=True)


def count(path: Path | None) -> tuple[int, int]:
    """Numbers of training and test images, from the list of files.

    Raises:
        DataError: a folder is missing or empty.
    """
    train, test = (sum(map(len, _files(path, part).values())) for part in ("train", "test"))
    return train, test


def sources(path: Path | None) -> list[Path]:
    """Return every file that ``read`` opens.

    Raises:
        DataError: a folder is missing or empty.
    """
    return [file for part in ("train", "test") for files in _files(path, part).values() for file in files]


def _files(path: Path | None, part: str) -> dict[str, list[Path]]:
    """List the image files of each class; classes and files are sorted by name, and hidden files are left out."""
    if path is None:
        raise DataError("image_folder needs a path: the folder that contains train and test")
    root = path / part
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not folders:
        raise DataError(f"{root}: has no class folders")
    return {folder.name: _images(folder) for folder in folders}


def _images(folder: Path) -> list[Path]:
    files = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )
    if not files:
        raise DataError(f"{folder}: has no images ({', '.join(sorted(SUFFIXES))})")
    return files


def _arrays(files: dict[str, list[Path]], size: int) -> Arrays:
    images = ((str(file), decode(file, size, str(file))) for group in files.values() for file in group)
    counts = [len(group) for group in files.values()]
    labels_B = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return Arrays(stack(images, sum(counts)), labels_B)
