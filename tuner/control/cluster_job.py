"""A job on a cluster with the interface of ``Job``, and the cluster's jobs."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from tuner.control.driven import say, user_errors
from tuner.control.job import Job
from tuner.driver.code_check import try_imports
from tuner.errors import TunerError
from tuner.remote.client import Service as Client
from tuner.remote.client import Submitted
from tuner.remote.submission import pack_job
from tuner.spec.search_spec import SearchSpec, from_dict

ROWS = "rows.json"
"""File that the hidden command ``rows`` writes on the head."""


class ClusterJob(Job):
    """A job on a Ray cluster. The cluster's head reads and changes it; files are written on this machine.

    It differs from a job here in one thing: ``resume``, ``extend`` and ``confirm`` return at once, while the job runs
    on the cluster, and ``wait`` waits for its end.
    """

    def __init__(self, client: Client, job: str) -> None:
        self._client = client
        self._id = job

    @property
    def id(self) -> str:
        return self._id

    @property
    def state(self) -> str:
        with user_errors():
            return str(self._client.status(self._id)["state"])

    @property
    def spec(self) -> SearchSpec:
        return from_dict(self._file()["spec"])

    @property
    def leaderboard(self) -> dict[str, Any]:
        with user_errors():
            return self._client.leaderboard(self._id)

    def report(self, file: str | Path | None = None, force: bool = False) -> Path:
        with user_errors():
            return self._client.write_report(self._id, None if file is None else Path(file), force)

    def export(self, file: str | Path, arm: str | None = None, force: bool = False) -> Path:
        choice = ["--best"] if arm is None else ["--arm", arm]
        with user_errors():
            return self._client.export([self._id, *choice], Path(file), force)[0]

    def extend(self, hours: float | None = None, quiet: bool = False) -> "ClusterJob":
        with user_errors():
            self._client.extend(self._id, hours)
        return self

    def confirm(self, seeds: int, quiet: bool = False) -> "ClusterJob":
        with user_errors():
            self._client.resume(self._id, seeds=seeds)
        return self

    def resume(self, quiet: bool = False) -> "ClusterJob":
        with user_errors():
            self._client.resume(self._id)
        return self

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until the job's driver ends, and return its exit code: 0 if the job has finished.

        Args:
            timeout_s: longest time to wait, in seconds; None waits without limit. After it the code is 124.
        """
        with user_errors():
            return self._client.wait(self._id, timeout_s)

    def logs(self) -> Iterator[str]:
        """The output lines of the job's last driver."""
        with user_errors():
            yield from self._client.logs(self._id)

    def stop(self) -> None:
        with user_errors():
            self._client.stop(self._id)

    def delete(self) -> None:
        with user_errors():
            self._client.delete(self._id)

    def _rows(self, kind: str) -> Sequence[Mapping[str, Any]]:
        rows: Sequence[Mapping[str, Any]] = self._file()[kind]
        return rows

    def _file(self) -> dict[str, Any]:
        with user_errors(), tempfile.TemporaryDirectory(prefix="tuner-") as folder:
            (file,) = self._client.fetch(["rows", self._id, "-o", ROWS], Path(folder))
            values: dict[str, Any] = json.loads(file.read_bytes())
            return values

    def __repr__(self) -> str:
        return f"job {self._id} on {self._client.api.address}"

    def _repr_html_(self) -> str:
        """The leaderboard as a table, which notebooks show."""
        try:
            with user_errors():
                return f"<pre>{escape(self._client.ask(['leaderboard', self._id]).out)}</pre>"
        except TunerError as error:
            return f"{escape(repr(self))}: {escape(str(error))}"


class Service(Client):
    """The jobs of one cluster.

    Args:
        address: URL of the cluster's dashboard; by default ``RAY_API_SERVER_ADDRESS``, else ``RAY_ADDRESS``.

    Raises:
        ServiceError: the cluster is unreachable or refuses the token.
    """

    def __init__(self, address: str | None = None) -> None:
        with user_errors():
            super().__init__(address)

    def submit(self, spec: Path | str, data_path: str | None = None, queue: bool = False) -> Submitted:
        """Submit a spec. The same spec, code and name are always the same job: submitting it twice starts it once.

        Args:
            spec: the spec file.
            data_path: folder of the data set on the nodes, instead of the spec's ``data.path``.
            queue: accept a job that no node can run yet, because more nodes will join.

        Raises:
            SpecError: the spec is invalid, or no node has the resources of a trial.
            NotFound: there is no such file.
        """
        with user_errors():
            return self.send(pack_job(Path(spec), data_path, partial(try_imports, announce=say(quiet=False))), queue)

    def jobs(self) -> list[ClusterJob]:
        """All jobs of the cluster, oldest first."""
        with user_errors():
            return [ClusterJob(self, row["job"]) for row in self.list_jobs()]

    def job(self, job: str = "latest") -> ClusterJob:
        """A job by its id, by the beginning of it, or ``latest``.

        Raises:
            NotFound: there is no such job, or several fit.
        """
        with user_errors():
            return ClusterJob(self, str(self.status(job)["job"]))
