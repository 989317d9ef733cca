"""Finds and repairs what crashes left behind."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tuner.errors import IntegrityError
from tuner.export.job_winner import register_winner
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.replication import replicate_once
from tuner.jobs.request import spec_of, storage_of
from tuner.jobs.workspace import Workspace
from tuner.report.publish import publish
from tuner.search.study_database import StudyWriter
from tuner.storage.events import JobStateChanged
from tuner.storage.file_lock import locked
from tuner.storage.journal import Journal
from tuner.tracking.background_sync import open_writer
from tuner.verdict.ranking import job_results


@dataclass(frozen=True)
class Finding:
    """A problem of a job.

    Args:
        job: the job's id.
        problem: what is wrong.
        way_out: what the user can do.
    """

    job: str
    problem: str
    way_out: str


def examine(workspace: Workspace) -> Iterator[Finding]:
    """Find the problems of every job."""
    for folder in workspace.jobs():
        resume = f"tuner resume {folder.id}"
        try:
            folder.started()
        except IntegrityError as error:
            yield Finding(folder.id, str(error), "put it back from a copy, or start a new job")
            continue
        state = folder.state()
        if state == "damaged":
            yield Finding(folder.id, "its journal is damaged", f"{resume} continues from its good part")
        elif state == "crashed":
            yield Finding(folder.id, "what ran it died; its runs still look as if they ran", f"{resume}, or --fix")
        elif state == "new":
            yield Finding(folder.id, "it was never begun", resume)
        elif lacks := folder.lacks(state):
            yield Finding(folder.id, lacks, resume)


def send_all(workspace: Workspace, folder: JobFolder, announce: Callable[[str], None]) -> int:
    """Send everything that the stores of a job lack, write its report and exports again, and register its winner.

    Args:
        workspace: the workspace with the job's folder.
        folder: the job's folder. The job may be running.
        announce: called with a line if the winner cannot be registered, or is not the champion.

    Returns:
        The number of its runs in MLflow.

    Raises:
        ServiceError: a store cannot be reached, or refuses us.
    """
    spec = spec_of(folder)
    # The report needs no store, so it does not wait for one.
    results = job_results(folder)
    files = publish(results)
    writer = open_writer(spec, workspace, folder)
    writer.send()
    if not folder.started()["simulate"]:
        url = storage_of(spec, workspace)
        StudyWriter(folder, url, durable=url != workspace.storage_url).send()
    writer.attach(files, folder.summary.read_text(encoding="utf-8"))
    register_winner(writer, results, announce)
    replicate_once(folder)
    if results.record.state == "finished":
        folder.unpublished.unlink(missing_ok=True)
    return len(writer.runs)


def close_crashed(workspace: Workspace, folder: JobFolder) -> None:
    """Record in the journal and in MLflow that a crashed job does not run. It can still be resumed.

    Raises:
        SpecError: the job is running.
        ServiceError: the tracker cannot be reached.
    """
    with locked(folder.lock_file, folder.id):
        journal = Journal(folder.journal)
        journal.append(JobStateChanged("interrupted", "it crashed"))
        journal.close()
        open_writer(spec_of(folder), workspace, folder).send()
    replicate_once(folder)
