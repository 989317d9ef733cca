"""The journal: an append-only file of everything a job did, one JSON object a line.

It and the Optuna storage are the truth of a job; MLflow, the leaderboard and the report are made from it.
Every event has ``n`` (its number, from 0 without a gap: the order of things), ``ms`` (wall clock, Unix milliseconds),
``up`` (seconds since its driver opened the journal, by a clock that never steps back) and ``kind``:

job      what runs: spec, arms, versions, machine, data fingerprint
trial    a trial started: trial, stage, arm, number, seed, hyper, and knobs: what its study proposed
attempt  an attempt at a trial begins: trial, attempt (from 1), epoch (how many are on record)
epoch    an attempt reported: trial, attempt and an ``EpochReport``'s fields
again    an attempt trained an epoch that was on record: trial, attempt, epoch
end      a trial ended: trial, state, reason, and for confirm runs the test result
confirm  a round of confirm runs begins: round, seeds, winners
state    the job's own state: running (each time a driver starts), finished, failed, interrupted

In the file each line ends with ``sum``, the CRC-32 of the bytes before it: a line that was altered in any byte is
refused. Only a last line without its end is no damage, but a write that was cut short, which no one was told of.
"""

import json
import math
import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from pydantic_core import from_json

from tuner.errors import IntegrityError, NotFound, ServiceError
from tuner.storage.atomic_files import sync_folder, write_atomically

Event = dict[str, Any]

MOST_LINE = 16 * 2**20
"""Bytes of a line, its end among them; what is longer is no event and is not read into memory."""

AT_ONCE = ("job", "confirm", "state")
"""Kinds of events that are waited for until they are on the disk; they are few, and what follows rests on them."""

_FRAME = frozenset(("n", "ms", "up", "kind", "sum"))


