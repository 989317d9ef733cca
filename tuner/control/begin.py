"""The drivers that a user can ask for: of a new job, to resume one, to search further, to confirm again; and the stop.

Each function checks everything that can be checked before, and gives the ``Drive`` that does the work.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from tuner.control.draft import Draft
from tuner.driver.code_check import inspect_code, try_imports
from tuner.driver.preflight import preflight
from tuner.errors import ServiceError, SpecError
from tuner.jobs.code_archive import code_files
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.request import (
    check_unchanged,
    new_job,
    next_extension,
    next_round,
    refuse_finished,
    spec_of,
    storage_of,
)
from tuner.jobs.warm_start import check_earlier_jobs
from tuner.jobs.workspace import Workspace
from tuner.spec.checks import check
from tuner.spec.search_spec import SearchSpec, data_path_of
from tuner.spec.user_code import code_folder, names_code, own_code
from tuner.storage.file_lock import locked

STOP_S = 120.0
"""How long to wait for a job to stop, in seconds."""
LEAST_SEEDS = 3
"""Fewest fresh seeds of a new round of confirm runs."""
Announce = Callable[[str], None]


@dataclass(frozen=True)
class Drive:
    """A driver to be started.

    Args:
        workspace: the workspace with the job's folder.
        folder: the job's folder.
        spec: the job's spec.
        options: options of ``tuner drive``.
    """

    workspace: Workspace
    folder: JobFolder
    spec: SearchSpec
    options: tuple[str, ...] = ()

    @property
    def silent_s(self) -> float:
        """A driver without a sign of life for this long, in seconds, is killed."""
        return 60 * self.spec.resources.silent_minutes


def begin(draft: Draft, workspace: Workspace, simulate: bool, announce: Announce) -> Drive:
    """Check a spec against this machine, and make a job of it.

    Args:
        draft: the spec.
        workspace: the workspace of the job.
        simulate: whether to train nothing.
        announce: called with each warning, and with the files of the user's own code that go into a database.

    Raises:
        SpecError: the spec, the data or the user's code is not right.
        NotFound: a warm start names a job that is not in the workspace.
        ServiceError: a store cannot be used, or the disk is too full.
    """
    spec, code = draft.spec, code_folder(draft.spec, draft.folder)
    own_code(spec, code)
    check_earlier_jobs(workspace, spec)
    checked = check(spec, announce, code=False)
    # Before a job begins, its driver checks an own model on the real data.
    inspect_code(checked, code, announce, build=not simulate, model=False)
    for warning in checked.warnings:
        announce(f"warning: {warning}")
    imported = None
    if not simulate:
        preflight(spec, workspace)
        if names_code(spec) and storage_of(spec, workspace).startswith("postgresql"):
            imported = try_imports(spec, code, announce)
            for line in code_files(code).lines():
                announce(line)
    return Drive(workspace, new_job(workspace, spec, draft.text, code, simulate, imported), spec)


def again(workspace: Workspace, folder: JobFolder, data_path: str | None = None) -> Drive:
    """Resume a job that has not finished.

    Args:
        workspace: the workspace with the job's folder.
        folder: the job's folder.
        data_path: where its data lies now, if it was moved.

    Raises:
        SpecError: it is finished, or its spec was changed since it began.
        ServiceError: a store cannot be used, or the disk is too full.
    """
    refuse_finished(folder.id, folder.state())
    check_unchanged(folder)
    return _drive(workspace, folder, data_path)


def further(workspace: Workspace, folder: JobFolder, hours: float | None = None, data_path: str | None = None) -> Drive:
    """Search further in a job about methods that ended before its last look.

    Args:
        workspace: the workspace with the job's folder.
        folder: the job's folder.
        hours: begin no search that would end after this many hours; None: no such cap.
        data_path: where its data lies now, if it was moved.

    Raises:
        SpecError: it has not ended, no search can change its verdict, or its spec was changed since it began.
    """
    number = next_extension(folder)
    check_unchanged(folder)
    limit = () if hours is None else ("--hours", str(hours))
    return _drive(workspace, folder, data_path, ("--extension", str(number), *limit))


def once_more(workspace: Workspace, folder: JobFolder, seeds: int, data_path: str | None = None) -> Drive:
    """Train a job's best settings on fresh seeds. The verdict stays as it is.

    Args:
        workspace: the workspace with the job's folder.
        folder: the job's folder.
        seeds: number of fresh seeds, at least 3.
        data_path: where its data lies now, if it was moved.

    Raises:
        SpecError: its search has not ended.
    """
    return _drive(workspace, folder, data_path, ("--round", str(next_round(folder)), "--seeds", str(seeds)))


def complete(workspace: Workspace, folder: JobFolder, announce: Announce) -> None:
    """Send and write what a finished job lacks: its report, exports, MLflow runs and model. Nothing is trained."""
    from tuner.driver.repair import send_all  # imports optuna

    with locked(folder.lock_file, folder.id):
        send_all(workspace, folder, announce)


def stop(folder: JobFolder) -> None:
    """Stop a job, on whichever machine it runs, and wait until it has stopped. Its progress is kept.

    Raises:
        SpecError: it is not running.
        ServiceError: it still runs after ``STOP_S``.
    """
    owner, database = folder.owner(), folder.database()
    if owner is None:
        raise SpecError(f"job {folder.id} is not running; it is {folder.state()}")
    if folder.is_held_here:
        os.kill(owner.pid, signal.SIGTERM)
    elif database is not None:
        database.ask_to_stop(folder.id)
    deadline = time.monotonic() + STOP_S
    while folder.owner() == owner:
        if time.monotonic() > deadline:
            raise ServiceError(f"job {folder.id} still runs after {STOP_S:g} s: {owner}")
        time.sleep(0.1)


def _drive(workspace: Workspace, folder: JobFolder, data_path: str | None, options: tuple[str, ...] = ()) -> Drive:
    spec = spec_of(folder)
    if not folder.started()["simulate"]:
        preflight(spec, workspace)
    return Drive(workspace, folder, spec, (*options, *data_options(spec, data_path)))


def data_options(spec: SearchSpec, given: str | None) -> tuple[str, ...]:
    """The options of ``tuner drive`` for the data folder."""
    path = data_path_of(spec.data.name, given)
    return () if path is None else ("--data", path)
