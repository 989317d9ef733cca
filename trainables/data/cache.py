"""The cache of decoded data on disk: one process decodes the data, and all processes map the files.

An entry is the folder ``<cache folder>/<key>/`` with six ``.npy`` files and ``meta.json``. The key covers the request,
the source files' names, sizes and times, and the modules of a user's own reader, so changed data gets a new entry. Only
damaged entries are deleted. If a reader reads files that we do not know, its data is not cached, and we say so.
"""

import hashlib
import importlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from trainables.catalog import DATASETS, is_dotted
from trainables.data.checksums import check_file
from trainables.data.request import DataRequest
from trainables.data.splits import Arrays, Raw, Splits, described, doubts, split
from trainables.errors import CodeError, DataError, TrainableError
from trainables.own_reader import SOURCES, OwnReader

__all__ = ["DataRequest", "load"]

CACHE_VERSION = 3
"""Increase this number when the same request decodes to other arrays than before."""
PARTS = ("train", "val", "test")

Progress = Callable[[str], None]


def load(request: DataRequest, cache_dir: Path, progress: Progress | None = None) -> Splits:
    """Return the splits; decode them only if no process has decoded them before.

    The arrays are copy-on-write maps of the cached files. The processes of a machine share one copy in memory. Writing
    to an array changes neither the file nor the arrays of other processes.

    Args:
        request: the data set and its split.
        cache_dir: folder of the cache entries, created if missing; ``cifar10`` without a path also downloads to it.
        progress: called with a line of text when decoding starts and when it ends.

    Raises:
        DataError: data is missing, broken or altered, there are fewer images than requested, or the cache
            cannot be written.
        CodeError: a dotted name cannot be imported, or its function does not return a ``Raw`` that can be used.
        TrainableError: there is no data set with that name.
    """
    source = _source(request, cache_dir)
    if is_dotted(request.name) and not OwnReader.of(request.name, source).is_cached:
        return _uncached(request, progress)
    entry = cache_dir / _key(request, source)
    splits = _open(entry)
    if splits is not None:
        return splits
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{entry}.lock"):
            splits = _open(entry)
            if splits is None:
                made = _make(request, source, entry, progress)
                if made is not None:
                    return made
                splits = _open(entry)
    except OSError as error:
        raise DataError(
            f"{cache_dir}: cannot write the data cache ({error}); set TUNER_CACHE to another folder"
        ) from error
    if splits is None:
        raise DataError(f"{entry}: cannot read the cache entry that was just written")
    return splits


def _source(request: DataRequest, cache_dir: Path) -> Path | None:
    if request.path is not None:
        return Path(request.path).absolute()
    return cache_dir / "downloads" / "cifar10" if request.name == "cifar10" else None


def _reader(name: str) -> Any:
    if name not in DATASETS:
        known = ", ".join(sorted(DATASETS))
        raise TrainableError(f"no data set named {name!r} (there are: {known}; or module:callable)")
    return importlib.import_module(DATASETS[name])


def _key(request: DataRequest, source: Path | None) -> str:
    try:
        own = OwnReader.of(request.name, source) if is_dotted(request.name) else None
        found: list[Path] = _reader(request.name).sources(source) if own is None else own.files()
        stats = [(str(file), file.stat()) for file in found]
        code = [] if own is None else [own.code_digest()]
    except OSError as error:
        raise DataError(f"{error.filename or source}: cannot be read ({error.strerror})") from error
    files = [[file, stat.st_size, stat.st_mtime_ns] for file, stat in stats]
    described = json.dumps([CACHE_VERSION, asdict(request), files, *code], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:32]


def _uncached(request: DataRequest, progress: Progress | None) -> Splits:
    """The splits of a reader whose files we do not know.

    Raises:
        CodeError: as ``load``; or, where progress is shown, two calls of the reader gave different images.
    """
    started_s = time.monotonic()
    _check_sums(request, None)
    raw, _ = OwnReader.of(request.name, None).read()
    splits = split(raw, request)
    if progress is not None:
        _check_second_call(request, None, splits)
        _tell(raw, splits, (), started_s, progress)
        progress(
            f"not cached: {request.name} has no data.path, so every process calls it; to cache its images, set "
            f"data.path, or add a function {SOURCES}(path) to its module that returns the files it reads"
        )
    return splits


