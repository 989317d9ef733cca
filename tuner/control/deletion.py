"""Deletes a job: everything that belongs to it alone."""

import shutil
from typing import NamedTuple

from trainables.file_store import files_at
from tuner.errors import IntegrityError, NotFound, SpecError
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.request import spec_of, storage_of
from tuner.jobs.workspace import Workspace
from tuner.storage.database_url import sqlite_file
from tuner.storage.events import Stage
from tuner.storage.file_lock import locked
from tuner.storage.shared_files import store_errors
from tuner.tracking import sync_state
from tuner.tracking.background_sync import open_writer


class Deleted(NamedTuple):
    """What was deleted with a job.

    Attributes:
        job: the job's id.
        studies: number of its studies in the studies' database.
        runs: number of its runs in MLflow. MLflow marks a run as deleted; ``mlflow gc`` removes it for good.
    """

    job: str
    studies: int
    runs: int


def delete(workspace: Workspace, folder: JobFolder) -> Deleted:
    """Delete a job that nobody runs. Nothing is asked, and nothing of it can be resumed or read later.

    These are deleted, in this order, so that a call that failed can be repeated: the job's studies; its runs in MLflow,
    which MLflow keeps in its trash; its record and the user's code in the Postgres database; its checkpoints, weights
    and exports in the place that ``TUNER_SHARED`` names; and its folder in the workspace, with the journal and the
    report. Files that were written elsewhere stay, and so do decoded data, MLflow's experiment and its registered
    models: other jobs may use them.

    Raises:
        SpecError: the job is running.
        ServiceError: a store cannot be reached.
    """
    if owner := folder.owner():
        raise SpecError(f"job {folder.id} is running ({owner}); to end it: tuner stop {folder.id}")
    with locked(folder.lock_file, folder.id):
        simulated = folder.started()["simulate"]
        deleted = Deleted(folder.id, 0 if simulated else _studies(workspace, folder), _runs(workspace, folder))
        if database := folder.database():
            database.forget(folder.id)
        if folder.shared != str(folder.path):
            with store_errors():
                files_at(folder.shared).clear()
        shutil.rmtree(folder.path)
    return deleted


def _studies(workspace: Workspace, folder: JobFolder) -> int:
    from tuner.search.study import study_name
    from tuner.search.study_database import delete_studies

    try:
        trials = folder.record().of(Stage.SEARCH)
    except (NotFound, IntegrityError):
        trials = []
    url = storage_of(spec_of(folder), workspace)
    file = sqlite_file(url)
    if not trials or (file is not None and not file.exists()):
        return 0
    return delete_studies(url, sorted({study_name(folder.id, trial.arm, trial.search) for trial in trials}))


def _runs(workspace: Workspace, folder: JobFolder) -> int:
    if not sync_state.load(folder.tracked).runs:
        return 0
    return open_writer(spec_of(folder), workspace, folder).delete_runs()
