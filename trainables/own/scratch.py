"""The folder of a worker for everything that a user's trainable writes, and the environment that it sees.

A trial's current folder is new and empty, and is removed with the trial. The user's calls of mlflow write to a store of
the worker, which nobody reads: the job's own store has exactly the runs that the job made.
"""

import fcntl
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

PREFIX = "tuner-own-"
_LOCK = ".lock"
_YOUNG_S = 60.0
"""A folder without a lock file may be a new one whose lock is not made yet."""
_OTHERS = ("MLFLOW_", "DATABRICKS_")
"""Variables that would lead the user's mlflow to a real store, or give it a password."""


class Scratch:
    """The worker's folder; it exists as long as the process, and later workers remove it if the process was killed."""

    def __init__(self) -> None:
        _remove_abandoned()
        self._home = os.getcwd()
        # The current folder changes from trial to trial, and modules are imported until the end.
        sys.path[:] = [os.path.abspath(path) for path in sys.path]
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = _locked(self.path / _LOCK, "x")
        for name in [name for name in os.environ if name.startswith(_OTHERS)]:
            del os.environ[name]
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{self.path}/mlflow.db"

    def enter_trial(self) -> Path:
        """Make a new folder for a trial, and make a folder in it the current one."""
        trial = Path(tempfile.mkdtemp(dir=self.path))
        (trial / "work").mkdir()
        os.chdir(trial / "work")
        return trial

    def leave_trial(self, trial: Path) -> None:
        """Go back to the folder where the worker started, and remove the trial's."""
        _end_mlflow_runs()
        os.chdir(self._home)
        shutil.rmtree(trial, ignore_errors=True)

    def remove(self) -> None:
        """Remove the whole folder."""
        os.chdir(self._home)
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()


def _end_mlflow_runs() -> None:
    """End the runs of the user's mlflow that are open, as the end of a process of their own would."""
    mlflow = sys.modules.get("mlflow")
    # The user may have led mlflow to a store of their own, which may fail.
    with suppress(Exception):
        while mlflow is not None and mlflow.active_run() is not None:
            mlflow.end_run()


def _remove_abandoned() -> None:
    """Remove the folders of this user's workers that were killed: nobody holds their locks."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            about = folder.lstat()
            if about.st_uid != os.getuid() or time.time() - about.st_mtime < _YOUNG_S:
                continue
            lock = _locked(folder / _LOCK, "a")
        except OSError:
            continue
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            lock.close()


def _locked(path: Path, mode: str) -> IO[str] | None:
    """The open lock file, or None if another process holds the lock."""
    file: IO[str] = path.open(mode)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
