"""The journal: an append-only file of everything a job did, one JSON object a line.

It and the Optuna storage are the truth of a job; MLflow, the leaderboard and the report are made from it.
Every event has ``n`` (its number, from 0), ``ms`` (wall clock, Unix milliseconds) and ``kind``:

job      what runs: spec, arms, versions, machine, data fingerprint
trial    a trial started: trial, stage, arm, number, seed, hyper
epoch    a trial reported: trial and an ``EpochReport``'s fields
end      a trial ended: trial, state, reason, and for confirm runs the test result
confirm  a round of confirm runs begins: round, seeds, winners
state    the job's own state: running, finished, failed, interrupted
"""

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tuner.errors import IntegrityError, NotFound

Event = dict[str, Any]


class Journal:
    """Appends events to a file; safe to call from several threads of one process.

    Args:
        path: the file; made if it is not there, cut after its last whole line if it is.
        heard: called with every event written.
    """

    def __init__(self, path: Path, heard: Callable[[Event], None] = lambda event: None) -> None:
        self.path = path
        self._heard = heard
        self._lock = threading.Lock()
        self._number = sum(1 for _ in read(path)) if path.exists() else 0
        if path.exists():
            _cut_torn_line(path)
        self._file = path.open("ab")

    def append(self, kind: str, **fields: Any) -> None:
        """Write one event; it is on disk when a later ``sync`` returns.

        Numbers that are not finite are written as strings: JSON has none.
        """
        with self._lock:
            event = {"n": self._number, "ms": time.time_ns() // 1_000_000, "kind": kind, **_finite(fields)}
            self._file.write(json.dumps(event, allow_nan=False).encode() + b"\n")
            self._file.flush()
            self._number += 1
            if kind != "epoch":
                os.fsync(self._file.fileno())
            self._heard(event)

    def close(self) -> None:
        """Flush to disk and close."""
        with self._lock:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


def read(path: Path) -> Iterator[Event]:
    """All whole events of a journal.

    Raises:
        NotFound: no such file.
        IntegrityError: a line that is no event, other than a torn last one.
    """
    for event, _ in read_from(path, 0):
        yield event


def read_from(path: Path, offset: int) -> Iterator[tuple[Event, int]]:
    """Whole events from a byte offset on, each with the offset after it; a torn last line is left for later."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"no journal at {path}") from None
    with file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield _event(path, line, offset), offset


def _event(path: Path, line: bytes, end: int) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or not event.keys() >= {"n", "ms", "kind"}:
        raise IntegrityError(f"{path}: the line that ends at byte {end} is damaged")
    return event


def _cut_torn_line(path: Path) -> None:
    os.truncate(path, max((end for _, end in read_from(path, 0)), default=0))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
