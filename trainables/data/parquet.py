"""Parquet files in the Hugging Face hub's layout: encoded images in a struct column, class indices in another column.

A folder contains ``train.parquet`` or shards ``train-*.parquet``, and the same for ``test``.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainables.data.images import Pixels, decode, stack
from trainables.data.splits import Arrays, Raw
from trainables.errors import DataError

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels")
BATCH_ROWS = 1024


def read(path: Path | None, size: int | None = None) -> Raw:
    """Decode every image to RGB.

    Class names come from the schema's ``huggingface`` metadata; without it they are "0", "1", ... up to the
    largest training label. We assume that a horizontal flip keeps the label, because Parquet cannot say otherwise.

    Args:
        path: the folder.
        size: side in pixels to resize to; None keeps the images' size, which must then be the same for all.

    Raises:
        DataError: a folder, file or column is missing, a file or image is broken, or an image has another size.
    """
    train_files, test_files = _shards(path, "train"), _shards(path, "test")
    train, test = _arrays(train_files, size), _arrays(test_files, size)
    return Raw(train, test, _classes(train_files[0], train.labels_B), flips=True)


def count(path: Path | None) -> tuple[int, int]:
    """Numbers of training and test images, from the files' footers only.

    Raises:
        DataError: the folder or a file is missing, or a file is broken.
    """
    train, test = (sum(_rows(file) for file in _shards(path, part)) for part in ("train", "test"))
    return train, test


def sources(path: Path | None) -> list[Path]:
    """Return every file that ``read`` opens.

    Raises:
        DataError: the folder or a file is missing.
    """
    return [*_shards(path, "train"), *_shards(path, "test")]


def _shards(path: Path | None, part: str) -> list[Path]:
    if path is None:
        raise DataError("parquet needs a path: the folder with train.parquet and test.parquet")
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    single = path / f"{part}.parquet"
    files = [single] if single.is_file() else sorted(path.glob(f"{part}-*.parquet"))
    if not files:
        raise DataError(f"{path}: has no {part}.parquet and no {part}-*.parquet")
    return files


def _open(file: Path) -> Any:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: truncated, or not a Parquet file ({_line(error)})") from error


def _rows(file: Path) -> int:
    with _open(file) as opened:
        return int(opened.metadata.num_rows)


def _arrays(files: list[Path], size: int | None) -> Arrays:
    labels: list[int] = []

    def images() -> Iterator[tuple[str, Pixels]]:
        for file in files:
            for row, (data, label) in enumerate(_records(file)):
                where = f"{file}, row {row}"
                if data is None or label is None:
                    raise DataError(f"{where}: the image bytes or the label is missing")
                labels.append(label)
                yield where, decode(data, size, where)

    count = sum(_rows(file) for file in files)
    if count == 0:
        raise DataError(f"{files[0]}: has no images")
    images_BHWC = stack(images(), count)
    return Arrays(images_BHWC, np.asarray(labels, np.int64))


def _records(file: Path) -> Iterator[tuple[bytes | None, int | None]]:
    """Yield (encoded image, label) pairs, with one batch of rows in memory at a time."""
    with _open(file) as opened:
        columns = _columns(opened.schema_arrow, file)
        try:
            for batch in opened.iter_batches(BATCH_ROWS, columns=columns):
                encoded = batch.column(columns[0]).field("bytes")
                yield from zip(encoded.to_pylist(), batch.column(columns[1]).to_pylist(), strict=True)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file}: truncated or altered ({_line(error)})") from error


def _columns(schema: Any, file: Path) -> list[str]:
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
    if image is None or label is None:
        raise DataError(f"{file}: needs a column img or image and a column label or labels; has {schema.names}")
    image_type, label_type = schema.field(image).type, schema.field(label).type
    if not pa.types.is_struct(image_type) or image_type.get_field_index("bytes") < 0:
        raise DataError(f"{file}: column {image!r} must be a struct with a field 'bytes', not {image_type}")
    if not pa.types.is_integer(label_type):
        raise DataError(f"{file}: column {label!r} must hold integers, not {label_type}")
    return [image, label]


def _classes(file: Path, labels_B: NDArray[np.int64]) -> tuple[str, ...]:
    with _open(file) as opened:
        schema = opened.schema_arrow
        label = _columns(schema, file)[1]
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in described["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        # The metadata is optional, and so is every part of it.
        return tuple(str(index) for index in range(int(labels_B.max(initial=-1)) + 1))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
