"""The session of a driver: it locks the job, opens its journal, keeps the followers going, and closes all of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tuner.driver.job import Job
from tuner.driver.prepare import Prepared
from tuner.errors import DriverLost, Interrupted, ServiceError
from tuner.execution.ray_workers import Workers
from tuner.execution.simulator import Clock
from tuner.export.job_winner import register_winner
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.record import Record, load_record
from tuner.jobs.replication import Replicator, replicated
from tuner.jobs.stop import StopRequest
from tuner.jobs.workspace import Workspace
from tuner.monitor.terminal import View
from tuner.report.publish import publish
from tuner.search.study_database import OUTAGE_S, RETRY_S
from tuner.storage.file_lock import FileLock
from tuner.storage.journal import Event, Journal, salvage
from tuner.storage.postgres import Database
from tuner.tracking.background_sync import BackgroundSync
from tuner.verdict.ranking import job_results


@contextmanager
def locked_job(folder: JobFolder, stop: StopRequest, view: View) -> Iterator[Replicator | None]:
    """A job that this process alone runs, its journal whole and up to date; held in its database, if it has one.

    A damaged journal goes back to its last good state.
    """
    if folder.journal.exists() and (salvaged := salvage(folder.journal)):
        view.announce(
            f"warning: {folder.journal} is damaged; going on from its first {salvaged.events} events, all of it is "
            f"kept as {salvaged.original}"
        )
    with replicated(_database(folder), folder, stop, view.announce) as replicator:
        yield replicator


def _database(folder: JobFolder) -> Database | None:
    """The database of the job's record; waited for, if the job goes on, as the studies' is."""
    deadline = time.monotonic() + (OUTAGE_S if folder.journal.exists() else 0.0)
    while True:
        try:
            return folder.database()
        except ServiceError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(RETRY_S)


@contextmanager
def open_job(
    prepared: Prepared,
    workspace: Workspace,
    folder: JobFolder,
    scratch: Path,
    lock: FileLock,
    replicator: Replicator | None,
    stop: StopRequest,
    view: View,
) -> Iterator[Job]:
    """A job whose journal is open and followed by MLflow; its end, whatever it is, is written and published."""
    spec = prepared.spec
    record = load_record(folder.journal) if folder.journal.exists() else Record()

    def on_event(event: Event) -> None:
        record.add(event)
        if replicator is not None:
            replicator.on_event()
        view.on_event(event, record)

    # A simulation writes an event every few microseconds, and can be had again.
    journal = Journal(folder.journal, on_event, durable=not prepared.simulated)
    sender = BackgroundSync(spec, workspace, folder)
    try:
        yield Job(
            spec=spec,
            workspace=workspace,
            folder=folder,
            journal=journal,
            record=record,
            concurrent=prepared.concurrent,
            scratch=scratch,
            lock=lock,
            stop=stop,
            replicator=replicator,
            plan=prepared.plan,
            simulated=Clock() if prepared.simulated else None,
            workers=Workers(spec.resources.cpus, spec.resources.gpus),
        )
        journal.append("state", state="finished")
        folder.forget_checkpoints()
    except DriverLost:
        journal.close()
        raise
    except BaseException as error:
        state = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        # Where the disk is full, the end of the job cannot be written either; that it was full is what matters.
        with suppress(ServiceError):
            journal.append("state", state=state, reason=str(error))
            _close(journal, record, sender, folder, view)
        raise
    _close(journal, record, sender, folder, view)


def _close(journal: Journal, record: Record, sender: BackgroundSync, folder: JobFolder, view: View) -> None:
    journal.close()
    sender.drain()
    results = job_results(folder, record)
    sender.attach(publish(results), folder.summary.read_text())
    sender.with_writer(lambda writer: register_winner(writer, results, view.announce))
    if sender.problem:
        view.announce(f"warning: {sender.problem}; nothing is lost: tuner sync {folder.id} sends the rest")
