"""A job's journal, read once when a driver starts: the record, and where each line ends."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tuner.errors import IntegrityError, NotFound
from tuner.jobs.record import Record
from tuner.storage.journal import End, Line, read_from, recover


@dataclass
class Reading:
    """A journal that was read.

    Args:
        record: what it says.
        ends: for each line, the offset after it in bytes.
        original: where the damaged file is kept, if the journal was damaged and cut back.
    """

    record: Record = field(default_factory=Record)
    ends: list[int] = field(default_factory=list)
    original: Path | None = None

    @property
    def end(self) -> End:
        """Where the journal ends."""
        return End(len(self.ends), self.ends[-1] if self.ends else 0)

    def take(self, line: Line) -> None:
        """Take the next line."""
        self.record.add(line.entry)
        self.ends.append(line.end)


def read_and_recover(journal: Path) -> Reading:
    """Read a journal, and cut a damaged one back to its good beginning. Only the holder of the job's lock may do this.

    Raises:
        IntegrityError: a newer version has written to it.
        ServiceError: it cannot be read, or there is no room.
    """
    reading = Reading()
    reading.original = recover(journal, reading.take).original
    return reading


def read_good_part(journal: Path) -> Reading:
    """Read the good beginning of a journal and change nothing; a missing one is empty."""
    reading = Reading()
    with suppress(NotFound, IntegrityError):
        for line in read_from(journal, 0):
            reading.take(line)
    return reading
