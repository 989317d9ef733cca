"""Packs the user's own code, to travel with a job: a zip of a folder. The same files give the same bytes."""

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec

from tuner.errors import SpecError

IGNORE_FILES = (".gitignore", ".rayignore")
NEVER = (".git", "__pycache__", ".venv", "tuner-runs")
MOST_BYTES = 50 * 2**20
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of all files in the zip, the earliest that a zip can hold. Real times would change the bytes."""


def pack(folder: Path) -> bytes:
    """A zip of the files of a folder, except those that its ignore files name.

    Raises:
        SpecError: they are larger than ``MOST_BYTES``, or cannot be read.
    """
    packed, total = io.BytesIO(), 0
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(_files(folder)):
            try:
                content = file.read_bytes()
            except OSError as error:
                raise SpecError(f"code: {file}: cannot be read: {error.strerror}") from error
            total += len(content)
            if total > MOST_BYTES:
                raise SpecError(
                    f"code: {folder} holds more than {MOST_BYTES:,} bytes, which is too much to travel; name a smaller"
                    f" folder, or list what is not needed in {folder / IGNORE_FILES[1]}"
                )
            archive.writestr(zipfile.ZipInfo(str(file.relative_to(folder)), EPOCH), content)
    return packed.getvalue()


def unpack(packed: bytes, folder: Path) -> None:
    """Write the files of ``pack`` into a folder. No file can land outside it."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        archive.extractall(folder)


def _files(top: Path) -> Iterator[Path]:
    """Files below a folder. An ignore file applies to its own folder and all folders below."""
    rules: dict[Path, GitIgnoreSpec] = {}
    for here, folders, files in os.walk(top):
        folder = Path(here)
        lines = [line for name in IGNORE_FILES if name in files for line in _lines(folder / name)]
        if lines:
            rules[folder] = GitIgnoreSpec.from_lines(lines)
        folders[:] = [name for name in folders if name not in NEVER and not _ignored(rules, folder / name, "/")]
        yield from (folder / name for name in files if not _ignored(rules, folder / name))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise SpecError(f"code: {file}: cannot be read: {error}") from error


def _ignored(rules: dict[Path, GitIgnoreSpec], path: Path, ending: str = "") -> bool:
    found = None
    for folder, rule in rules.items():
        if path.is_relative_to(folder):
            # As in git, the nearest ignore file with a rule for a path decides. The nearest one comes last.
            said = rule.check_file(f"{path.relative_to(folder)}{ending}").include
            found = found if said is None else said
    return bool(found)
