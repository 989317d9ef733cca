"""The session of a driver: it locks the job, reads its journal once, runs the followers, and closes everything."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tuner.driver.backend import RayBackend, SimulatedBackend
from tuner.driver.context import Context
from tuner.driver.job import Job
from tuner.driver.prepare import Prepared
from tuner.errors import DriverLost, Interrupted, ServiceError, without_password
from tuner.export.job_winner import register_winner
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.reading import Reading, read_and_recover
from tuner.jobs.replication import Replicator, replicated
from tuner.jobs.request import storage_of
from tuner.report.publish import publish
from tuner.search.study_database import StudyWriter, set_aside_if_damaged
from tuner.storage.atomic_files import write_new
from tuner.storage.events import Entry, JobStateChanged
from tuner.storage.file_lock import FileLock, locked
from tuner.storage.journal import Journal
from tuner.storage.postgres import Database
from tuner.tracking.background_sync import BackgroundSync, tracking_uri
from tuner.verdict.ranking import job_results

OUTAGE_S = 45.0
"""How long a resumed job waits for its database: less than the 60 s after which a worker without a call ends itself."""
RETRY_S = 1.0


@dataclass(frozen=True)
class Held:
    """A job that only this process runs.

    Args:
        lock: on the job's folder.
        reading: its journal, whole and up to date.
        replicator: of its journal, if its record is in a database.
    """

    lock: FileLock
    reading: Reading
    replicator: Replicator | None


@contextmanager
def held(context: Context) -> Iterator[Held]:
    """Hold a job here and in its database, and read its journal; a damaged journal goes back to its last good state."""
    folder, announce = context.folder, context.view.announce
    with locked(folder.lock_file, folder.id) as lock:
        reading = read_and_recover(folder.journal)
        if reading.original is not None:
            announce(
                f"warning: {folder.journal} is damaged; the job continues from its first {reading.end.n} events, and"
                f" all of it is kept as {reading.original}"
            )
        database = _database(folder)
        if database is None:
            yield Held(lock, reading, None)
            return
        with replicated(database, folder, reading, context.stop, announce) as (replicator, up_to_date):
            yield Held(lock, up_to_date, replicator)


def study_writer(context: Context, prepared: Prepared, begun: bool) -> StudyWriter | None:
    """The writer of the job's studies; None for a simulation, whose studies are not kept.

    Raises:
        ServiceError: the database of a new job cannot be opened. A job that has begun writes to it later.
    """
    workspace, announce = context.workspace, context.view.announce
    tracked_in = f"tracked in {without_password(tracking_uri(prepared.spec, workspace))}"
    if prepared.simulated:
        announce(f"studies in memory, {tracked_in}")
        return None
    url = storage_of(prepared.spec, workspace)
    ours = url == workspace.storage_url
    if ours and (damaged := set_aside_if_damaged(workspace.studies)):
        announce(f"warning: {workspace.studies} is damaged and now {damaged}; the studies are rebuilt from the journal")
    writer = StudyWriter(context.folder, url, durable=not ours)
    if not begun:
        writer.open()
    announce(f"studies in {without_password(url)}, {tracked_in}")
    return writer


@contextmanager
def session(context: Context, prepared: Prepared, held: Held, studies: StudyWriter | None) -> Iterator[Job]:
    """Open a job's journal and run its followers; at the end, write the job's state and publish its results."""
    record, folder = held.reading.record, context.folder
    tracker = BackgroundSync(prepared.spec, context.workspace, folder)
    followers = [tracker.follower, *([] if studies is None else [studies.follower])]
    listeners = [*followers, *([] if held.replicator is None else [held.replicator.follower])]

    def on_event(entry: Entry) -> None:
        record.add(entry)
        for follower in listeners:
            follower.on_event(entry)
        context.view.on_event(entry, record)

    backend = (
        SimulatedBackend(context, prepared)
        if prepared.simulated
        else RayBackend(context, prepared, held.lock, held.replicator)
    )
    # A simulation writes an event every few microseconds, and it can be repeated. Its caps count made-up time.
    journal = Journal(
        folder.journal, on_event, end=held.reading.end, durable=not prepared.simulated, clock=backend.clock
    )
    job = Job(context, prepared, journal, record, backend)
    for follower in followers:
        follower.start()
    try:
        yield job
        # If this process dies after the job has finished, the file says that a resume has something to do.
        write_new(folder.unpublished, "", force=True)
        journal.append(JobStateChanged("finished"))
        folder.forget_checkpoints()
    except DriverLost:
        journal.close()
        raise
    except BaseException as error:
        was_stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        # If the disk is full, the end of the job cannot be written either. The first error is the one that matters.
        with suppress(ServiceError):
            journal.append(JobStateChanged("interrupted" if was_stopped else "failed", str(error)))
            _close(job, tracker, studies)
        raise
    _close(job, tracker, studies)


def _close(job: Job, tracker: BackgroundSync, studies: StudyWriter | None) -> None:
    folder, announce = job.context.folder, job.context.view.announce
    job.journal.close()
    followers = [tracker.follower, *([] if studies is None else [studies.follower])]
    for follower in followers:
        follower.drain()
    if studies is not None:
        studies.finish()
    results = job_results(folder, job.record)
    files, description = publish(results), folder.summary.read_text(encoding="utf-8")
    tracker.finish(lambda writer: writer.attach(files, description))
    tracker.finish(lambda writer: register_winner(writer, results, announce))
    warnings = [lacks for follower in followers if (lacks := follower.warning(folder.id)) is not None]
    for lacks in warnings:
        announce(lacks)
    if not warnings:
        folder.unpublished.unlink(missing_ok=True)


def _database(folder: JobFolder) -> Database | None:
    """The database of the job's record; a job that has begun waits for it."""
    deadline = time.monotonic() + (OUTAGE_S if folder.journal.exists() else 0.0)
    while True:
        try:
            return folder.database()
        except ServiceError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(RETRY_S)
