"""The journal: an append-only file of everything a job did, one event per line as a JSON object.

The journal is the truth of a job. The studies, MLflow, Postgres, the leaderboard and the report follow it.

Each line ends with ``sum``, the CRC-32 of the bytes before it, so a line that was altered in any byte is refused. A
last line without its end is not damage: its write was cut short, and nobody relies on it.
"""

import json
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
from tuner.storage.events import Entry, Event

MOST_LINE = 16 * 2**20
"""Most bytes of a line, its end included. A longer line is no event and is not read into memory."""


class UnknownEvent(IntegrityError):
    """A whole line that this version cannot read."""


class End(NamedTuple):
    """Where a journal ends: the number of the next event, and the offset of its line in bytes."""

    n: int
    offset: int


EMPTY = End(0, 0)


class Journal:
    """Appends events to a file. Several threads of one process may call it.

    Only one journal may be open on a file, so the process that runs a job holds its lock.

    An event is in the file before ``append`` returns. Every process sees it then, and it survives the death of this
    process. Whether it is also on the disk, where it survives a power cut, depends on the event's type. An event with
    ``at_once`` is on the disk before ``append`` returns. Other events share a sync: they reach the disk as soon as the
    sync before theirs has ended, after milliseconds, or seconds on a slow disk. A power cut takes only the journal's
    last events.

    Args:
        path: the file. A missing one is created, and a torn last line is removed.
        on_event: called with every entry that was written.
        end: the end of the file, if the caller has read it.
        durable: whether to wait for the disk at all. A simulated search writes hundreds of thousands of events, and
            it can be repeated.
        clock: seconds, monotonic.
        now: the wall clock, Unix seconds.

    Raises:
        IntegrityError: the file is damaged: see ``recover``.
        ServiceError: the file cannot be read or written.
    """

    def __init__(
        self,
        path: Path,
        on_event: Callable[[Entry], None] = lambda entry: None,
        *,
        end: End | None = None,
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
        """Held during every sync, because only one of two concurrent syncs sees a failure. Taken after ``_lock``."""
        self._number, self._end = end or end_of(path)
        self._torn = True
        self._syncer = ThreadPoolExecutor(1, "journal")
        self._syncing = self._failed = False
        self._behind: deque[tuple[int, bytes]] = deque()
        """Lines that may not be on the disk yet, each with the offset of its end."""
        try:
            self._file = path.open("ab", buffering=0)
            self._cut()
            if durable:
                sync_folder(path.parent)
        except OSError as error:
            raise ServiceError(f"{path}: cannot be written: {error.strerror}") from error

    def append(self, event: Event) -> None:
        """Write one event; when this returns the event is in the file, and on the disk then or soon after.

        Raises:
            ServiceError: the disk is full or broken, or was when earlier events were written. The journal is as before
                the call. A later append works once there is space.
        """
        with self._lock:
            entry = Entry(self._number, round(self._now() * 1000), round(self._clock() - self._opened, 3), event)
            self._write(encode(entry), at_once=event.at_once)
            self._on_event(entry)

    def close(self) -> None:
        """Close the file, with every event on the disk.

        Raises:
            ServiceError: the disk fails. The events are in the file.
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
            # A signal may interrupt the write. The next line must not join half a line, so that half is removed.
            # If this fails too, the next append or the next opening tries again.
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
        """Wait until the file, with its first ``end`` bytes, is on the disk."""
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
        """Sync until every line is on the disk. Lines that are written during one sync share the next."""
        while True:
            with self._lock:
                if self._failed or not self._behind:
                    self._syncing = False
                    return
                end = self._behind[-1][0]
            # The next write raises the failure.
            with suppress(OSError):
                self._fsync()
                with self._lock:
                    self._is_on_disk(end)

    def _write_again(self) -> None:
        """Write the lines of a failed sync again. The kernel may have dropped them, and reports that only once."""
        with self._disk:
            if self._behind:
                end, line = self._behind[0]
                with self.path.open("r+b", buffering=0) as file:
                    file.seek(end - len(line))
                    _write_all(file, b"".join(line for _, line in self._behind))
            os.fsync(self._file.fileno())
            self._failed = False
        self._behind.clear()


def encode(entry: Entry) -> bytes:
    """The line of an entry in the file."""
    body = json.dumps(entry.to_json(), allow_nan=False).encode()[:-1]
    line = body + _seal(body)
    if len(line) > MOST_LINE:
        raise ValueError(f"an event of kind {entry.event.kind} is longer than {MOST_LINE} bytes")
    return line


class Line(NamedTuple):
    """An entry, the bytes of its line, and the offset after them."""

    entry: Entry
    content: bytes
    end: int


def read(path: Path) -> Iterator[Entry]:
    """All whole entries of a journal.

    Raises:
        NotFound: no such file.
        IntegrityError: a line is not an event, was changed, or is out of order. A torn last line is no error.
        ServiceError: the file cannot be read.
    """
    for line in read_from(path, 0):
        yield line.entry


def read_from(path: Path, offset: int) -> Iterator[Line]:
    """Whole lines from a byte offset on. A torn last line is left for later.

    Raises:
        NotFound, ServiceError: as ``read``.
        IntegrityError: as ``read``, or no line starts at ``offset`` because the file is shorter than it was.
    """
    due = 0 if offset == 0 else None
    try:
        with path.open("rb") as file:
            _seek_line(path, file, offset)
            while line := file.readline(MOST_LINE):
                if not line.endswith(b"\n") and len(line) < MOST_LINE:
                    return
                values = decode(line)
                if values is None:
                    raise _damage(path, offset, "it is no event, or was altered")
                entry = _entry(path, offset, values)
                if due not in (None, entry.n):
                    raise _damage(path, offset, f"its number is {entry.n} instead of {due}")
                due = entry.n + 1
                offset += len(line)
                yield Line(entry, line, offset)
    except FileNotFoundError:
        raise NotFound(f"no journal at {path}") from None
    except OSError as error:
        raise ServiceError(f"{path}: cannot be read: {error.strerror}") from error


def end_of(path: Path) -> End:
    """The end of an undamaged journal. A missing one is empty. Raises as ``read``."""
    end = EMPTY
    if path.exists():
        for line in read_from(path, 0):
            end = End(line.entry.n + 1, line.end)
    return end


class Recovered(NamedTuple):
    """A journal that was read and, if it was damaged, cut back.

    Attributes:
        end: where its good part ends.
        original: where the damaged file is kept; None if nothing was damaged.
    """

    end: End
    original: Path | None


def recover(path: Path, take: Callable[[Line], None]) -> Recovered:
    """Read a journal once. If it is damaged, keep its good part as the journal, and the original beside it.

    At every moment a journal is at ``path``: the damaged one or its good part. Notes about later lines, such as how
    much a tracker has, no longer hold. Only the holder of the job's lock may call this.

    Args:
        path: the file. A missing one is an empty journal.
        take: called with every good line, in order.

    Raises:
        IntegrityError: a line is whole, but this version does not know its event.
        ServiceError: the disk is full, or the file cannot be read.
    """
    end = EMPTY
    if not path.exists():
        return Recovered(end, None)
    try:
        for line in read_from(path, 0):
            take(line)
            end = End(line.entry.n + 1, line.end)
        return Recovered(end, None)
    except UnknownEvent:
        raise
    except IntegrityError:
        pass
    try:
        with path.open("rb") as file:
            good = file.read(end.offset)
        original = _second_name(path)
        write_atomically(path, good)
    except OSError as error:
        raise ServiceError(f"{path}: its good beginning cannot be written: {error.strerror}") from error
    return Recovered(end, original)


def _second_name(path: Path) -> Path:
    number = 1
    while True:
        name = path.with_name(f"{path.name}.damaged-{number}")
        try:
            os.link(path, name)
        except FileExistsError:
            # A process that died during an earlier recovery has already made this name.
            if not name.samefile(path):
                number += 1
                continue
        return name


def _seal(body: bytes) -> bytes:
    return b', "sum": "%08x"}\n' % zlib.crc32(body)


_SEAL = len(_seal(b""))


def decode(line: bytes) -> dict[str, Any] | None:
    """The plain values of a line; None if the line was altered, or if ``encode`` did not make it."""
    body, seal = line[:-_SEAL], line[-_SEAL:]
    if seal != _seal(body):
        return None
    values = _parsed(line)
    if not isinstance(values, dict):
        return None
    del values["sum"]
    return values


def _entry(path: Path, offset: int, values: dict[str, Any]) -> Entry:
    try:
        return Entry.from_json(values)
    except ValueError as error:
        # The line is whole, so it must not be cut off as damage is.
        reason = " ".join(str(error).split())
        raise UnknownEvent(
            f"{path}: the line at byte {offset} is no event that this version knows; a newer tuner may have written it"
            f" ({reason})"
        ) from None


def _parsed(line: bytes) -> Any:
    # Pydantic's parser takes a third of the time, but refuses half of a surrogate pair, which a file's name may have.
    for parse in (from_json, json.loads):
        with suppress(ValueError):
            return parse(line)
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
