"""Files that are there whole or not at all, also after a power cut."""

import os
from pathlib import Path


def durably(path: Path, content: bytes) -> None:
    """Write a file beside its place, onto the disk, then move it there.

    Raises:
        OSError: it cannot be written; what was there before still is.
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
    """Put the names in a folder onto the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
