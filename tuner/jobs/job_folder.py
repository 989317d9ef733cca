"""The folder of one job: its files, its state, and the process that runs it."""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.errors import StoreError
from trainables.file_store import files_at, inside
from tuner.errors import IntegrityError, NotFound
from tuner.jobs.record import Record, load_record
from tuner.storage.file_lock import LockOwner, lock_owner
from tuner.storage.shared_files import shared_root

if TYPE_CHECKING:
    from tuner.storage.postgres import Database


STORAGE_VARIABLE = "TUNER_STORAGE"
"""Names the database of studies and job records; it wins over the spec."""
SHARED = "shared"
"""Key of ``start.json`` with the place of the files that all nodes need."""
_START = {"ms": int, "spec": dict, "folder": str, "simulate": bool}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobFolder:
    """One job's folder."""

    path: Path

    @property
    def id(self) -> str:
        """The job's id."""
        return self.path.name

    @property
    def spec(self) -> Path:
        """The spec as the user wrote it."""
        return self.path / "spec.yaml"

    @property
    def start(self) -> Path:
        """What the user submitted; the first file that is written."""
        return self.path / "start.json"

    @property
    def lock_file(self) -> Path:
        """Locked by the driver that works on the job."""
        return self.path / "lease"

    @property
    def journal(self) -> Path:
        """The journal."""
        return self.path / "journal.jsonl"

    @property
    def packing(self) -> Path:
        """How many trials a GPU runs at once, if that was measured."""
        return self.path / "packing.json"

    @property
    def tracked(self) -> Path:
        """How much of the journal MLflow has."""
        return self.path / "tracked.json"

    @property
    def unpublished(self) -> Path:
        """Exists from just before a job finishes until its report, exports, MLflow runs and model are complete."""
        return self.path / "unpublished"

    @property
    def report(self) -> Path:
        """The report, with pictures."""
        return self.path / "report.html"

    @property
    def summary(self) -> Path:
        """The report in Markdown."""
        return self.path / "report.md"

    @property
    def leaderboard(self) -> Path:
        """The leaderboard as data."""
        return self.path / "leaderboard.json"

    def export(self, arm: str) -> Path:
        """An arm's exported winner."""
        return self.path / "exports" / f"{arm}.yaml"

    @property
    def code(self) -> Path:
        """The user's own code, if the job came from another machine."""
        return self.path / "code"

    @property
    def shared(self) -> str:
        """The place of its checkpoints, weights and copies of its exports: a path or an S3 URL.

        It is below the place that ``TUNER_SHARED`` names now, or named when the job was created. Without either it is
        the job's own folder.

        Raises:
            SpecError: ``TUNER_SHARED`` is neither a path nor an S3 URL.
        """
        root = shared_root()
        if root is None:
            with suppress(IntegrityError, OSError):
                root = self.started().get(SHARED)
        return str(self.path) if root is None else inside(root, "jobs", self.id)

    def checkpoints(self, trial: str = "") -> str:
        """Folder of the checkpoints of a trial, by its key; without a key, of all trials."""
        return inside(self.shared, "checkpoints", trial)

    def weights(self, arm: str, round_number: int) -> str:
        """File of the weights of an arm's winner, from the first seed of a round of confirm runs."""
        return inside(self.shared, "weights", f"{arm}-round{round_number}.safetensors")

    def forget_checkpoints(self, trial: str = "") -> None:
        """Remove the checkpoints of a trial or of all trials. If that fails, they stay, and a warning is logged."""
        folder = self.checkpoints(trial)
        try:
            files_at(folder, patience_s=0).clear()
        except StoreError as error:
            _log.warning("warning: checkpoints that nobody needs any more are left: %s", error)

    def started(self) -> Mapping[str, Any]:
        """What the user submitted: ``ms``, ``spec`` (all its values), ``folder`` (of the user's code) and ``simulate``.

        Raises:
            IntegrityError: the file is damaged.
        """
        try:
            start = json.loads(self.start.read_bytes())
        except ValueError:
            start = None
        if not isinstance(start, dict) or not all(isinstance(start.get(key), kind) for key, kind in _START.items()):
            raise IntegrityError(f"{self.start}: damaged")
        return start

    def record(self) -> Record:
        """The record that the journal gives.

        Raises:
            NotFound: the job has not begun.
            IntegrityError: the journal is damaged.
        """
        record = self.record_so_far()
        if not record.begun:
            raise NotFound(f"job {self.id} has done nothing yet; start it again with: tuner resume {self.id}")
        return record

    def record_so_far(self) -> Record:
        """The record that the journal gives, which is empty before the job has begun.

        Raises:
            IntegrityError: the journal is damaged.
        """
        return load_record(self.journal) if self.journal.exists() else Record()

    def state(self) -> str:
        """The job's state in a word.

        A job is ``new`` before it has begun, ``crashed`` if the process that ran it died, and ``damaged`` if its
        journal is. A resume continues a damaged job from its last good event.
        """
        try:
            record = self.record_so_far()
        except IntegrityError:
            return "damaged"
        return state_of(record, self.owner()) if record.state == "running" else record.state

    def lacks(self, state: str) -> str:
        """What a job in this state lacks because its process died at its very end; empty if it lacks nothing."""
        if state != "finished" or not self.unpublished.exists() or self.is_held_here:
            return ""
        return "its report, exports, studies, MLflow runs or registered model are not complete"

    @property
    def is_held_here(self) -> bool:
        """Whether a process on this machine runs the job."""
        return lock_owner(self.lock_file) is not None

    def owner(self) -> LockOwner | None:
        """The process that runs the job: on this machine or, if the job's record is in a database, on any machine.

        Raises:
            ServiceError: the lock or the database cannot be read.
        """
        if here := lock_owner(self.lock_file):
            return here
        database = self.database()
        row = database.job(self.id) if database is not None else None
        return None if row is None else row.holder

    def database(self) -> "Database | None":
        """The database with a copy of the job's record: the Postgres of its studies. None for a SQLite file.

        Raises:
            ServiceError: it cannot be reached.
        """
        started = self.started()
        # A simulation can be repeated, and needs no service.
        return (
            None
            if started["simulate"]
            else open_database(os.environ.get(STORAGE_VARIABLE) or started["spec"].get("storage"))
        )

    def forget(self) -> None:
        """Remove the folder of a job that did nothing, and the folder of jobs if it is then empty."""
        shutil.rmtree(self.path)
        with suppress(OSError):
            self.path.parent.rmdir()


def state_of(record: Record, owner: LockOwner | None) -> str:
    """A job's state in a word, from its record and its owner."""
    return "crashed" if record.state == "running" and owner is None else record.state


@cache
def open_database(url: str | None) -> "Database | None":
    """The database at a URL; None if it is not a Postgres, because only that can be shared by machines.

    Raises:
        ServiceError: it cannot be reached.
    """
    if url is None or not url.startswith("postgresql"):
        return None
    from tuner.storage.postgres import Database

    return Database(url)
