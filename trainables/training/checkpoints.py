"""Checkpoints: a trial's state after an epoch, one safetensors file per checkpoint.

A file's name gives its epoch and the attempt that wrote it. The header repeats both and adds a sha256 of the tensors,
and of a note where there is one.
All attempts of a trial share one folder. The driver's record, not the folder's content, decides which checkpoint an
attempt resumes from.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safetensors import torch as safetensors
from torch import Tensor

from trainables.errors import StoreError
from trainables.file_store import Folder, files_at, inside, split
from trainables.training.trainer import digest

KEEP = 2
"""Number of checkpoints that are kept: the newest and the one before it.

The report of the newest epoch may never reach the driver; the next attempt then needs the checkpoint before it. An
attempt trains an epoch only when the driver calls it, so a fenced-off attempt is at most this one epoch ahead.
"""

_NAME = re.compile(r"\.?(?P<epoch>\d+)-(?P<attempt>\d+)\.safetensors(\.\d+)?")
"""The file name of a checkpoint, complete or partial."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """An undamaged checkpoint: its state after an epoch, and the note that was saved with it."""

    epoch: int
    state: dict[str, Tensor]
    note: str


def save(folder: Folder, state: Mapping[str, Tensor], epoch: int, attempt: int, note: str = "") -> None:
    """Write the checkpoint of an epoch, and delete the checkpoints that no attempt will resume from.

    Among the checkpoints of this and earlier attempts up to this epoch, those of the newest ``KEEP`` epochs stay and
    the older ones are deleted. The files of later attempts always stay.

    Args:
        folder: the trial's folder, shared by its attempts; it is created if missing.
        state: CPU tensors.
        epoch: number of finished epochs, from 1.
        attempt: the attempt's fencing number, from 1.
        note: any text that belongs to the state.

    Raises:
        DiskFull: the disk is full; the earlier files are unchanged.
        StoreError: the bucket is unreachable or refuses access.
    """
    write(inside(folder, _name(epoch, attempt)), state, attempt, _description(state, epoch, attempt, note))
    files = files_at(folder)
    found = {name: match for name in files.names() if (match := _NAME.fullmatch(name))}
    old = {name: int(match["epoch"]) for name, match in found.items() if int(match["attempt"]) <= attempt}
    whole = {at for name, at in old.items() if at <= epoch and not name.startswith(".")}
    oldest_kept = min(sorted(whole)[-KEEP:])
    for name, at in old.items():
        if at < oldest_kept:
            files.delete(name)


def newest(folder: Folder, accepted: Sequence[tuple[int, int]]) -> Iterator[dict[str, Tensor]]:
    """Yield the states of the undamaged checkpoints; see ``read``."""
    return (checkpoint.state for checkpoint in read(folder, accepted))


def read(folder: Folder, accepted: Sequence[tuple[int, int]]) -> Iterator[Checkpoint]:
    """Yield the undamaged checkpoints, in the order of ``accepted``; read one file at a time.

    Args:
        folder: the trial's folder; it need not exist.
        accepted: (epoch, attempt) of the checkpoints that may be used, newest first; all other files are ignored.

    Raises:
        StoreError: the bucket is unreachable or refuses access. Its checkpoints may be undamaged, so they are not
            skipped.
    """
    there = set(files_at(folder).names()) if accepted else set()
    for epoch, attempt in accepted:
        checkpoint = _read(folder, epoch, attempt) if _name(epoch, attempt) in there else None
        if checkpoint is not None:
            yield checkpoint


def write(place: Folder, tensors: Mapping[str, Tensor], attempt: int, about: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file completely or not at all; once written, it survives a power failure.

    Args:
        place: the path or URL of the file; its folder is created if missing.
        tensors: CPU tensors.
        attempt: the writer's fencing number; it gives each attempt its own partial file.
        about: the file's metadata.

    Raises:
        DiskFull: the disk is full.
        StoreError: the bucket is unreachable or refuses access.
    """
    content = safetensors.save(dict(tensors), None if about is None else dict(about))
    folder, name = split(place)
    files_at(folder).write(name, content, writer=attempt)


def _name(epoch: int, attempt: int) -> str:
    return f"{epoch:06d}-{attempt:03d}.safetensors"


def _description(state: Mapping[str, Tensor], epoch: int, attempt: int, note: str) -> dict[str, str]:
    about = {"epoch": str(epoch), "attempt": str(attempt), "sha256": digest(dict(state))}
    if not note:
        return about
    return {**about, "note": note, "note_sha256": hashlib.sha256(note.encode()).hexdigest()}


def _read(folder: Folder, epoch: int, attempt: int) -> Checkpoint | None:
    """The content of a file; None if the file is missing or damaged."""
    name = _name(epoch, attempt)
    try:
        content = files_at(folder).read(name)
        state = safetensors.load(content)
        metadata = _metadata(content)
        note = str(metadata.get("note", ""))
        whole = metadata == _description(state, epoch, attempt, note)
    except FileNotFoundError:
        return None
    except StoreError:
        raise
    except Exception as error:
        # A damaged file can raise any exception: one flipped byte can change the JSON, a type's name or a size.
        _log.warning("%s: refused, the file is damaged (%s: %s)", inside(folder, name), type(error).__name__, error)
        return None
    if not whole:
        _log.warning("%s: refused, its sha256, epoch or attempt does not match", inside(folder, name))
    return Checkpoint(epoch, state, note) if whole else None


def _metadata(content: bytes) -> Any:
    """The metadata of a safetensors file: its first 8 bytes give the header's length, then follows the JSON header."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end])["__metadata__"]
