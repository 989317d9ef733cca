"""Which files and folders of a data set belong to which split.

A published validation split is used wherever it lies. A set of shards that lacks one is refused.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from trainables.errors import DataError

SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("validation", "val", "valid", "dev"),
    "test": ("test",),
}
"""Split -> its names in files and folders."""
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
NAMED = 5
"""At most this many files or values are named in a message."""
COMPARED_BYTES = 1 << 28
"""Splits of more bytes than this are not compared before they are decoded."""

_SHARD = re.compile(r"(?P<index>\d{1,7})(?:-of-(?P<total>\d{1,7})(?:-[0-9a-f]+)?)?")


def parquet_files(path: Path | None) -> tuple[dict[str, list[Path]], list[Path]]:
    """Find the Parquet files of each split, in the folder or in its sub-folder ``data``.

    Args:
        path: the folder.

    Returns:
        The files of ``train``, ``test`` and perhaps ``val``, in the order of their shards; and the Parquet files beside
        them that belong to no split.

    Raises:
        DataError: the folder, a split or a shard is missing, or several sets of files claim one split.
    """
    if path is None:
        raise DataError("parquet needs a path: the folder with train.parquet and test.parquet")
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    here, below = _by_split(path), _by_split(path / "data")
    if any(here.get(split) and below.get(split) for split in SPLITS):
        raise DataError(f"{path}: has files of a split here and in data; move one of them away")
    found = {split: here.get(split) or below.get(split) or [] for split in SPLITS}
    for split in ("train", "test"):
        if not found[split]:
            raise DataError(f"{path}: has no {split}.parquet and no {split}-*.parquet{_hint(path, here, below)}")
    parts = {split: _whole(split, files) for split, files in found.items() if files}
    return parts, here.get("", []) + below.get("", [])


def has_parquet(path: Path) -> bool:
    """Whether the folder has Parquet files of a training split."""
    return any("train" in _by_split(folder) for folder in (path, path / "data"))


def some(names: Iterable[object]) -> str:
    """The names, with a count in place of those above ``NAMED``."""
    shown = [str(name) for name in names]
    more = len(shown) - NAMED
    return ", ".join(shown[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def small_enough(files: Iterable[Path]) -> bool:
    """Whether the files have at most ``COMPARED_BYTES`` bytes."""
    return sum(file.stat().st_size for file in files) <= COMPARED_BYTES


def shared_notes(keys: Mapping[str, Sequence[bytes]]) -> Iterator[str]:
    """Yields one line for each pair of splits with equal images.

    Args:
        keys: split -> for each of its images a key that equal images share.
    """
    words = {"train": "training", "val": "validation", "test": "test"}
    for one, other in (("train", "test"), ("val", "test"), ("train", "val")):
        known = set(keys.get(one, ()))
        count = sum(key in known for key in keys.get(other, ()))
        if count:
            what = f"{count:,} of {len(keys[other]):,} {words[other]} images are also {words[one]} images"
            yield f"{what}: {'selection' if other == 'val' else 'the test accuracy'} cannot be trusted"


def _by_split(folder: Path) -> dict[str, list[Path]]:
    """The Parquet files of each split; those of no split have the key ""."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.parquet")):
        if not file.name.startswith("."):
            found.setdefault(SPLIT_OF.get(file.stem.partition("-")[0], ""), []).append(file)
    return found


def _hint(path: Path, here: Mapping[str, list[Path]], below: Mapping[str, list[Path]]) -> str:
    there = [file.name for files in (*here.values(), *below.values()) for file in files]
    if there:
        return f"; there are: {some(there)}"
    deeper = sorted({file.parent for file in path.glob("*/train*.parquet")})
    return f"; set the path to {some(deeper)}" if deeper else ""


def _whole(split: str, files: list[Path]) -> list[Path]:
    """The files of one split, if they are one whole set: a single file, or all shards."""
    names = sorted({file.stem.partition("-")[0] for file in files})
    if len(names) > 1:
        raise DataError(f"{files[0].parent}: {' and '.join(names)} are both names of the {split} split; keep one")
    name, folder = names[0], files[0].parent
    shards = [file for file in files if file.stem != name]
    if not shards:
        return files
    if len(shards) < len(files):
        raise DataError(
            f"{folder}: has {name}.parquet and shards ({some(f.name for f in shards)}); keep one of the two"
        )
    matches = [_SHARD.fullmatch(file.stem.removeprefix(f"{name}-")) for file in shards]
    numbers = [int(match["index"]) for match in matches if match]
    totals = {match["total"] for match in matches if match}
    if totals <= {None}:
        _check_unsized(folder, name, [match["index"] for match in matches if match] if all(matches) else [])
        return shards
    if len(totals) > 1 or len(numbers) < len(shards):
        raise DataError(f"{folder}: these are not shards of one set: {some(file.name for file in shards)}")
    (total,) = totals
    first = 1 if 0 not in numbers and int(total) in numbers else 0
    missing = sorted(set(range(first, first + int(total))) - set(numbers))
    if missing:
        width = len(next(match["index"] for match in matches if match))
        gone = some(f"{name}-{number:0{width}d}-of-{total}.parquet" for number in missing)
        raise DataError(f"{folder}: the set of {int(total)} shards is incomplete; missing: {gone}")
    if len(shards) != int(total):
        raise DataError(f"{folder}: there are {len(shards)} shards of {int(total)}: {some(f.name for f in shards)}")
    return shards


def _check_unsized(folder: Path, name: str, indices: list[str]) -> None:
    """Refuse a gap in shards that are numbered from 0 or 1, but do not say how many there are."""
    numbers = [int(index) for index in indices]
    if numbers and min(numbers) <= 1:
        missing = sorted(set(range(min(numbers), max(numbers))) - set(numbers))
        if missing:
            width = min(map(len, indices))
            gone = some(f"{name}-{number:0{width}d}.parquet" for number in missing)
            raise DataError(f"{folder}: the shards are incomplete; missing: {gone}")
