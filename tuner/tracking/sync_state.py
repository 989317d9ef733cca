"""A note in the job's folder that says how much of the journal a tracker has. It counts only if it fits the journal."""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from tuner.errors import IntegrityError, ServiceError
from tuner.storage.atomic_files import write_atomically
from tuner.storage.journal import read_from


@dataclass
class SyncState:
    """What was sent, and the runs that it became.

    Args:
        tracker: URI of the tracker without a password. A note about another tracker does not count.
        experiment: the experiment's id there.
        runs: trial key to run id. The key of the parent run is the empty string.
        running: keys of trials that were running at the last event sent.
        start, offset: where the last event sent begins and ends in the journal, in bytes.
        n, ms: number and time of that event, to recognize it.
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
        """Whether the last event sent is still at its place. A recovery may have cut a damaged journal since."""
        if self.offset == 0:
            return True
        try:
            line = next(read_from(journal, self.start), None)
        except IntegrityError:
            return False
        return line is not None and (line.entry.n, line.entry.ms, line.end) == (self.n, self.ms, self.offset)


_NOTE: TypeAdapter[SyncState] = TypeAdapter(SyncState)


def load(path: Path) -> SyncState:
    """Read the note. A missing or damaged one says that nothing was sent."""
    try:
        return _NOTE.validate_json(path.read_bytes(), strict=True)
    except (OSError, ValueError):
        return SyncState()


def save(path: Path, note: SyncState) -> None:
    """Write the note. The old one stays until the new one is on the disk.

    Raises:
        ServiceError: it cannot be written.
    """
    try:
        write_atomically(path, _NOTE.dump_json(note))
    except OSError as error:
        raise ServiceError(f"{path}: cannot be written: {error.strerror}") from error
