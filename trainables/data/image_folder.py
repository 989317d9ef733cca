"""Image files in one folder per class: ``train/CLASS/*.png``, ``test/CLASS/*.png``, and perhaps ``val/CLASS/*.png``."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trainables.data.images import decode, stack, suffixes
from trainables.data.layout import SPLIT_OF, SPLITS, shared_notes, small_enough, some
from trainables.data.request import USUAL_COLUMNS, Columns, Survey
from trainables.data.splits import Arrays, Raw
from trainables.errors import DataError


def read(path: Path | None, size: int | None = None, columns: Columns = USUAL_COLUMNS) -> Raw:
    """Decode every image to RGB; the classes are the folders of ``train``, sorted by name.

    Images in sub-folders of a class belong to the class. We assume that a horizontal flip keeps the label, because a
    folder cannot say otherwise.

    Args:
        path: the folder that contains ``train``, ``test`` and perhaps ``val``.
        size: side in pixels that all images are resized to; None means 32.
        columns: not used.

    Raises:
        DataError: a folder is missing or empty, the splits have other classes than ``train``, there is only one class,
            or an image is broken.
    """
    parts = _listed(path).files
    train, test = _arrays(parts["train"], size or 32), _arrays(parts["test"], size or 32)
    val = _arrays(parts["val"], size or 32) if "val" in parts else None
    return Raw(train, test, tuple(parts["train"]), flips=True, val=val)


def survey(path: Path | None, columns: Columns = USUAL_COLUMNS, compare: bool = False) -> Survey:
    """Count the images from the list of files.

    Args:
        path: as in ``read``.
        columns: not used.
        compare: also look for files that two splits share, if they are small enough.

    Raises:
        DataError: as ``read`` does, except for broken images.
    """
    listed = _listed(path)
    sizes = {split: sum(map(len, classes.values())) for split, classes in listed.files.items()}
    shared = shared_notes(_keys(listed)) if compare and small_enough(listed.all()) else ()
    notes = (*listed.notes, *shared)
    return Survey(sizes["train"], sizes.get("val"), sizes["test"], len(listed.files["train"]), notes)


def sources(path: Path | None) -> list[Path]:
    """Return every file that ``read`` opens.

    Raises:
        DataError: a folder is missing or empty, or the classes differ.
    """
    return _listed(path).all()


@dataclass(frozen=True)
class _Listing:
    """The image files: split -> class -> files, both sorted by name. ``notes`` says what is left out."""

    files: dict[str, dict[str, list[Path]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def of(self, split: str) -> list[Path]:
        return [file for files in self.files[split].values() for file in files]

    def all(self) -> list[Path]:
        return [file for split in self.files for file in self.of(split)]


def _listed(path: Path | None) -> _Listing:
    if path is None:
        raise DataError("image_folder needs a path: the folder that contains train and test")
    listing = _Listing()
    for split, names in SPLITS.items():
        roots = [path / name for name in names if (path / name).is_dir()]
        if len(roots) > 1:
            raise DataError(f"{path}: {' and '.join(root.name for root in roots)} are both the {split} split; keep one")
        if not roots and split != "val":
            there = _shown(path) if path.is_dir() else []
            hint = f"; {path} has: {some(file.name for file in there)}" if there else ""
            raise DataError(f"{path / split}: no such folder{hint}")
        for root in roots:
            listing.files[split] = _classes(root, listing.notes)
    _check_classes(path, listing.files)
    others = [file.name for file in _shown(path) if file.name not in SPLIT_OF and file.is_dir()]
    if others:
        listing.notes.append(f"{path}: these folders are no splits and are not read: {some(others)}")
    return listing


def _shown(folder: Path) -> list[Path]:
    """What a folder contains, sorted by name; hidden files are left out."""
    return sorted(file for file in folder.iterdir() if not file.name.startswith("."))


def _check_classes(path: Path, files: dict[str, dict[str, list[Path]]]) -> None:
    train = files["train"]
    for split, classes in files.items():
        if odd := sorted(train.keys() ^ classes.keys()):
            raise DataError(f"{path}: train and {split} must have the same classes; only one of them has {some(odd)}")
    if len(train) == 1:
        raise DataError(
            f"{path}: train has only one class, {next(iter(train))}; put the images of each class into a folder of "
            "its own, as train/CLASS/*.png"
        )


def _classes(root: Path, notes: list[str]) -> dict[str, list[Path]]:
    """List the image files of each class; add to ``notes`` what does not fit."""
    folders = [folder for folder in _shown(root) if folder.is_dir()]
    if not folders:
        raise DataError(f"{root}: has no class folders")
    found: dict[str, list[Path]] = {}
    left_out = [file for file in _shown(root) if not file.is_dir()]
    deeper: dict[str, int] = {}
    for folder in folders:
        files = sorted(_below(folder, set()))
        found[folder.name] = [file for file in files if file.suffix.lower() in suffixes()]
        left_out += [file for file in files if file.suffix.lower() not in suffixes()]
        if not found[folder.name]:
            there = f"; there are: {some(file.name for file in files)}" if files else ""
            raise DataError(f"{folder}: has no images that Pillow reads{there}")
        if nested := sum(file.parent != folder for file in found[folder.name]):
            deeper[folder.name] = nested
    if left_out:
        names = some(file.relative_to(root) for file in left_out)
        count = "1 file is" if len(left_out) == 1 else f"{len(left_out):,} files are"
        notes.append(f"{root}: {count} left out, because {_reason(root, left_out)}: {names}")
    if deeper:
        names = some(f"{name} {count:,}" for name, count in deeper.items())
        notes.append(f"{root}: images in sub-folders of a class count as images of the class: {names}")
    return found


def _reason(root: Path, left_out: list[Path]) -> str:
    strays = sum(file.parent == root and file.suffix.lower() in suffixes() for file in left_out)
    reasons = ["Pillow does not read this kind of file"] if strays < len(left_out) else []
    return " or ".join([*reasons, *(["no folder of a class contains it"] if strays else [])])


def _below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yields all files below a folder. Links to folders are followed, but no folder is entered twice."""
    if (real := folder.resolve()) in seen:
        return
    seen.add(real)
    for entry in _shown(folder):
        if entry.is_dir():
            yield from _below(entry, seen)
        else:
            yield entry


def _keys(listing: _Listing) -> dict[str, list[bytes]]:
    """For each file a key that equal files share. Only files with equal sizes are read."""
    sizes = {file: os.stat(file).st_size for file in listing.all()}
    counts: dict[int, int] = {}
    for size in sizes.values():
        counts[size] = counts.get(size, 0) + 1

    def key(file: Path) -> bytes:
        if counts[sizes[file]] == 1:
            return str(file).encode(errors="surrogateescape")
        return hashlib.sha256(file.read_bytes()).digest()

    return {split: [key(file) for file in listing.of(split)] for split in listing.files}


def _arrays(files: dict[str, list[Path]], size: int) -> Arrays:
    images = ((str(file), decode(file, size, str(file))) for group in files.values() for file in group)
    counts = [len(group) for group in files.values()]
    labels_B = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return Arrays(stack(images, sum(counts)), labels_B)
