"""What every part of a driver needs: where the job is, who watches it, and who may stop it."""

from dataclasses import dataclass
from pathlib import Path

from tuner.jobs.job_folder import JobFolder
from tuner.jobs.stop import StopRequest
from tuner.jobs.workspace import Workspace
from tuner.monitor.terminal import View


@dataclass(frozen=True)
class Context:
    """The surroundings of one driver.

    Args:
        workspace: where data, studies and runs are.
        folder: the job's.
        scratch: a folder for temporary files. Ray's sockets lie in it, so its name is short.
        view: where progress is shown.
        stop: set by a signal handler, or by another machine.
    """

    workspace: Workspace
    folder: JobFolder
    scratch: Path
    view: View
    stop: StopRequest
