"""Checks source files against their expected checksums."""

import hashlib
from pathlib import Path

from trainables.errors import DataError


def check_file(root: Path, name: str, expected: str) -> None:
    """Raise ``DataError``, with both checksums, unless a file has the expected sha256.

    Args:
        root: the data's folder; or its only file, in whose folder ``name`` is then looked up.
        name: name of the file, relative to the folder.
        expected: the checksum, 64 hexadecimal digits.
    """
    file = root.parent / name if root.is_file() else root / name
    try:
        with file.open("rb") as opened:
            actual = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    if actual != expected.lower():
        raise DataError(f"{file}: sha256 is {actual}, not {expected.lower()}; fetch the file again")
