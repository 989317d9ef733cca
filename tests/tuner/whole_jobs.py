"""Complete small jobs, run through the command line in a separate process."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.jobs.job_folder import JobFolder
from tuner.jobs.workspace import Workspace

ROOT = Path(__file__).parents[2]
MARK = "TUNER_TEST_MARK"
PATIENCE_S = 240.0

SPEC = """\
name: tiny
data: {name: digits, train_images: 200, val_images: 100, test_images: 100}
model: {name: elu_net, width: 0.03}
baseline: adam_l2
arms: [adam_l2, adamw_restarts, noam]
budget: {trials: 3, epochs: 6, batch_size: 20}
scheduler: {name: asha, first_rung: 2, reduction_factor: 2}
confirm: {seeds: 3}
"""


@dataclass(frozen=True)
class Place:
    """The folders of one run and the mark of its processes.

    The folders are the current folder, the workspace and the scratch folder. The mark is an environment variable.
    """

    root: Path
    scratch: Path
    mark: str

    @property
    def cwd(self) -> Path:
        """The folder with the spec, where the run starts."""
        return self.root / "cwd"

    @property
    def home(self) -> Workspace:
        """The workspace of its jobs."""
        return Workspace(self.root / "home")

    @property
    def job(self) -> JobFolder:
        """The only job of the workspace."""
        return self.home.job()

    def env(self) -> dict[str, str]:
        """The environment variables of its processes."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "TUNER_"))}
        return kept | {
            "TUNER_HOME": str(self.home.path),
            "TMPDIR": str(self.scratch),
            "HOME": str(self.root / "user"),
            "PYTHONPATH": str(ROOT),
            MARK: self.mark,
        }

    def start(self, *args: str, env: Mapping[str, str] | None = None, name: str = "") -> "subprocess.Popen[str]":
        """Start ``tuner`` in its own session. Its stdout and stderr go to files beside ``cwd``.

        Args:
            args: the arguments of ``tuner``.
            env: further environment variables.
            name: suffix of the names of these files, if several commands run at once.
        """
        with (self.root / f"out{name}").open("w") as out, (self.root / f"err{name}").open("w") as err:
            return subprocess.Popen(
                [sys.executable, "-m", "tuner.cli", *args],
                cwd=self.cwd,
                env=self.env() | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                text=True,
                start_new_session=True,
            )

    def ended(self, process: "subprocess.Popen[str]", name: str = "", patience_s: float = PATIENCE_S) -> "Ended":
        """Wait for a started command; returns its result."""
        code = process.wait(patience_s)
        return Ended(code, (self.root / f"out{name}").read_text(), (self.root / f"err{name}").read_text())

    def tuner(self, *args: str) -> "Ended":
        """Run ``tuner`` with these arguments and wait for its end."""
        return self.ended(self.start(*args))

    def processes(self) -> list[int]:
        """Ids of the running processes with the mark of this place, that is, those that were started from here."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    environ = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if f"{MARK}={self.mark}".encode() in environ.split(b"\0"):
                    found.append(int(entry.name))
        return found

    def processes_left(self, patience_s: float = 10.0) -> list[int]:
        """The same, but processes that are about to end get some seconds to do so."""
        deadline = time.monotonic() + patience_s
        while (found := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found


@dataclass(frozen=True)
class Ended:
    """The result of a command: exit code, stdout and stderr."""

    code: int
    out: str
    err: str


@contextmanager
def place(root: Path, spec: str = SPEC, modules: Mapping[str, str] | None = None) -> Iterator[Place]:
    """A fresh place with a spec and the user's own modules beside it. On exit it kills the processes that still run."""
    # Ray creates its sockets here, and the path of a socket must be short.
    scratch = Path(tempfile.mkdtemp(prefix="tt", dir="/tmp"))
    made = Place(root, scratch, uuid.uuid4().hex)
    for folder in (made.cwd, root / "user"):
        folder.mkdir(parents=True)
    (made.cwd / "spec.yaml").write_text(spec)
    for name, text in (modules or {}).items():
        (made.cwd / name).write_text(text)
    try:
        yield made
    finally:
        for pid in made.processes():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(scratch, ignore_errors=True)


def wait_for(seen: Any, process: "subprocess.Popen[str]") -> None:
    """Wait until ``seen()`` is true; fails if the process ends first."""
    deadline = time.monotonic() + PATIENCE_S
    while not seen():
        assert process.poll() is None, "the process ended too early"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def mlflow_runs(place: Place) -> list[Any]:
    """Every run in the MLflow store of a place, in all experiments."""
    # mlflow triggers deprecation warnings of SQLAlchemy, which we cannot fix.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=place.home.tracking_uri)
        experiments = [found.experiment_id for found in client.search_experiments()]
        return list(client.search_runs(experiments, max_results=1000))


def mlflow_rows(place: Place) -> list[tuple[Any, ...]]:
    """Every metric row in the database of the store: run, name, step, time, value, and whether it is NaN."""
    import sqlite3

    database = sqlite3.connect(place.home.path / "mlflow.db")
    try:
        asked = database.execute("select run_uuid, key, step, timestamp, value, is_nan from metrics")
        return sorted(asked.fetchall())
    finally:
        database.close()