class Journal:
    """Appends events to a file; safe to call from several threads of one process.

    There must be no other on the same file: whoever runs a job holds its lease.

    An event is in the file before ``append`` returns: every process sees it, and however this one dies it stays. On
    the disk, where it outlasts a cut of power, it is at once if its kind is one of ``AT_ONCE``; others come there with
    all that was written meanwhile as soon as the disk has taken the ones before: some milliseconds later, seconds where
    the disk is that slow. What a cut of power takes is the journal's end.

    Args:
        path: the file; made if it is not there, cut after its last whole line if it is.
        on_event: called with every event written.
        durable: whether events are put on the disk at all. A search that is only simulated writes hundreds of
            thousands of events that nobody will miss.
        clock: seconds, monotonic.
        now: the wall clock, Unix seconds.

    Raises:
        IntegrityError: the file is damaged: see ``salvage``.
        ServiceError: the file cannot be read or written.
    """

    def __init__(
        self,
        path: Path,
        on_event: Callable[[Event], None] = lambda event: None,
        *,
        durable: bool = True,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._on_event = on_event
        self._durable = durable
        self._clock = clock
        self._now = now
        self._opened = clock()
        self._lock = threading.Lock()
        self._disk = threading.Lock()
        """Held for every sync: of two at once only one is told that the disk failed. Taken after the other lock."""
        self._number = self._end = 0
        self._torn = True
        self._syncer = ThreadPoolExecutor(1, "journal")
        self._syncing = self._failed = False
        self._behind: deque[tuple[int, bytes]] = deque()
        """The last lines, which are not known to be on the disk, each with the offset after it."""
        if path.exists():
            for event, end in read_from(path, 0):
                self._number, self._end = event["n"] + 1, end
        try:
            self._file = path.open("ab", buffering=0)
            self._cut()
            if durable:
                sync_folder(path.parent)
        except OSError as error:
            raise ServiceError(f"{path}: cannot be written: {error.strerror}") from error

    def append(self, kind: str, **fields: Any) -> None:
        """Write one event; once this returns it is in the file, and on the disk or soon there.

        Numbers that are not finite are written as strings: JSON has none.

        Raises:
            ServiceError: the disk is full or broken, or was as it had to take earlier events. Nothing of this event is
                kept, and the journal is as it was before: a later append writes on if there is room by then.
        """
        assert not fields.keys() & _FRAME
        with self._lock:
            frame = {
                "n": self._number,
                "ms": round(self._now() * 1000),
                "up": round(self._clock() - self._opened, 3),
                "kind": kind,
            }
            event = frame | _finite(fields)
            self._write(encode(event), at_once=kind in AT_ONCE)
            self._on_event(event)

    def close(self) -> None:
        """Close the file, with every event on the disk.

        Raises:
            ServiceError: the disk does not take them; they are in the file.
        """
        self._syncer.shutdown()
        with self._lock:
            try:
                if self._failed:
                    self._write_again()
            except OSError as error:
                raise ServiceError(f"{self.path}: cannot be written: {error.strerror}") from error
            finally:
                self._file.close()

    def _write(self, line: bytes, at_once: bool) -> None:
        try:
            if self._torn:
                self._cut()
            if self._failed:
                self._write_again()
            self._torn = True
            _write_all(self._file, line)
            end = self._end + len(line)
            if at_once:
                self._sync(end)
            elif self._durable:
                self._sync_soon(line, end)
            self._number, self._end, self._torn = self._number + 1, end, False
        except OSError as error:
            raise ServiceError(
                f"{self.path}: cannot write {len(line)} bytes: {error.strerror}; once it can be written the job can be"
                " resumed"
            ) from error
        finally:
            # Also a signal that came in between must leave no line that the next one would be glued to. If even this
            # fails, the next append tries again, and so does whoever opens the file next.
            if self._torn:
                with suppress(OSError):
                    self._cut()

    def _cut(self) -> None:
        self._file.truncate(self._end)
        while self._behind and self._behind[-1][0] > self._end:
            self._behind.pop()
        self._sync(self._end)
        self._torn = False

    def _sync(self, end: int) -> None:
        """Put the file on the disk, of which ``end`` bytes are written."""
        if self._durable:
            self._fsync()
            self._is_on_disk(end)

    def _fsync(self) -> None:
        with self._disk:
            try:
                os.fsync(self._file.fileno())
            except OSError:
                self._failed = True
                raise

    def _is_on_disk(self, end: int) -> None:
        while self._behind and self._behind[0][0] <= end and not self._failed:
            self._behind.popleft()

    def _sync_soon(self, line: bytes, end: int) -> None:
        self._behind.append((end, line))
        if not self._syncing:
            self._syncing = True
            self._syncer.submit(self._sync_behind)

    def _sync_behind(self) -> None:
        """Until nothing is behind: the lines that are written during one sync share the next."""
        while True:
            with self._lock:
                if self._failed or not self._behind:
                    self._syncing = False
                    return
                end = self._behind[-1][0]
            # Whoever writes next meets the failure.
            with suppress(OSError):
                self._fsync()
                with self._lock:
                    self._is_on_disk(end)

    def _write_again(self) -> None:
        """Write what a sync that failed was to write: the kernel may have dropped it, and tells so only once."""
        with self._disk:
            if self._behind:
                end, line = self._behind[0]
                with self.path.open("r+b", buffering=0) as file:
                    file.seek(end - len(line))
                    _write_all(file, b"".join(line for _, line in self._behind))
            os.fsync(self._file.fileno())
            self._failed = False
        self._behind.clear()


def encode(event: Event) -> bytes:
    """An event's line in the file."""
    body = json.dumps(event, allow_nan=False).encode()[:-1]
    line = body + _seal(body)
    if len(line) > MOST_LINE:
        raise ValueError(f"an event of kind {event['kind']} is longer than {MOST_LINE} bytes")
    return line


def read(path: Path) -> Iterator[Event]:
    """All whole events of a journal, without their checksums.

    Raises:
        NotFound: no such file.
        IntegrityError: a line that is no event, was altered, or has another number than is due; not a torn last one.
        ServiceError: the file cannot be read.
    """
    for event, _ in read_from(path, 0):
        yield event


def read_from(path: Path, offset: int) -> Iterator[tuple[Event, int]]:
    """Whole events from a byte offset on, each with the offset after it; a torn last line is left for later.

    Raises:
        NotFound, IntegrityError, ServiceError: as ``read``; and IntegrityError where no line starts at ``offset``,
            as when what stood there was lost.
    """
    for line in read_lines(path, offset):
        yield line.event, line.end


class Line(NamedTuple):
    """An event, the bytes it stands in, and the offset after them."""

    event: Event
    content: bytes
    end: int


def read_lines(path: Path, offset: int) -> Iterator[Line]:
    """As ``read_from``, with the bytes of every line."""
    due = 0 if offset == 0 else None
    try:
        with path.open("rb") as file:
            _seek_line(path, file, offset)
            while line := file.readline(MOST_LINE):
                if not line.endswith(b"\n") and len(line) < MOST_LINE:
                    return
                event = decode(line)
                if event is None:
                    raise _damage(path, offset, "it is no event, or was altered")
                if due not in (None, event["n"]):
                    raise _damage(path, offset, f"its number is {event['n']} where {due} is due")
                due = event["n"] + 1
                offset += len(line)
                yield Line(event, line, offset)
    except FileNotFoundError:
        raise NotFound(f"no journal at {path}") from None
    except OSError as error:
        raise ServiceError(f"{path}: cannot be read: {error.strerror}") from error


class Salvaged(NamedTuple):
    """What became of a damaged journal: how many events were kept, and where the original now is."""

    events: int
    original: Path


def salvage(path: Path) -> Salvaged | None:
    """Keep the good beginning of a damaged journal as the journal, and all of the original beside it.

    At every moment a journal is at ``path``: the damaged one or its good beginning. What was noted about later
    lines, as how far a tracker was told, no longer holds. Only whoever holds the job's lease may do this.

    Returns:
        None if nothing is damaged.

    Raises:
        NotFound: no such file.
        ServiceError: there is no room, or the file cannot be read.
    """
    events = good_end = 0
    try:
        for event, end in read_from(path, 0):
            events, good_end = event["n"] + 1, end
        return None
    except IntegrityError:
        pass
    try:
        with path.open("rb") as file:
            good = file.read(good_end)
        original = _second_name(path)
        write_atomically(path, good)
    except OSError as error:
        raise ServiceError(f"{path}: its good beginning cannot be written: {error.strerror}") from error
    return Salvaged(events, original)


def _second_name(path: Path) -> Path:
    number = 1
    while True:
        name = path.with_name(f"{path.name}.damaged-{number}")
        try:
            os.link(path, name)
        except FileExistsError:
            # Whoever salvaged it before and died at it has left the name that is wanted.
            if not name.samefile(path):
                number += 1
                continue
        return name


def _seal(body: bytes) -> bytes:
    return b', "sum": "%08x"}\n' % zlib.crc32(body)


_SEAL = len(_seal(b""))


def decode(line: bytes) -> Event | None:
    """The event of a line, or None if it is no line that ``encode`` made."""
    body, seal = line[:-_SEAL], line[-_SEAL:]
    if seal != _seal(body):
        return None
    event = _parsed(line)
    if event is None:
        return None
    del event["sum"]
    return event if isinstance(event.get("n"), int) else None


def _parsed(line: bytes) -> Event | None:
    # Pydantic's parser takes a third of the time; it refuses half of a surrogate pair, which a file's name may have.
    for parse in (from_json, json.loads):
        with suppress(ValueError):
            event: Event = parse(line)
            return event
    return None


def _seek_line(path: Path, file: IO[bytes], offset: int) -> None:
    if offset == 0:
        return
    file.seek(offset - 1)
    if file.read(1) != b"\n":
        size = os.fstat(file.fileno()).st_size
        raise IntegrityError(f"{path}: no line starts at byte {offset} of {size}; what was read before is gone")


def _damage(path: Path, start: int, wrong: str) -> IntegrityError:
    with path.open("rb") as file:
        number = 1
        while file.tell() < start and file.readline(MOST_LINE):
            number += 1
    return IntegrityError(f"{path}: line {number}, which starts at byte {start}, is damaged: {wrong}")


def _write_all(file: IO[bytes], data: bytes) -> None:
    while data:
        data = data[file.write(data) :]


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
