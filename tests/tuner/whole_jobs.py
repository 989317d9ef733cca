"""Whole jobs kept small, run through the command line in a process of their own."""

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
    """Folders of one run: where it is started, its home, its scratch files; and the mark its processes bear."""

    root: Path
    scratch: Path
    mark: str

    @property
    def cwd(self) -> Path:
        """The folder it is started in, with its spec."""
        return self.root / "cwd"

    @property
    def home(self) -> Workspace:
        """The home of its jobs."""
        return Workspace(self.root / "home")

    @property
    def job(self) -> JobFolder:
        """Its only job."""
        return self.home.job()

    def env(self) -> dict[str, str]:
        """The environment of its processes."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "TUNER_"))}
        return kept | {
            "TUNER_HOME": str(self.home.path),
            "TMPDIR": str(self.scratch),
            "HOME": str(self.root / "user"),
            "PYTHONPATH": str(ROOT),
            MARK: self.mark,
        }

    def start(self, *args: str, env: Mapping[str, str] | None = None, name: str = "") -> "subprocess.Popen[str]":
        """``tuner`` with these arguments, in a session of its own; stdout and stderr go to files beside ``cwd``.

        Args:
            args: the command line.
            env: what else stands in its environment.
            name: of those files, where several run at once.
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
        """What a started command came to."""
        code = process.wait(patience_s)
        return Ended(code, (self.root / f"out{name}").read_text(), (self.root / f"err{name}").read_text())

    def tuner(self, *args: str) -> "Ended":
        """Run ``tuner`` with these arguments to its end."""
        return self.ended(self.start(*args))

    def processes(self) -> list[int]:
        """Process ids that bear this place's mark: whatever was started from here and still runs."""
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
        """The same, once what is ending has had time to end."""
        deadline = time.monotonic() + patience_s
        while (found := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@contextmanager
def place(root: Path, spec: str = SPEC, modules: Mapping[str, str] | None = None) -> Iterator[Place]:
    """A fresh place with a spec, and the user's own modules beside it; ends what was left running."""
    # Ray's sockets lie in it, and a socket's path is short.
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
    """Until ``seen()`` is true; fails if the process ends before."""
    deadline = time.monotonic() + PATIENCE_S
    while not seen():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def mlflow_runs(place: Place) -> list[Any]:
    """Every run in a place's MLflow store, whatever its experiment."""
    # SQLAlchemy and mlflow disagree about deprecations; that is theirs.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=place.home.tracking_uri)
        experiments = [found.experiment_id for found in client.search_experiments()]
        return list(client.search_runs(experiments, max_results=1000))


def mlflow_rows(place: Place) -> list[tuple[Any, ...]]:
    """Every metric row of the store, as it lies in the database: run, name, step, time, value."""
    import sqlite3

    database = sqlite3.connect(place.home.path / "mlflow.db")
    try:
        asked = database.execute("select run_uuid, key, step, timestamp, value, is_nan from metrics")
        return sorted(asked.fetchall())
    finally:
        database.close()
