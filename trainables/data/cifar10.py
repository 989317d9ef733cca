"""CIFAR-10 (Krizhevsky 2009): 60,000 images of 32x32 pixels.

torchvision downloads the data and verifies its checksums. A folder with Parquet files in the Hugging Face hub's layout
is read directly instead.
"""

import http.client
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from trainables.data import parquet
from trainables.data.images import resize
from trainables.data.layout import has_parquet
from trainables.data.request import USUAL_COLUMNS, Columns, Survey
from trainables.data.splits import Arrays, Raw
from trainables.errors import DataError


def read(path: Path | None, size: int | None = None, columns: Columns = USUAL_COLUMNS) -> Raw:
    """Read CIFAR-10; download it first if it is missing.

    Args:
        path: folder with the Parquet files, or folder with ``cifar-10-batches-py``, which the download creates.
        size: side in pixels to resize to; None keeps 32.
        columns: the columns of the Parquet files.

    Raises:
        DataError: there is no path, the download fails, or files do not match their checksums.
    """
    if path is None:
        raise DataError("cifar10 needs a path: the folder with its files, or the folder to download them to")
    if _is_parquet(path):
        return parquet.read(path, size, columns)
    try:
        train, test = _open(path, train=True), _open(path, train=False)
    except (
        OSError,
        RuntimeError,
        EOFError,
        http.client.HTTPException,
        tarfile.TarError,
        pickle.PickleError,
    ) as error:
        raise DataError(
            f"{path}: CIFAR-10 is missing or incomplete and cannot be downloaded ({error}); "
            "put the cifar-10-batches-py folder there"
        ) from error
    return Raw(_arrays(train, size), _arrays(test, size), tuple(train.classes), flips=True)


def survey(path: Path | None = None, columns: Columns = USUAL_COLUMNS, compare: bool = False) -> Survey:
    """The numbers of images and classes; for Parquet files as ``parquet.survey``.

    Raises:
        DataError: as ``parquet.survey``; or there are columns, but no Parquet files.
    """
    if _is_parquet(path):
        return parquet.survey(path, columns, compare)
    if columns != USUAL_COLUMNS:
        raise DataError(
            f"{path or 'cifar10 without a path'}: has no Parquet files of a training split, so it has no columns; "
            "remove image_column and label_column, or set the path to the folder with the Parquet files"
        )
    return Survey(train=50_000, val=None, test=10_000, classes=10)


def sources(path: Path | None = None) -> list[Path]:
    """Files to check for changes; none for the download, because torchvision verifies it against fixed checksums."""
    return parquet.sources(path) if _is_parquet(path) else []


def _is_parquet(path: Path | None) -> bool:
    return path is not None and has_parquet(path)


def _open(path: Path, train: bool) -> Any:
    from torchvision.datasets import CIFAR10  # imports torch, which takes seconds

    try:
        return CIFAR10(root=str(path), train=train, download=False)
    except RuntimeError:  # torchvision raises it if files are missing or altered
        path.mkdir(parents=True, exist_ok=True)
        with FileLock(path / "download.lock"):
            return CIFAR10(root=str(path), train=train, download=True)


def _arrays(dataset: Any, size: int | None) -> Arrays:
    return Arrays(resize(dataset.data, size), np.asarray(dataset.targets, np.int64))
