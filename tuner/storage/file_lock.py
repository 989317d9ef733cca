"""A job's lock on this machine: one process at a time runs a job, and other processes can see which one.

It is a lock on a file in the job's folder. The kernel releases it when the holder dies for any reason. The file names
the holder, and a name that a dead holder left does no harm. The file is never removed, because then a second process
could lock a new file of the same name.

The lock belongs to the open file. Programs that the holder starts do not inherit it (PEP 446). A forked child that
starts no program does, so the holder unlocks the file itself when it ends.
"""

import fcntl
import json
import os
import platform
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from tuner.errors import ServiceError, SpecError

PATIENCE_S = 0.5
"""How long to try to lock a held file. Reading the owner (``lock_owner``) also holds the lock for a moment."""
BEAT_S = 1.0
_MOST = 64 * 2**10


@dataclass(frozen=True)
class LockOwner:
    """The process that holds a lock.

    Args:
        host: name of the machine.
        pid: process id; 0 if the process has not written its name yet.
        command: the command that started the process.
        since: time of locking in ISO 8601, with the machine's offset from UTC.
    """

    host: str
    pid: int
    command: str
    since: str

    def __str__(self) -> str:
        if self == _UNKNOWN:
            return "a process that has not yet said its name"
        since = self.since[:19].replace("T", " ")
        return f"pid {self.pid} on host {self.host} since {since} ({self.command})"


_UNKNOWN = LockOwner("", 0, "", "")


class FileLock:
    """A lock that this process holds."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._beaten = time.monotonic()

    def beat(self) -> None:
        """Show that the holder is alive: set the file's modification time, at most once a second.

        A watcher should measure how long the time does not change, because the clock may jump.
        """
        if time.monotonic() - self._beaten >= BEAT_S:
            self._beaten = time.monotonic()
            os.utime(self._file)


class AlreadyLocked(Exception):
    """Another process holds the lock: ``owner`` says which."""

    def __init__(self, owner: LockOwner) -> None:
        super().__init__(str(owner))
        self.owner = owner


@contextmanager
def exclusive(path: Path, patience_s: float) -> Iterator[FileLock]:
    """Hold the lock on a file.

    Args:
        path: the file; it is created if it is missing.
        patience_s: how long to try while another process holds it.

    Raises:
        AlreadyLocked: another process holds it.
        ServiceError: the file cannot be written or locked.
    """
    with _open(path, os.O_RDWR | os.O_CREAT) as file:
        try:
            taken = _take(file, patience_s)
            if taken:
                _write(file, me())
        except OSError as error:
            raise ServiceError(f"{path}: cannot be locked and written: {error.strerror}") from error
        if not taken:
            raise AlreadyLocked(_read(file))
        try:
            yield FileLock(file)
        finally:
            # Closing is not enough if a forked child has the file too.
            fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def locked(path: Path, job: str) -> Iterator[FileLock]:
    """Hold the lock of a job.

    Args:
        path: the lock's file; it is created if it is missing.
        job: the job's id, for messages.

    Raises:
        SpecError: another process holds it.
        ServiceError: the file cannot be written or locked.
    """
    try:
        with exclusive(path, PATIENCE_S) as lock:
            yield lock
    except AlreadyLocked as other:
        raise SpecError(f"job {job} is held by {other.owner}; stop it there, or: tuner stop {job}") from None


def lock_owner(path: Path) -> LockOwner | None:
    """The process that holds a lock now, or None.

    Raises:
        ServiceError: the file cannot be read or locked.
    """
    if not path.exists():
        return None
    with _open(path, os.O_RDONLY) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(file)
        except OSError as error:
            raise ServiceError(f"{path}: cannot be locked: {error.strerror}") from error
    return None


@contextmanager
def _open(path: Path, flags: int) -> Iterator[int]:
    try:
        file = os.open(path, flags, 0o644)
    except OSError as error:
        raise ServiceError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        yield file
    finally:
        os.close(file)


def _take(file: int, patience_s: float) -> bool:
    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(random.uniform(0.002, 0.02))
        else:
            return True


def me() -> LockOwner:
    """This process."""
    # The name of the program without its path, for ``python -m`` as for scripts.
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    command = " ".join(" ".join([name, *sys.argv[1:]]).split())
    return LockOwner(platform.node(), os.getpid(), command[:500], datetime.now().astimezone().isoformat("T", "seconds"))


def parse(written: str | bytes) -> LockOwner:
    """Read an owner from JSON. Anything else is an owner that has not written its name yet."""
    try:
        return LockOwner(**json.loads(written))
    except (ValueError, TypeError):
        return _UNKNOWN


def _write(file: int, owner: LockOwner) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(asdict(owner)).encode() + b"\n", 0)


def _read(file: int) -> LockOwner:
    return parse(os.pread(file, _MOST, 0))
