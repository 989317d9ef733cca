"""How far a journal has been sent to a tracker: a note in the job's folder, believed only where it fits the journal."""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from tuner.errors import IntegrityError, ServiceError
from tuner.storage.atomic_files import write_atomically
from tuner.storage.journal import read_from


@dataclass
class SyncState:
    """What was sent, and what became of it.

    Args:
        tracker: which one, without a password: what was noted of one says nothing of another.
        experiment: the experiment's id there.
        runs: trial key to run id; the parent's key is the empty string.
        running: keys of trials that were last seen running.
        start, offset: where in the journal the last event sent begins and ends, in bytes.
        n, ms: that event's number and time, by which it is known again.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    tracker: str = ""
    experiment: str = ""
    runs: dict[str, str] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    start: int = 0
    offset: int = 0
    n: int = -1
    ms: int = 0

    def fits(self, journal: Path) -> bool:
        """Whether the last event sent is still where it was: a damaged journal may have been cut back since."""
        if self.offset == 0:
            return True
        try:
            line = next(read_from(journal, self.start), None)
        except IntegrityError:
            return False
        return line is not None and (line.entry.n, line.entry.ms, line.end) == (self.n, self.ms, self.offset)


_NOTE: TypeAdapter[SyncState] = TypeAdapter(SyncState)


def load(path: Path) -> SyncState:
    """The note; one that is not there, or damaged, says that nothing was sent."""
    try:
        return _NOTE.validate_json(path.read_bytes(), strict=True)
    except (OSError, ValueError):
        return SyncState()


def save(path: Path, note: SyncState) -> None:
    """Write the note; one that was there stays until the new one is on disk.

    Raises:
        ServiceError: it cannot be written.
    """
    try:
        write_atomically(path, _NOTE.dump_json(note))
    except OSError as error:
        raise ServiceError(f"{path}: cannot be written: {error.strerror}") from error
