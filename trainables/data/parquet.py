"""Parquet files in the Hugging Face hub's layout: encoded images in one column, and labels in another.

A folder, or its sub-folder ``data``, contains ``train.parquet`` or shards ``train-*.parquet``, the same for ``test``,
and perhaps for ``validation``.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainables.data.images import Pixels, decode, stack
from trainables.data.layout import parquet_files, shared_notes, small_enough, some
from trainables.data.request import USUAL_COLUMNS, Columns, Survey
from trainables.data.splits import Arrays, Raw
from trainables.errors import DataError

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels")
TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_boolean)
"""Tests of the types whose values are taken as texts."""
BATCH_ROWS = 1024


def read(path: Path | None, size: int | None = None, columns: Columns = USUAL_COLUMNS) -> Raw:
    """Decode every image to RGB.

    Labels are integers, with class names in the schema's ``huggingface`` metadata or without, or texts. Without names,
    each label that the training images have is a class; texts are sorted. If files name their classes in another order,
    the labels are mapped by name. We assume that a horizontal flip keeps the label, because Parquet cannot say
    otherwise.

    Args:
        path: the folder.
        size: side in pixels to resize to; None keeps the images' size, which must then be the same for all.
        columns: the columns of the images and of the labels.

    Raises:
        DataError: a folder, file, shard or column is missing, a file or image is broken, an image has another size, a
            label is hidden (-1) or unknown, files name other classes, or there is only one class.
    """
    parts, _ = parquet_files(path)
    labels = _read_labels(parts, columns)
    arrays = {split: Arrays(_images(files, size, columns), labels.labels_B[split]) for split, files in parts.items()}
    return Raw(arrays["train"], arrays["test"], labels.classes, flips=True, val=arrays.get("val"))


def survey(path: Path | None, columns: Columns = USUAL_COLUMNS, compare: bool = False) -> Survey:
    """Count the images from the files' footers and labels.

    Args:
        path: the folder.
        columns: the columns of the images and of the labels.
        compare: also tell what ``splits.doubts`` tells after decoding: classes without a training image, and images
            that two splits share, if the files are small enough.

    Raises:
        DataError: as ``read`` does, except for broken images.
    """
    parts, others = parquet_files(path)
    labels = _read_labels(parts, columns)
    notes = list(labels.notes)
    if others:
        notes.append(f"{path}: files of no split are not read: {some(file.name for file in others)}")
    empty = sorted(set(range(len(labels.classes))) - set(labels.labels_B["train"].tolist()))
    if compare and empty:
        names = some(labels.classes[index] for index in empty)
        notes.append(f"{parts['train'][0]}: classes without a training image: {names}")
    if compare and small_enough(sources(path)):
        notes += shared_notes({split: _keys(files, columns) for split, files in parts.items()})
    counts = {split: len(labels_B) for split, labels_B in labels.labels_B.items()}
    classes = len(np.unique(labels.labels_B["train"]))
    return Survey(
        counts["train"],
        counts.get("val"),
        counts["test"],
        classes,
        tuple(notes),
        _first_shape(parts["train"], columns),
        len(labels.classes),
    )


def sources(path: Path | None) -> list[Path]:
    """Return every file that ``read`` opens.

    Raises:
        DataError: the folder, a file or a shard is missing.
    """
    parts, _ = parquet_files(path)
    return [file for files in parts.values() for file in files]


def _open(file: Path) -> Any:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: truncated, or not a Parquet file ({_line(error)})") from error


def _images(files: list[Path], size: int | None, columns: Columns) -> Pixels:
    count = sum(_rows(file) for file in files)
    return stack(((where, decode(data, size, where)) for where, data in _encoded(files, columns)), count)


def _first_shape(files: list[Path], columns: Columns) -> tuple[int, ...] | None:
    try:
        where, data = next(_encoded(files, columns, 1))
        return decode(data, None, where).shape
    except (DataError, StopIteration):
        return None  # ``read`` says what is broken


def _rows(file: Path) -> int:
    with _open(file) as opened:
        return int(opened.metadata.num_rows)


def _encoded(files: list[Path], columns: Columns, rows: int = BATCH_ROWS) -> Iterator[tuple[str, bytes]]:
    """Yields (place, encoded image) pairs, with one batch of ``rows`` in memory at a time."""
    for file in files:
        with _open(file) as opened:
            if opened.metadata.num_rows == 0:
                continue  # A file without rows can have columns without a type.
            name = _image_column(opened.schema_arrow, file, columns)
            row = 0
            try:
                for batch in opened.iter_batches(rows, columns=[name]):
                    column = batch.column(0)
                    encoded = column.field("bytes") if pa.types.is_struct(column.type) else column
                    for data in encoded.to_pylist():
                        if data is None:
                            raise DataError(f"{file}, row {row}: the image bytes are missing")
                        yield f"{file}, row {row}", data
                        row += 1
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{file}: truncated or altered ({_line(error)})") from error


def _keys(files: list[Path], columns: Columns) -> list[bytes]:
    return [hashlib.sha256(data).digest() for _, data in _encoded(files, columns)]


def _image_column(schema: Any, file: Path, columns: Columns) -> str:
    name = _column(schema, file, "image", columns.image, IMAGE_COLUMNS)
    found = schema.field(name).type
    if pa.types.is_struct(found) and found.get_field_index("bytes") >= 0:
        found = found.field("bytes").type
    if not (pa.types.is_binary(found) or pa.types.is_large_binary(found)):
        raise DataError(f"{file}: column {name!r} must hold encoded images, or a struct with 'bytes', not {found}")
    return name


def _column(schema: Any, file: Path, what: str, given: str | None, usual: Sequence[str]) -> str:
    wanted = usual if given is None else (given,)
    name = next((name for name in wanted if name in schema.names), None)
    if name is None:
        hint = f"; or set data.{what}_column" if given is None else ""
        raise DataError(f"{file}: needs a column {' or '.join(wanted)}; has {some(schema.names)}{hint}")
    return name


@dataclass(frozen=True)
class _FileLabels:
    """The labels of one file: integers or texts; ``names`` are the classes that the metadata gives to integers."""

    file: Path
    values: NDArray[Any]
    names: tuple[str, ...] | None

    @property
    def kind(self) -> str:
        return "integers" if self.values.dtype == np.int64 else "texts"


@dataclass(frozen=True)
class _Labels:
    """The labels of each split as indices of ``classes``, and what should be said about them."""

    labels_B: Mapping[str, NDArray[np.int64]]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def _read_labels(parts: Mapping[str, list[Path]], columns: Columns) -> _Labels:
    found = {split: [_file_labels(file, columns) for file in files if _rows(file)] for split, files in parts.items()}
    every = [one for group in found.values() for one in group]
    for split, group in found.items():
        if not group:
            raise DataError(f"{parts[split][0]}: has no images")
    first = every[0]
    for one in every:
        if one.kind != first.kind:
            raise DataError(f"{first.file} has {first.kind} as labels, but {one.file} has {one.kind}")
    named = [one for one in every if one.names is not None]
    labels = _of_names(found, named) if named else _of_values(found)
    if len(np.unique(labels.labels_B["train"])) == 1:
        only = labels.classes[int(labels.labels_B["train"][0])]
        raise DataError(f"{first.file}: all training images have the same label, {only}; there is only one class")
    return labels


def _of_names(found: Mapping[str, list[_FileLabels]], named: list[_FileLabels]) -> _Labels:
    """Labels that are indices of names. The names of the first file that has some are the classes."""
    classes, reference = named[0].names or (), named[0].file
    notes = []
    labels_B = {}
    for split, group in found.items():
        for one in group:
            _check_indices(split, one, len(classes))
        labels_B[split] = np.concatenate([_mapped(one, classes, reference) for one in group])
    if unnamed := [one.file.name for group in found.values() for one in group if one.names is None]:
        notes.append(f"{some(unnamed)}: does not name its classes; the labels are taken as those of {reference.name}")
    return _Labels(labels_B, classes, tuple(notes))


def _mapped(one: _FileLabels, classes: tuple[str, ...], reference: Path) -> NDArray[np.int64]:
    """The labels of a file as indices of ``classes``, by name."""
    if one.names is None or one.names == classes:
        return one.values
    if sorted(one.names) != sorted(classes) or len(set(classes)) < len(classes):
        raise DataError(
            f"{reference} names the classes {some(classes)}, but {one.file} names {some(one.names)}; "
            "the files must have the same classes"
        )
    place = np.array([classes.index(name) for name in one.names], np.int64)
    mapped: NDArray[np.int64] = place[one.values]
    return mapped


def _check_indices(split: str, one: _FileLabels, classes: int) -> None:
    _check_hidden(split, one)
    if len(one.values) and one.values.max() >= classes:
        low, high = one.values.min(), one.values.max()
        raise DataError(
            f"{one.file}: {split} labels are {low}..{high}, outside 0..{classes - 1}, the {classes} named classes"
        )


def _check_hidden(split: str, one: _FileLabels) -> None:
    hidden = int((one.values < 0).sum()) if one.kind == "integers" else 0
    if not hidden:
        return
    way = "remove these images; or store the classes as texts, if this number is one of them"
    if split == "test":
        way = (
            "use a split with labels as the test set: move this file away, and name the validation files test-*.parquet"
        )
    lowest = int(one.values.min())
    raise DataError(f"{one.file}: the {split} labels are hidden ({lowest} in {hidden:,} of {len(one.values):,}); {way}")


def _of_values(found: Mapping[str, list[_FileLabels]]) -> _Labels:
    """Labels without names: every value that the training images have is a class, and its text is its name."""
    values: dict[str, NDArray[Any]] = {}
    for split, group in found.items():
        for one in group:
            _check_hidden(split, one)
        values[split] = np.concatenate([one.values for one in group])
    known = np.unique(values["train"])
    for split, part in values.items():
        if unknown := sorted(set(part.tolist()) - set(known.tolist())):
            raise DataError(f"{found[split][0].file}: the {split} labels {some(unknown)} occur in no training image")
    labels_B = {split: np.searchsorted(known, part).astype(np.int64) for split, part in values.items()}
    notes = []
    if known.dtype == np.int64 and not np.array_equal(known, np.arange(len(known))):
        first = found["train"][0].file
        notes.append(
            f"{first}: the labels are {len(known):,} different numbers, {known[0]} to {known[-1]}; they are taken as "
            f"the names of {len(known):,} classes"
        )
    return _Labels(labels_B, tuple(str(value) for value in known.tolist()), tuple(notes))


def _file_labels(file: Path, columns: Columns) -> _FileLabels:
    with _open(file) as opened:
        schema = opened.schema_arrow
        _image_column(schema, file, columns)
        name = _column(schema, file, "label", columns.label, LABEL_COLUMNS)
        try:
            array = opened.read(columns=[name]).column(0).combine_chunks()
            kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
            if array.null_count:
                row = array.is_null().to_pylist().index(True)
                raise DataError(f"{file}, row {row}: the label is missing")
            if pa.types.is_integer(kind):
                values = array.cast(pa.int64()).to_numpy(zero_copy_only=False)
                return _FileLabels(file, values, _names(schema, name))
            if any(is_kind(kind) for is_kind in TEXTS):
                return _FileLabels(file, np.array(array.cast(pa.string()).to_pylist(), np.str_), None)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file}: truncated or altered ({_line(error)})") from error
    raise DataError(f"{file}: column {name!r} must hold integers or texts, not {kind}")


def _names(schema: Any, label: str) -> tuple[str, ...] | None:
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in described["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        return None  # The metadata is optional, and so is every part of it.


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
