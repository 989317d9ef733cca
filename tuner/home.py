"""Where things lie on this machine: one folder, and one folder in it for each job."""

import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import IntegrityError, NotFound, ServiceError, did_you_mean
from tuner.journal import read
from tuner.record import Record, load_record

LATEST = "latest"
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")


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
    def journal(self) -> Path:
        """The journal."""
        return self.path / "journal.jsonl"

    @property
    def tracked(self) -> Path:
        """How far MLflow has been told."""
        return self.path / "tracked.json"

    @property
    def report(self) -> Path:
        """The report people read."""
        return self.path / "report.md"

    @property
    def leaderboard(self) -> Path:
        """The leaderboard as data."""
        return self.path / "leaderboard.json"

    def export(self, arm: str) -> Path:
        """An arm's exported winner."""
        return self.path / "exports" / f"{arm}.yaml"

    def weights(self, arm: str, round_number: int) -> Path:
        """The weights of an arm's winner, from the first seed of a round of confirm runs."""
        return self.path / "weights" / f"{arm}-round{round_number}.safetensors"

    def record(self) -> Record:
        """What the journal says.

        Raises:
            IntegrityError: the journal is damaged, or ended before it said what runs.
        """
        record = load_record(self.journal)
        if not record.job:
            raise IntegrityError(f"{self.journal}: says nothing of its job; it ended before anything began")
        return record


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
        """Decoded data."""
        return self.path / "cache"

    @property
    def storage_url(self) -> str:
        """The default database of the studies."""
        return f"sqlite:///{self.path / 'studies.db'}"

    @property
    def tracking_uri(self) -> str:
        """The default MLflow store."""
        return f"sqlite:///{self.path / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """Artifacts of the default MLflow store."""
        return self.path / "artifacts"

    def new_job(self, name: str) -> JobFolder:
        """Make the folder of a new job; its id is the spec's name and six random digits."""
        while True:
            folder = self.path / "jobs" / f"{name}-{secrets.token_hex(3)}"
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise ServiceError(f"cannot write to {self.path}: {error.strerror}") from error
            return JobFolder(folder)

    def jobs(self) -> Iterator[JobFolder]:
        """All jobs that have begun, oldest first; one whose beginning is damaged is as if it were older than all."""
        begun = []
        for journal in self.path.glob("jobs/*/journal.jsonl"):
            try:
                first = next(read(journal), None)
            except IntegrityError:
                first = {"ms": 0}
            if first is not None:
                begun.append((first["ms"], journal.parent))
        return (JobFolder(path) for _, path in sorted(begun))

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
