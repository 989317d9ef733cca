"""Checkpoints: a trial's state after an epoch, one safetensors file each, and which of them to go on from.

A file is named by its epoch and by the attempt that wrote it, and holds both again beside a sha256 over its tensors.
Attempts share a trial's folder; what an attempt goes on from is decided by the driver's record, not by what lies there.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence

from safetensors import torch as safetensors
from torch import Tensor

from trainables.errors import StoreError
from trainables.file_store import Folder, files_at, inside, split
from trainables.training.trainer import digest

KEEP = 2
"""Checkpoints that are kept: the newest, and the one before it.

The report of the newest epoch may never reach the driver: the next attempt then needs the one before. An attempt
trains an epoch only when it is called, so one that is fenced off is never more than that one epoch ahead.
"""

_NAME = re.compile(r"\.?(?P<epoch>\d+)-(?P<attempt>\d+)\.safetensors(\.\d+)?")
"""A checkpoint, whole or partial."""

_log = logging.getLogger(__name__)


def save(folder: Folder, state: Mapping[str, Tensor], epoch: int, attempt: int) -> None:
    """Write the checkpoint of an epoch, and remove those that nobody will go on from.

    Of the files of this and earlier attempts up to this epoch those of the newest ``KEEP`` epochs stay; a later
    attempt's always do.

    Args:
        folder: of the trial, shared by its attempts; made if missing.
        state: CPU tensors.
        epoch: epochs done, from 1.
        attempt: the attempt's fencing number, from 1.

    Raises:
        DiskFull: there is no room; what was there before is as it was.
        StoreError: the bucket is away, or refuses us.
    """
    write(inside(folder, _name(epoch, attempt)), state, attempt, _description(state, epoch, attempt))
    files = files_at(folder)
    found = {name: match for name in files.names() if (match := _NAME.fullmatch(name))}
    old = {name: int(match["epoch"]) for name, match in found.items() if int(match["attempt"]) <= attempt}
    whole = {at for name, at in old.items() if at <= epoch and not name.startswith(".")}
    oldest_kept = min(sorted(whole)[-KEEP:])
    for name, at in old.items():
        if at < oldest_kept:
            files.delete(name)


def newest(folder: Folder, accepted: Sequence[tuple[int, int]]) -> Iterator[dict[str, Tensor]]:
    """The states of the checkpoints that are whole, in the order of ``accepted``; read one at a time.

    Args:
        folder: of the trial; need not exist.
        accepted: (epoch, attempt) of the checkpoints that may be used, newest first; any other file is ignored.

    Raises:
        StoreError: the bucket is away, or refuses us: what lies there may well be whole.
    """
    there = set(files_at(folder).names()) if accepted else set()
    for epoch, attempt in accepted:
        state = _read(folder, epoch, attempt) if _name(epoch, attempt) in there else None
        if state is not None:
            yield state


def write(place: Folder, tensors: Mapping[str, Tensor], attempt: int, about: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all, so that it outlasts a loss of power.

    Args:
        place: of the file; its folder is made if missing.
        tensors: CPU tensors.
        attempt: the writer's fencing number: no two attempts share a partial file.
        about: the file's metadata.

    Raises:
        DiskFull: there is no room.
        StoreError: the bucket is away, or refuses us.
    """
    content = safetensors.save(dict(tensors), None if about is None else dict(about))
    folder, name = split(place)
    files_at(folder).write(name, content, writer=attempt)


def _name(epoch: int, attempt: int) -> str:
    return f"{epoch:06d}-{attempt:03d}.safetensors"


def _description(state: Mapping[str, Tensor], epoch: int, attempt: int) -> dict[str, str]:
    return {"epoch": str(epoch), "attempt": str(attempt), "sha256": digest(dict(state))}


def _read(folder: Folder, epoch: int, attempt: int) -> dict[str, Tensor] | None:
    """The state in a file; None where there is no file, or one that is damaged."""
    name = _name(epoch, attempt)
    try:
        content = files_at(folder).read(name)
        state = safetensors.load(content)
        whole = _metadata(content) == _description(state, epoch, attempt)
    except FileNotFoundError:
        return None
    except StoreError:
        raise
    except Exception as error:
        # Damage can make a reader raise anything: one flipped byte turns JSON, a type's name or a size into another.
        _log.warning("%s: refused, it is damaged (%s: %s)", inside(folder, name), type(error).__name__, error)
        return None
    if not whole:
        _log.warning("%s: refused, it is not what was written (sha256, epoch or attempt)", inside(folder, name))
    return state if whole else None


def _metadata(content: bytes) -> object:
    """What a safetensors file says about itself: 8 bytes of the header's length, then the header in JSON."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end])["__metadata__"]
