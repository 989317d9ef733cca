"""Keeps a job's journal in the database up to date while the job runs, in a thread, and hears there what others ask.

The file on the driver's disk comes first: while the database is away it grows there, and is sent when it is back.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from tuner.errors import IntegrityError, NotFound, ServiceError, TunerError
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.stop import StopRequest
from tuner.storage.atomic_files import write_atomically
from tuner.storage.file_lock import me
from tuner.storage.journal import read_lines
from tuner.storage.postgres import Database, JobSummary, unusable
from tuner.storage.postgres_lock import Fenced, Instructions, PostgresLock

BEAT_S = 1.0
"""At least so often others hear of the job, and it of them."""
PAUSE_S = 0.1
"""Between two transactions. A line is sent at once: what a lost head had not sent is trained again, and a checkpoint
that the record is two epochs behind is gone."""
BATCH = 500
"""Lines of one transaction."""
AWAY_S = 15.0
"""How long the database must have been away for a job that has ended to leave the rest to ``tuner sync``."""


class Replicator:
    """A job that this process holds in the database.

    Args:
        claim: on the job.
        folder: the job's.
        stop: is set when another machine asks for it, or has taken the job over.
        sent: lines that the database has.
    """

    def __init__(self, claim: PostgresLock, folder: JobFolder, stop: StopRequest, sent: int) -> None:
        self.problem: ServiceError | None = None
        self.instructions = Instructions(False, {})
        self._claim = claim
        self._database = claim.database
        self._folder = folder
        self._stop = stop
        self._sent = sent
        self._offset = 0
        self._summary = JobSummary("new")
        self._ending = threading.Event()
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def start(self) -> None:
        """Begin; what is said before is said with the first lines."""
        self._thread.start()

    def announce(self, cluster: str, wants: int, waits: str) -> None:
        """Tell others where the job runs, how many trials it could run at once, and what it waits for."""
        self._summary = replace(self._summary, cluster=cluster, wants=wants, waits=waits)

    def on_event(self) -> None:
        """A line was written."""
        self._news.set()

    def drain(self) -> None:
        """Send what is left, and that it wants nothing any more; ``problem`` says what failed."""
        self.announce("", 0, "")
        self._ending.set()
        self._news.set()
        self._thread.join()

    def _run(self) -> None:
        away_since: float | None = None
        while True:
            ending = self._ending.is_set()
            self._news.clear()
            try:
                self._send_all()
                self.problem, away_since = None, None
            except Fenced as fenced:
                self._stop.failure = fenced
                return
            except SQLAlchemyError as error:
                self.problem = unusable(self._database.shown, error)
                away_since = away_since or time.monotonic()
            except TunerError as error:
                # The journal is damaged or cannot be read: its own writer, or the next driver, says so.
                self.problem = ServiceError(str(error))
                away_since = away_since or time.monotonic()
            if not ending:
                self._ending.wait(PAUSE_S if away_since is None else BEAT_S)
                self._news.wait(BEAT_S)
            elif away_since is None or time.monotonic() - away_since >= AWAY_S:
                return
            else:
                time.sleep(BEAT_S)

    def _send_all(self) -> None:
        while True:
            lines, summary, offset = self._next()
            self.instructions = self._claim.send([line for line in lines if line[0] >= self._sent], summary)
            self._offset = offset
            # What is said of the job by others in the meantime stays.
            self._summary = replace(self._summary, state=summary.state, arms=summary.arms, trials=summary.trials)
            if lines:
                self._sent = max(self._sent, lines[-1][0] + 1)
            if self.instructions.stop:
                self._stop.ask()
            if len(lines) < BATCH:
                return

    def _next(self) -> tuple[list[tuple[int, bytes]], JobSummary, int]:
        lines: list[tuple[int, bytes]] = []
        summary, offset = self._summary, self._offset
        if not self._folder.journal.exists():
            return lines, summary, offset
        for line in read_lines(self._folder.journal, offset):
            event, offset = line.event, line.end
            lines.append((event["n"], line.content))
            match event["kind"]:
                case "job":
                    summary = replace(summary, arms=len(event["arms"]))
                case "trial":
                    summary = replace(summary, trials=summary.trials + 1)
                case "state":
                    summary = replace(summary, state=event["state"])
            if len(lines) == BATCH:
                break
        return lines, summary, offset


@contextmanager
def replicated(
    database: Database | None, folder: JobFolder, stop: StopRequest, announce: Callable[[str], None]
) -> Iterator[Replicator | None]:
    """Hold a job in the database, bring its journal here up to date, and keep the one there so; drained at the end.

    Nothing is done where there is no database.

    Raises:
        SpecError: another process holds the job.
        ServiceError: the database cannot be used.
    """
    if database is None:
        yield None
        return
    started = folder.started()
    # A database that was set up anew knows nothing of it.
    database.register(folder.id, started["ms"], folder.spec.read_text(encoding="utf-8"), started, None)
    claim = PostgresLock(database, folder.id, me())
    try:
        if aside := pull(database, folder):
            announce(f"warning: the journal here was not the job's any more; it is kept as {aside}")
        replicator = Replicator(claim, folder, stop, database.journal_length(folder.id))
        replicator.start()
        try:
            yield replicator
        finally:
            replicator.drain()
            if replicator.problem is not None:
                announce(f"warning: {replicator.problem}; nothing is lost: tuner sync {folder.id} sends the rest")
            elif folder.tracked.exists():
                with suppress(ServiceError):
                    database.note_tracked(folder.id, folder.tracked.read_bytes())
    finally:
        claim.release()


def replicate_once(folder: JobFolder) -> None:
    """Send what the database of a job that does not run has not been told.

    Raises:
        SpecError: it runs after all.
        ServiceError: the database cannot be used.
    """
    database = folder.database()
    if database is None or folder.is_held_here:
        return
    summary: list[str] = []
    with replicated(database, folder, StopRequest(), summary.append) as replicator:
        pass
    if replicator is not None and replicator.problem is not None:
        raise replicator.problem


def pull(database: Database, folder: JobFolder) -> Path | None:
    """Make the journal here the one in the database, unless it only has more lines, which were not sent yet.

    Returns:
        Where the file is kept that was here, if another driver has gone on without it.

    Raises:
        ServiceError: the database cannot be used, or the file not written.
    """
    here, there = _lines_here(folder.journal), database.journal_length(folder.id)
    common = min(len(here), there)
    if common and next(database.journal(folder.id, common - 1)) != here[common - 1]:
        common, here = 0, []
        aside = _set_aside(folder.journal)
    else:
        aside = None
    if common == there:
        return aside
    try:
        write_atomically(folder.journal, b"".join([*here, *database.journal(folder.id, common)]))
        note = database.tracked(folder.id)
        if note is not None and not folder.tracked.exists():
            write_atomically(folder.tracked, note)
    except OSError as error:
        raise ServiceError(f"{folder.journal}: cannot be written: {error.strerror}") from error
    return aside


def _lines_here(journal: Path) -> list[bytes]:
    lines: list[bytes] = []
    with suppress(NotFound, IntegrityError):
        # The good beginning of a damaged one.
        lines.extend(line.content for line in read_lines(journal, 0))
    return lines


def _set_aside(journal: Path) -> Path:
    number = 1
    while (aside := journal.with_name(f"{journal.name}.fenced-{number}")).exists():
        number += 1
    journal.rename(aside)
    return aside
