"""The workspace: one folder on this machine, with a folder for each job and the stores that they share."""

import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.errors import did_you_mean
from tuner.errors import IntegrityError, NotFound, ServiceError
from tuner.jobs.job_folder import SHARED, JobFolder
from tuner.storage.atomic_files import write_atomically
from tuner.storage.database_url import sqlite_url
from tuner.storage.shared_files import shared_root

LATEST = "latest"
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")


@dataclass(frozen=True)
class Workspace:
    """The folder of all jobs: ``--home``, else ``TUNER_HOME``, else ``tuner-runs`` in the current folder."""

    path: Path

    @classmethod
    def find(cls, given: Path | None = None) -> "Workspace":
        """The workspace that the option, the environment or the default names. Its folder need not exist yet."""
        return cls((given or Path(os.environ.get("TUNER_HOME") or "tuner-runs")).absolute())

    @property
    def is_in_use(self) -> bool:
        """Whether a job was made here."""
        return next(self.path.glob("jobs/*/start.json"), None) is not None

    @property
    def cache(self) -> Path:
        """Folder of decoded data: ``TUNER_CACHE``, else in the workspace. On a node, its own ``TUNER_CACHE`` wins."""
        return Path(os.environ.get("TUNER_CACHE") or self.path / "cache").absolute()

    @property
    def studies(self) -> Path:
        """The default database of the studies."""
        return self.path / "studies.db"

    @property
    def storage_url(self) -> str:
        """SQLAlchemy URL of that database."""
        return sqlite_url(self.studies)

    @property
    def tracking_store(self) -> Path:
        """The default MLflow store."""
        return self.path / "mlflow.db"

    @property
    def tracking_uri(self) -> str:
        """MLflow's URI of that store."""
        return sqlite_url(self.tracking_store)

    @property
    def artifacts(self) -> Path:
        """Artifacts of the default MLflow store."""
        return self.path / "artifacts"

    def new_job(self, name: str, spec_text: str, start: Mapping[str, Any]) -> JobFolder:
        """Create the folder of a new job, whole or not at all. Its id is the spec's name and six random hex digits.

        Args:
            name: the spec's name.
            spec_text: the spec as the user wrote it.
            start: what ``JobFolder.started`` is to return. ``TUNER_SHARED`` is added if it is set.

        Raises:
            ServiceError: the folder cannot be written.
            SpecError: ``TUNER_SHARED`` is neither a path nor an S3 URL.
        """
        beginning = {"ms": time.time_ns() // 1_000_000, **start} | shared_entry()
        while (folder := self.put_job(f"{name}-{secrets.token_hex(3)}", spec_text, beginning)) is None:
            pass
        return folder

    def put_job(self, job_id: str, spec_text: str, start: Mapping[str, Any]) -> JobFolder | None:
        """Create the folder of a job, whole or not at all; None if it exists.

        Raises:
            ServiceError: the folder cannot be written.
        """
        made = self.path / "jobs" / f".new-{secrets.token_hex(8)}"
        try:
            made.mkdir(parents=True)
            write_atomically(made / "spec.yaml", spec_text.encode())
            write_atomically(made / "start.json", json.dumps(dict(start)).encode())
            # Renaming to a folder that is not empty fails, so an existing job stays.
            made.rename(made.with_name(job_id))
        except OSError as error:
            shutil.rmtree(made, ignore_errors=True)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return None
            raise ServiceError(f"cannot write to {self.path}: {error.strerror}") from error
        return JobFolder(made.with_name(job_id))

    def jobs(self) -> Iterator[JobFolder]:
        """All jobs, oldest first. A job whose ``start.json`` cannot be read comes first."""
        return iter(sorted(self.folders(), key=_begun_ms))

    def folders(self) -> Iterator[JobFolder]:
        """All jobs in no order. Nothing of them is read."""
        return (JobFolder(start.parent) for start in self.path.glob("jobs/[!.]*/start.json"))

    def job(self, job_id: str = LATEST) -> JobFolder:
        """A job by its id, by a prefix that only one id has, or by ``latest``.

        Raises:
            NotFound: no such job, or several.
        """
        jobs = list(self.folders())
        if not jobs:
            raise NotFound(f"no jobs in {self.path} yet; start one with: tuner run SPEC")
        if job_id == LATEST:
            return sorted(jobs, key=_begun_ms)[-1]
        found = [job for job in jobs if job.id == job_id] or [job for job in jobs if job.id.startswith(job_id)]
        if len(found) != 1 or not _JOB_ID.fullmatch(job_id):
            known = [job.id for job in sorted(jobs, key=_begun_ms)]
            several = ", ".join(job.id for job in sorted(found, key=_begun_ms))
            many = f"; several begin so: {several}" if len(found) > 1 else ""
            raise NotFound(f"no job {job_id!r} in {self.path}{many or did_you_mean(job_id, known)}")
        return found[0]


def shared_entry() -> dict[str, str]:
    """The part of ``start.json`` that keeps ``TUNER_SHARED``.

    Raises:
        SpecError: it is neither a path nor an S3 URL.
    """
    root = shared_root()
    return {} if root is None else {SHARED: root}


def _begun_ms(folder: JobFolder) -> int:
    try:
        return int(folder.started()["ms"])
    except (IntegrityError, OSError):
        return 0
