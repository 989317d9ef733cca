"""A job that arrives on a cluster's head, or that another machine knows of: its folder and its record here."""

import json
import os
from pathlib import Path

from tuner.errors import IntegrityError, SpecError
from tuner.jobs.find import find_job
from tuner.jobs.job_folder import STORAGE_VARIABLE, JobFolder, open_database
from tuner.jobs.workspace import Workspace, shared_entry

SPEC, START, CODE = "spec.yaml", "start.json", "code.zip"
"""Files that a submitted job travels in."""


def unpack_job(workspace: Workspace, travelled: Path) -> JobFolder:
    """The folder of a job that was submitted, made of what travelled, with its record in the database.

    Raises:
        SpecError: there is no database that all machines share.
        ServiceError: it cannot be used.
        IntegrityError: what travelled is not whole.
    """
    try:
        start = json.loads((travelled / START).read_bytes())
        job_id, spec_text = str(start.pop("job")), (travelled / SPEC).read_text(encoding="utf-8")
        code = (travelled / CODE).read_bytes() if (travelled / CODE).exists() else None
        ms = int(start["ms"])
        start |= shared_entry()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{travelled}: what was submitted is not whole: {error}") from error
    database = open_database(os.environ.get(STORAGE_VARIABLE) or start["spec"].get("storage"))
    if database is None:
        raise SpecError(
            f"this head keeps no jobs: set {STORAGE_VARIABLE} on it to a postgresql:// URL; an SQLite file lies on one"
            " machine, is lost with it and cannot be locked over a network"
        )
    # Whoever came first has written it down.
    database.register(job_id, ms, spec_text, start, code)
    workspace.put_job(job_id, spec_text, start)
    return find_job(workspace, job_id)
