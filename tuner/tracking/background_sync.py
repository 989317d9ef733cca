"""Keeps MLflow up to date while a job runs: the tracker of a job, its writer, and how often the writer sends."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import ServiceError
from tuner.jobs.follower import Follower, Pace
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.workspace import Workspace
from tuner.spec.search_spec import SearchSpec
from tuner.storage.database_url import absolute, sqlite_file
from tuner.tracking.moved_store import follow_move

if TYPE_CHECKING:
    from tuner.tracking.writer import Writer

PACE = Pace(pause_s=1.0, beat_s=10.0, longest_retry_s=10.0, give_up_s=15.0, patience_s=60.0)


def open_writer(spec: SearchSpec, workspace: Workspace, folder: JobFolder) -> "Writer":
    """The writer of a job's tracker."""
    from tuner.tracking.writer import Writer  # imports mlflow: seconds

    uri = tracker_to_open(spec, workspace)
    return Writer(folder, uri, experiment_name(spec), artifacts_of(uri, workspace))


def tracking_uri(spec: SearchSpec, workspace: Workspace) -> str:
    """Where a job is tracked: ``MLFLOW_TRACKING_URI`` wins over the spec, the spec over the workspace's store.

    A relative path of an SQLite file is made absolute, from the current folder.
    """
    return absolute(os.environ.get("MLFLOW_TRACKING_URI") or spec.tracking.uri or workspace.tracking_uri)


def experiment_name(spec: SearchSpec) -> str:
    """The experiment of a job's runs."""
    return spec.tracking.experiment or spec.name


def artifacts_of(uri: str, workspace: Workspace) -> Path | None:
    """Folder of the artifacts of a new experiment; None leaves the choice to a tracking server.

    It is beside an SQLite file. For another database without a server it is in the workspace. MLflow itself would take
    the current folder.
    """
    if (file := sqlite_file(uri)) is not None:
        return workspace.artifacts if file == workspace.tracking_store else file.parent / "artifacts"
    return None if uri.startswith(("http", "databricks")) else workspace.artifacts


def tracker_to_open(spec: SearchSpec, workspace: Workspace) -> str:
    """The same; if that is the workspace's store, it has followed the workspace, which may have been moved.

    Raises:
        ServiceError: that store cannot be written.
    """
    uri = tracking_uri(spec, workspace)
    if uri == workspace.tracking_uri:
        follow_move(workspace)
    return uri


class BackgroundSync:
    """Sends the journal of a job to MLflow as it grows. The follower's thread imports mlflow, which takes seconds."""

    def __init__(self, spec: SearchSpec, workspace: Workspace, folder: JobFolder) -> None:
        self.follower = Follower("MLflow", self.send, PACE)
        self._open = partial(open_writer, spec, workspace, folder)
        self._writer: Writer | None = None

    def send(self) -> None:
        """Send everything new; raises as ``Writer.send``."""
        self._writer = self._writer or self._open()
        self._writer.send()

    def finish(self, call: Callable[["Writer"], None]) -> None:
        """Call with the writer once the journal was sent, unless sending failed; an error becomes the problem."""
        if self.follower.problem is None and self._writer is not None:
            try:
                call(self._writer)
            except ServiceError as error:
                self.follower.problem = error
