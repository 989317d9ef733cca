"""Finds a job by its id, in the workspace here or in the database that all machines share."""

import os

from tuner.jobs.job_folder import STORAGE_VARIABLE, JobFolder, open_database
from tuner.jobs.replication import pull
from tuner.jobs.workspace import LATEST, Workspace


def find_job(workspace: Workspace, job_id: str = LATEST) -> JobFolder:
    """A job by its id, by a prefix of it, or by ``latest``.

    If ``TUNER_STORAGE`` names a Postgres, its jobs get folders here, and the found one is brought up to date.

    Raises:
        NotFound: no such job, or several fit.
        ServiceError: the database cannot be used.
    """
    database = open_database(os.environ.get(STORAGE_VARIABLE))
    if database is None:
        return workspace.job(job_id)
    here = {folder.id for folder in workspace.jobs()}
    for row in database.jobs():
        if row.id not in here:
            workspace.put_job(row.id, row.spec_text, {**row.start, "ms": row.ms})
    folder = workspace.job(job_id)
    if not folder.is_held_here:
        pull(database, folder)
    return folder
