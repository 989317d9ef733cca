"""Writes files whole or not at all, also in a power cut, and moves files out of the way."""

import itertools
import os
from pathlib import Path

from tuner.errors import ServiceError, SpecError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file to the disk under another name in the same folder, then rename it.

    Raises:
        OSError: it cannot be written. The old file stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, so that they survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, content: str | bytes, force: bool) -> None:
    """Write a file whole or not at all. An existing file is replaced only with ``force``.

    Raises:
        SpecError: as ``check_new``.
        ServiceError: the file cannot be written.
    """
    check_new(path, force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.encode() if isinstance(content, str) else content)
    except (OSError, ValueError) as error:
        raise ServiceError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def set_aside(file: Path, word: str) -> Path:
    """Move a file out of the way, to the first free of the names ``FILE.word-1``, ``FILE.word-2`` and so on.

    Returns:
        Where it is now.

    Raises:
        OSError: it cannot be moved.
    """
    names = (file.with_name(f"{file.name}.{word}-{number}") for number in itertools.count(1))
    return file.rename(next(name for name in names if not name.exists()))


def check_new(path: Path, force: bool) -> None:
    """Refuse a path that already exists.

    Raises:
        SpecError: it exists and ``force`` is off, or it is a folder.
        ServiceError: the path cannot be checked.
    """
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise ServiceError(f"cannot write {path}: {error.strerror}") from error
    if is_folder:
        raise SpecError(f"{path} is a folder; name a file")
    if exists and not force:
        raise SpecError(f"{path} exists already; give --force to overwrite it")
