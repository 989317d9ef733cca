"""Receives a submitted job on a cluster's head: creates its folder, and its record in the database."""

import json
import os
from pathlib import Path

from tuner.errors import IntegrityError, SpecError
from tuner.jobs.find import find_job
from tuner.jobs.job_folder import STORAGE_VARIABLE, JobFolder, open_database
from tuner.jobs.workspace import Workspace, shared_entry

SPEC, START, CODE = "spec.yaml", "start.json", "code.zip"
"""Files that a submitted job is packed in."""


def unpack_job(workspace: Workspace, submitted: Path) -> JobFolder:
    """Create the folder of a submitted job from the files it was packed in, and its record in the database.

    Args:
        workspace: the head's workspace.
        submitted: folder with the files.

    Returns:
        The job's folder.

    Raises:
        SpecError: there is no database that all machines share.
        ServiceError: the database cannot be used.
        IntegrityError: the files are incomplete or damaged.
    """
    try:
        start = json.loads((submitted / START).read_bytes())
        job_id, spec_text = str(start.pop("job")), (submitted / SPEC).read_text(encoding="utf-8")
        code = (submitted / CODE).read_bytes() if (submitted / CODE).exists() else None
        ms = int(start["ms"])
        start |= shared_entry()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{submitted}: the submitted files are incomplete or damaged: {error}") from error
    database = open_database(os.environ.get(STORAGE_VARIABLE) or start["spec"].get("storage"))
    if database is None:
        raise SpecError(
            f"this head has no database for jobs: set {STORAGE_VARIABLE} on it to a postgresql:// URL; an SQLite file"
            " is on one machine, is lost with it and cannot be locked over a network"
        )
    # If the job has a record already, this changes nothing.
    database.register(job_id, ms, spec_text, start, code)
    workspace.put_job(job_id, spec_text, start)
    return find_job(workspace, job_id)
