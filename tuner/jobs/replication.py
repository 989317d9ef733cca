"""Replicates a job's journal into the database while the job runs, and hears there what other machines ask for.

The file on the driver's disk comes first. While the database is unreachable the file grows, and it is sent later.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from tuner.errors import IntegrityError, ServiceError, TunerError
from tuner.jobs.follower import Follower, NothingLeft, Pace
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.reading import Reading, read_good_part
from tuner.jobs.stop import StopRequest
from tuner.storage.atomic_files import set_aside, write_atomically
from tuner.storage.events import Entry, JobDescribed, JobStateChanged, TrialBegun
from tuner.storage.file_lock import me
from tuner.storage.journal import Line, UnknownEvent, decode, read_from
from tuner.storage.postgres import Database, JobSummary, unusable
from tuner.storage.postgres_lock import Fenced, Instructions, PostgresLock

PACE = Pace(pause_s=0.1, beat_s=1.0, longest_retry_s=1.0, give_up_s=15.0)
"""A line is sent at once. Lines that a lost head had not sent are trained again, and a checkpoint that is more than two
epochs old is gone. Other machines hear of the job at least once per second, and the job of them."""
BATCH = 500
"""Most lines in one transaction."""


class Replicator:
    """Sends the journal of a job that this process holds in the database.

    Args:
        lock: the job's lock in the database.
        folder: the job's.
        reading: the journal as it was read when the driver started.
        stop: is set when another machine asks for it, or has taken the job over.
    """

    def __init__(self, lock: PostgresLock, folder: JobFolder, reading: Reading, stop: StopRequest) -> None:
        self.instructions = Instructions(False, {})
        self.follower = Follower("the database", self.send, PACE)
        self._lock = lock
        self._folder = folder
        self._stop = stop
        self._sent = lock.database.journal_length(folder.id)
        self._offset = reading.ends[self._sent - 1] if self._sent else 0
        record = reading.record
        self._summary = JobSummary(record.state, len(record.arms) if record.begun else 0, len(record.trials))

    def announce(self, cluster: str, wants: int, waits: str) -> None:
        """Say where the job runs, how many trials it could run at once, and what it waits for."""
        self._summary = replace(self._summary, cluster=cluster, wants=wants, waits=waits)

    def drain(self) -> None:
        """Send the rest, and that the job wants nothing any more."""
        self.announce("", 0, "")
        self.follower.drain()

    def send(self) -> None:
        """Send every new line.

        Raises:
            NothingLeft: another process holds the job now; ``stop`` says so.
            ServiceError: the database cannot be used, or the journal cannot be read.
        """
        try:
            while self._send_batch():
                pass
        except Fenced as fenced:
            self._stop.failure = fenced
            raise NothingLeft from fenced
        except SQLAlchemyError as error:
            raise unusable(self._lock.database.shown, error) from error
        except TunerError as error:
            # The journal is damaged or cannot be read. Its own writer, or the next driver, reports that.
            raise ServiceError(str(error)) from error

    def _send_batch(self) -> bool:
        """Send a batch; whether there may be more."""
        lines = self._next_lines()
        summary = self._summary
        for line in lines:
            summary = _summed(summary, line.entry)
        self.instructions = self._lock.send([(line.entry.n, line.content) for line in lines], summary)
        # ``announce`` may have changed the other fields in the meantime.
        self._summary = replace(self._summary, state=summary.state, arms=summary.arms, trials=summary.trials)
        if lines:
            self._sent, self._offset = lines[-1].entry.n + 1, lines[-1].end
        if self.instructions.stop:
            self._stop.ask()
        return len(lines) == BATCH

    def _next_lines(self) -> list[Line]:
        lines: list[Line] = []
        if self._folder.journal.exists():
            for line in read_from(self._folder.journal, self._offset):
                lines.append(line)
                if len(lines) == BATCH:
                    break
        return lines


@contextmanager
def replicated(
    database: Database, folder: JobFolder, reading: Reading, stop: StopRequest, announce: Callable[[str], None]
) -> Iterator[tuple[Replicator, Reading]]:
    """Hold a job in the database, bring its journal here up to date, and replicate it until the end.

    Yields:
        The replicator, whose follower has not started yet, and the journal as it is now.

    Raises:
        SpecError: another process holds the job.
        ServiceError: the database cannot be used.
    """
    started = folder.started()
    # A database that was set up again does not know the job.
    database.register(folder.id, started["ms"], folder.spec.read_text(encoding="utf-8"), started, None)
    lock = PostgresLock(database, folder.id, me())
    try:
        reading, aside = pull(database, folder, reading)
        if aside is not None:
            announce(f"warning: the journal here was no longer the job's journal; it is kept as {aside}")
        replicator = Replicator(lock, folder, reading, stop)
        replicator.follower.start()
        try:
            yield replicator, reading
        finally:
            replicator.drain()
            if (lacks := replicator.follower.warning(folder.id)) is not None:
                announce(lacks)
            elif folder.tracked.exists():
                with suppress(ServiceError):
                    database.note_tracked(folder.id, folder.tracked.read_bytes())
    finally:
        lock.release()


def replicate_once(folder: JobFolder) -> None:
    """Send the lines that the database of a job lacks; the job must not run.

    Raises:
        SpecError: the job runs after all.
        ServiceError: the database cannot be used.
    """
    database = folder.database()
    if database is None or folder.is_held_here:
        return
    warnings: list[str] = []
    with replicated(database, folder, read_good_part(folder.journal), StopRequest(), warnings.append) as (
        replicator,
        _,
    ):
        pass
    if replicator.follower.problem is not None:
        raise replicator.follower.problem


def pull(database: Database, folder: JobFolder, reading: Reading | None = None) -> tuple[Reading, Path | None]:
    """Make the journal here the one in the database, unless it only has more lines, which were not sent yet.

    Args:
        database: where the job's record is.
        folder: the job's.
        reading: the journal here, if the caller has read it.

    Returns:
        The journal as it is now; and where the file that was here is kept, if another driver has continued without it.

    Raises:
        ServiceError: the database cannot be used, or the file not written.
        IntegrityError: a line in the database is damaged, or this version does not know its event.
    """
    reading = reading or read_good_part(folder.journal)
    aside: Path | None = None
    there = database.journal_length(folder.id)
    common = min(reading.end.n, there)
    if common and next(database.journal(folder.id, common - 1)) != _line_here(folder.journal, reading, common - 1):
        aside = set_aside(folder.journal, "fenced")
        reading, common = Reading(), 0
    if common == there:
        return reading, aside
    try:
        good = folder.journal.read_bytes()[: reading.end.offset] if reading.ends else b""
        new = list(database.journal(folder.id, common))
        for content in new:
            reading.take(_decoded(folder, content, reading.end.offset))
        write_atomically(folder.journal, b"".join([good, *new]))
        note = database.tracked(folder.id)
        if note is not None and not folder.tracked.exists():
            write_atomically(folder.tracked, note)
    except OSError as error:
        raise ServiceError(f"{folder.journal}: cannot be written: {error.strerror}") from error
    return reading, aside


def _summed(summary: JobSummary, entry: Entry) -> JobSummary:
    match entry.event:
        case JobDescribed(arms=arms):
            return replace(summary, arms=len(arms))
        case TrialBegun():
            return replace(summary, trials=summary.trials + 1)
        case JobStateChanged(state=state):
            return replace(summary, state=state)
    return summary


def _decoded(folder: JobFolder, content: bytes, offset: int) -> Line:
    values = decode(content)
    if values is None:
        raise IntegrityError(f"the journal of job {folder.id} in the database is damaged")
    try:
        entry = Entry.from_json(values)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UnknownEvent(
            f"the journal of job {folder.id} in the database has an event that this version does not know; a newer"
            f" tuner may have written it ({reason})"
        ) from None
    return Line(entry, content, offset + len(content))


def _line_here(journal: Path, reading: Reading, number: int) -> bytes:
    start = reading.ends[number - 1] if number else 0
    with journal.open("rb") as file:
        file.seek(start)
        return file.read(reading.ends[number] - start)
