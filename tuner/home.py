"""Where things lie on this machine: one folder, and one folder in it for each job."""

import errno
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.errors import StoreError
from trainables.files import files_at, inside
from tuner.durable import durably
from tuner.errors import IntegrityError, NotFound, ServiceError, did_you_mean
from tuner.lease import Holder, holder
from tuner.record import Record, load_record
from tuner.shared import shared_root

if TYPE_CHECKING:
    from tuner.database import Database

LATEST = "latest"
STORAGE_VARIABLE = "TUNER_STORAGE"
"""Names the database of studies and job records; it wins over the spec."""
SHARED = "shared"
_START = {"ms": int, "spec": dict, "folder": str, "simulate": bool}
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")

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
        """What was asked for; written before anything else is."""
        return self.path / "start.json"

    @property
    def lease(self) -> Path:
        """Locked by the driver that works on the job."""
        return self.path / "lease"

    @property
    def journal(self) -> Path:
        """The journal."""
        return self.path / "journal.jsonl"

    @property
    def packing(self) -> Path:
        """How many trials a GPU takes at once, where that was to be measured."""
        return self.path / "packing.json"

    @property
    def tracked(self) -> Path:
        """How far MLflow has been told."""
        return self.path / "tracked.json"

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
        """The user's own code, where it came with the job from another machine."""
        return self.path / "code"

    @property
    def shared(self) -> str:
        """Where its checkpoints, weights and copies of its exports are: a path, or an S3 URL.

        Below what ``TUNER_SHARED`` names now, else named when the job was made; without either, the job's own folder.

        Raises:
            SpecError: ``TUNER_SHARED`` names no place.
        """
        root = shared_root()
        if root is None:
            with suppress(IntegrityError, OSError):
                root = self.started().get(SHARED)
        return str(self.path) if root is None else inside(root, "jobs", self.id)

    def checkpoints(self, trial: str = "") -> str:
        """Folder of a trial's checkpoints, by its key; of all trials' without."""
        return inside(self.shared, "checkpoints", trial)

    def weights(self, arm: str, round_number: int) -> str:
        """File of the weights of an arm's winner, from the first seed of a round of confirm runs."""
        return inside(self.shared, "weights", f"{arm}-round{round_number}.safetensors")

    def forget_checkpoints(self, trial: str = "") -> None:
        """Remove a trial's checkpoints, or all trials'; where that fails for now, they are left."""
        folder = self.checkpoints(trial)
        try:
            files_at(folder, patience_s=0).clear()
        except StoreError as error:
            _log.warning("warning: checkpoints that nobody needs any more are left: %s", error)

    def started(self) -> Mapping[str, Any]:
        """What was asked for: ``ms``, ``spec`` (all its values), ``folder`` (of the user's code) and ``simulate``.

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
        """What the journal says.

        Raises:
            NotFound: the job has not begun.
            IntegrityError: the journal is damaged.
        """
        record = load_record(self.journal) if self.journal.exists() else Record()
        if not record.job:
            raise NotFound(f"job {self.id} has done nothing yet; start it again with: tuner resume {self.id}")
        return record

    def state(self) -> str:
        """The job's state in a word: ``new`` before it has done anything, ``crashed`` if what ran it died.

        ``damaged`` if its journal is: whoever resumes it goes back to the last good state.
        """
        try:
            state = load_record(self.journal).state if self.journal.exists() else "new"
        except IntegrityError:
            return "damaged"
        return "crashed" if state == "running" and self.holder() is None else state

    @property
    def is_held_here(self) -> bool:
        """Whether a process on this machine runs the job."""
        return holder(self.lease) is not None

    def holder(self) -> Holder | None:
        """Who runs the job, here or, where its record is in a database, anywhere.

        Raises:
            ServiceError: the lease or the database cannot be read.
        """
        if here := holder(self.lease):
            return here
        database = self.database()
        row = database.job(self.id) if database is not None else None
        return None if row is None else row.holder

    def database(self) -> "Database | None":
        """Where the job's record is kept beside this folder: the Postgres of its studies.

        Raises:
            ServiceError: it cannot be reached.
        """
        started = self.started()
        # A simulation can be had again, and needs no service.
        return (
            None
            if started["simulate"]
            else open_database(os.environ.get(STORAGE_VARIABLE) or started["spec"].get("storage"))
        )

    def forget(self) -> None:
        """Remove the folder of a job that did nothing, and the folder of jobs if it was the only one."""
        shutil.rmtree(self.path)
        with suppress(OSError):
            self.path.parent.rmdir()


@dataclass(frozen=True)
class Home:
    """The folder of all jobs: ``--home``, else ``TUNER_HOME``, else ``tuner-runs`` in the current folder."""

    path: Path

    @classmethod
    def find(cls, given: Path | None = None) -> "Home":
        """The home that the flag, the environment or the default names; it need not exist yet."""
        return cls((given or Path(os.environ.get("TUNER_HOME") or "tuner-runs")).absolute())

    @property
    def cache(self) -> Path:
        """Decoded data: ``TUNER_CACHE``, else in the home; a node's own ``TUNER_CACHE`` wins there."""
        return Path(os.environ.get("TUNER_CACHE") or self.path / "cache").absolute()

    @property
    def studies(self) -> Path:
        """The default database of the studies."""
        return self.path / "studies.db"

    @property
    def storage_url(self) -> str:
        """Its URL."""
        return f"sqlite:///{self.studies}"

    @property
    def tracking_store(self) -> Path:
        """The default MLflow store."""
        return self.path / "mlflow.db"

    @property
    def tracking_uri(self) -> str:
        """Its URI."""
        return f"sqlite:///{self.tracking_store}"

    @property
    def artifacts(self) -> Path:
        """Artifacts of the default MLflow store."""
        return self.path / "artifacts"

    def new_job(self, name: str, spec_text: str, start: Mapping[str, Any]) -> JobFolder:
        """Make the folder of a new job, whole or not at all; its id is the spec's name and six random digits.

        Args:
            name: the spec's name.
            spec_text: the spec as the user wrote it.
            start: what ``JobFolder.started`` gives back; where it is set, ``TUNER_SHARED`` is added.

        Raises:
            ServiceError: the folder cannot be written.
            SpecError: ``TUNER_SHARED`` names no place.
        """
        beginning = {"ms": time.time_ns() // 1_000_000, **start} | shared_entry()
        while (folder := self.put_job(f"{name}-{secrets.token_hex(3)}", spec_text, beginning)) is None:
            pass
        return folder

    def put_job(self, job_id: str, spec_text: str, start: Mapping[str, Any]) -> JobFolder | None:
        """Make the folder of a job, whole or not at all; None if there is one.

        Raises:
            ServiceError: the folder cannot be written.
        """
        made = self.path / "jobs" / f".new-{secrets.token_hex(8)}"
        try:
            made.mkdir(parents=True)
            durably(made / "spec.yaml", spec_text.encode())
            durably(made / "start.json", json.dumps(dict(start)).encode())
            # Onto a folder that is not empty there is no renaming.
            made.rename(made.with_name(job_id))
        except OSError as error:
            shutil.rmtree(made, ignore_errors=True)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return None
            raise ServiceError(f"cannot write to {self.path}: {error.strerror}") from error
        return JobFolder(made.with_name(job_id))

    def jobs(self) -> Iterator[JobFolder]:
        """All jobs, oldest first; one whose beginning cannot be read is as if it were older than all."""
        folders = [JobFolder(start.parent) for start in self.path.glob("jobs/[!.]*/start.json")]
        return iter(sorted(folders, key=_begun_ms))

    def job(self, job_id: str = LATEST) -> JobFolder:
        """A job by its id, a prefix of it that no other has, or ``latest``.

        Raises:
            NotFound: no such job, or several.
        """
        jobs = list(self.jobs())
        if not jobs:
            raise NotFound(f"no jobs in {self.path} yet; start one with: tuner run SPEC")
        if job_id == LATEST:
            return jobs[-1]
        found = [job for job in jobs if job.id == job_id] or [job for job in jobs if job.id.startswith(job_id)]
        if len(found) != 1 or not _JOB_ID.fullmatch(job_id):
            known = [job.id for job in jobs]
            many = f"; several begin so: {', '.join(job.id for job in found)}" if len(found) > 1 else ""
            raise NotFound(f"no job {job_id!r} in {self.path}{many or did_you_mean(job_id, known)}")
        return found[0]


def shared_entry() -> dict[str, str]:
    """What is written down of ``TUNER_SHARED`` when a job is made.

    Raises:
        SpecError: it names no place.
    """
    root = shared_root()
    return {} if root is None else {SHARED: root}


@cache
def open_database(url: str | None) -> "Database | None":
    """The database at a URL, if it is a Postgres: it alone can be shared by machines.

    Raises:
        ServiceError: it cannot be reached.
    """
    if url is None or not url.startswith("postgresql"):
        return None
    from tuner.database import Database

    return Database(url)


def _begun_ms(folder: JobFolder) -> int:
    try:
        return int(folder.started()["ms"])
    except (IntegrityError, OSError):
        return 0