def _check_second_call(request: DataRequest, source: Path | None, splits: Splits) -> None:
    """Refuse a reader that gives other images each time: without the cache, every process calls it for itself."""
    raw, _ = OwnReader.of(request.name, source).read()
    if split(raw, request).fingerprint != splits.fingerprint:
        raise CodeError(
            f"{request.name!r} returned other images at its second call; draw from random, numpy.random or torch, "
            "or give your own generator a fixed seed"
        )


def _tell(raw: Raw, splits: Splits, notes: Iterable[str], started_s: float, progress: Progress) -> None:
    progress(f"decoded {described(splits)} in {time.monotonic() - started_s:.1f} s")
    for note in (*notes, *doubts(raw, splits)):
        progress(f"warning: {note}")


def _make(request: DataRequest, source: Path | None, entry: Path, progress: Progress | None) -> Splits | None:
    """Decode the data into an entry; return the splits instead if they must not be cached.

    Raises:
        CodeError: as ``_uncached``, if they must not be cached.
    """
    started_s = time.monotonic()
    say = progress or (lambda line: None)
    say(f"decoding {request.name}" + (f" from {source}" if source else ""))
    _check_sums(request, source)
    raw, unnamed = _read(request, source)
    splits = split(raw, request)
    if unnamed and progress is not None:
        _check_second_call(request, source, splits)
    notes = () if is_dotted(request.name) else _reader(request.name).survey(source, request.columns).notes
    _tell(raw, splits, notes, started_s, say)
    if unnamed:
        more = f" and {len(unnamed) - 1:,} more files" if len(unnamed) > 1 else ""
        say(
            f"not cached: {request.name} also opened {unnamed[0]}{more}, outside data.path; to cache its images, add a "
            f"function {SOURCES}(path) to its module that returns the files it reads"
        )
        return splits
    _write(splits, entry)
    return None


def _read(request: DataRequest, source: Path | None) -> tuple[Raw, tuple[Path, ...]]:
    """The data set, and the files that were read although the key does not cover them."""
    if is_dotted(request.name):
        return OwnReader.of(request.name, source).read()
    raw: Raw = _reader(request.name).read(source, request.size, request.columns)
    return raw, ()


def _check_sums(request: DataRequest, source: Path | None) -> None:
    if not request.sha256:
        return
    if source is None:
        raise DataError(f"{request.name}: there are checksums, but no path with files to check")
    for name, expected in request.sha256:
        check_file(source, name, expected)


def _write(splits: Splits, entry: Path) -> None:
    """Write to a draft folder beside the entry, then rename it: a reader sees a complete entry or none."""
    draft = entry.with_name(f"{entry.name}.{uuid.uuid4().hex}.tmp")
    draft.mkdir()
    try:
        arrays = {name: _save(array, draft / f"{name}.npy") for name, array in _named_arrays(splits).items()}
        about = {"classes": splits.classes, "fingerprint": splits.fingerprint, "flips": splits.flips}
        (draft / "meta.json").write_text(json.dumps({**about, "arrays": arrays}, indent=1))
        shutil.rmtree(entry, ignore_errors=True)  # an existing entry is damaged
        draft.rename(entry)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _named_arrays(splits: Splits) -> dict[str, NDArray[Any]]:
    parts: dict[str, Arrays] = {part: getattr(splits, part) for part in PARTS}
    images = {f"{part}_images": arrays.images_BHWC for part, arrays in parts.items()}
    return images | {f"{part}_labels": arrays.labels_B for part, arrays in parts.items()}


def _save(array: NDArray[Any], file: Path) -> dict[str, object]:
    np.save(file, array, allow_pickle=False)
    return {"shape": list(array.shape), "bytes": file.stat().st_size}


def _open(entry: Path) -> Splits | None:
    """Map the files of an entry; None if the entry is missing or damaged."""
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        train, val, test = (
            Arrays(_map(entry, meta, f"{part}_images"), _map(entry, meta, f"{part}_labels")) for part in PARTS
        )
        return Splits(train, val, test, tuple(meta["classes"]), meta["fingerprint"], meta["flips"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _map(entry: Path, meta: dict[str, Any], name: str) -> NDArray[Any]:
    file, expected = entry / f"{name}.npy", meta["arrays"][name]
    if file.stat().st_size != expected["bytes"]:
        raise ValueError(f"{file}: wrong size")
    array: NDArray[Any] = np.load(file, mmap_mode="c", allow_pickle=False)
    if list(array.shape) != expected["shape"]:
        raise ValueError(f"{file}: wrong shape")
    return array
