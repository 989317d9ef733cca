"""Keeps MLflow up to date in a thread while a job runs. mlflow takes seconds to import: the thread pays for it."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import ServiceError
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.workspace import Workspace
from tuner.spec.search_spec import SearchSpec

if TYPE_CHECKING:
    from tuner.tracking.writer import Writer

POLL_S = 1.0
LONGEST_PAUSE_S = 10.0
"""Between two tries of a tracker that is away; the first pause is ``POLL_S``, each next one twice as long."""
AWAY_S = 15.0
"""How long a tracker must have failed without a break for a job that has ended to stop trying."""
PATIENCE_S = 60.0
"""How long a job that has ended waits for a tracker that takes its time."""


def open_writer(spec: SearchSpec, workspace: Workspace, folder: JobFolder) -> "Writer":
    """The writer of a job's tracker: the spec's URI, else the environment's, else a file in the home folder."""
    from tuner.tracking.writer import Writer

    uri = tracking_uri(spec, workspace)
    experiment = spec.tracking.experiment or spec.name
    return Writer(folder, uri, experiment, workspace.artifacts if uri == workspace.tracking_uri else None)


def tracking_uri(spec: SearchSpec, workspace: Workspace) -> str:
    """Where a job is tracked: ``MLFLOW_TRACKING_URI`` wins over the spec, the spec over the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or spec.tracking.uri or workspace.tracking_uri


class BackgroundSync:
    """Sends a job's journal as it grows; a tracker that is away is tried again and again and stops nothing."""

    def __init__(self, spec: SearchSpec, workspace: Workspace, folder: JobFolder) -> None:
        self.problem: Exception | None = None
        self._open = partial(open_writer, spec, workspace, folder)
        self._writer: Writer | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-sender", daemon=True)
        self._thread.start()

    def drain(self) -> None:
        """Send what is left; ``problem`` says what failed.

        A tracker that fails is given ``AWAY_S`` since it first did, or one more try if these have passed; one that is
        slow gets ``PATIENCE_S``.
        """
        self._ending.set()
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self.problem = self.problem or ServiceError(f"MLflow did not take everything within {PATIENCE_S:g} s")

    def attach(self, files: Mapping[str, Path], description: str) -> None:
        """Put the files and the description on the parent run, unless sending failed before."""
        self.with_writer(lambda writer: writer.attach(files, description))

    def with_writer(self, call: Callable[["Writer"], None]) -> None:
        """Call with the writer, unless sending failed before; what fails is kept as the problem."""
        if self.problem is None and self._writer is not None:
            try:
                call(self._writer)
            except ServiceError as error:
                self.problem = error

    def _run(self) -> None:
        failing_since: float | None = None
        pause_s = POLL_S
        while True:
            ending = self._ending.is_set()
            try:
                self._writer = self._writer or self._open()
                self._writer.send()
                self.problem, failing_since, pause_s = None, None, POLL_S
            except Exception as error:
                # The thread must not die of an error that the next try, or ``tuner sync``, may not meet.
                self.problem = error
                failing_since = failing_since or time.monotonic()
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            if not ending:
                self._ending.wait(pause_s)
            elif failing_since is None or time.monotonic() - failing_since >= AWAY_S:
                return
            else:
                time.sleep(POLL_S)
