"""Jobs on a Ray cluster: submit, find, read, follow, stop. Ray's Jobs API behind plain types.

A submission is one run of a command on the cluster's head. A job may have several: its id, then ``id.2``, ``id.3`` …
"""

import logging
import re
import secrets
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import requests

from cluster.dashboard_api import ANSWER_S, CONNECT_S, Dashboard
from cluster.errors import ClusterError, NoSuchJob, Unreachable, first_line
from cluster.nodes import Node, read_nodes

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

JOB = "tuner.job"
"""Metadata: the job that a submission belongs to."""
PATIENCE_S = 60.0
"""A cluster that does not answer for so long is given up."""
POLL_S = 0.5
LOG_BYTES_PER_S = 2e6
"""So much at most, on average: a log that is followed is always read from its beginning."""
FIRST_POLL_S = 0.05
STOP_S = 30.0
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
"""Ray would take any text, and make a path of it."""
_PREFACE = re.compile(r"[-\d]+ [:,.\d]+\s+[A-Z]+ job_manager\.py:\d+ -- ")
T = TypeVar("T")


class Status(StrEnum):
    """Where a submission stands."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more, or will."""
        return self not in (Status.PENDING, Status.RUNNING)


@dataclass(frozen=True)
class Submission:
    """One run of a command on the cluster.

    Args:
        id: its own.
        entrypoint: the command.
        metadata: what was submitted with it.
        status: where it stands.
        message: Ray's words on that, one line.
        exit_code: the command's, once it has ended by itself.
        start_ms: when it was submitted, in ms since the epoch.
        end_ms: when it ended.
    """

    id: str
    entrypoint: str
    metadata: Mapping[str, str]
    status: Status
    message: str
    exit_code: int | None
    start_ms: int | None
    end_ms: int | None


@dataclass(frozen=True)
class Ran:
    """A command that was run on the cluster: its exit code, and what it wrote to stdout and to stderr."""

    code: int
    out: str
    err: str


class JobsApi:
    """The jobs of one cluster; ``connect`` makes one."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard

    @classmethod
    def connect(cls, address: str | None = None) -> "JobsApi":
        """The jobs of the cluster at an address, else at ``RAY_API_SERVER_ADDRESS``, else at ``RAY_ADDRESS``.

        Raises:
            ClusterError: nothing answers there, what does is no Ray dashboard, or it does not take our token.
        """
        return cls(Dashboard.connect(address))

    @property
    def address(self) -> str:
        """URL of the cluster's dashboard."""
        return self._dashboard.address

    @property
    def ray_version(self) -> str:
        """The cluster's."""
        return self._dashboard.ray_version

    def submit(
        self, job_id: str, entrypoint: str, working_dir: Path | None = None, metadata: Mapping[str, str] | None = None
    ) -> bool:
        """Submit a command, unless this id was submitted before.

        Args:
            job_id: the submission's id.
            entrypoint: a shell command; all users of the cluster can read it.
            working_dir: a folder to run it in; it is uploaded, without what its ``.gitignore`` names.
            metadata: as ``entrypoint``, for all to read.

        Returns:
            Whether it was submitted by this call: of any number at once, one is.

        Raises:
            ClusterError: the cluster does not take it, or it cannot be told whether it did.
        """
        from ray.exceptions import AuthenticationError

        if not _ID.fullmatch(job_id):
            raise ClusterError(f"{job_id!r} is no job id: letters, digits, dots, dashes and underscores are allowed")
        runtime_env = {} if working_dir is None else {"working_dir": str(working_dir)}
        try:
            self._client().submit_job(
                submission_id=job_id, entrypoint=entrypoint, runtime_env=runtime_env, metadata=dict(metadata or {})
            )
        except AuthenticationError as error:
            raise self._dashboard.refused(401) from error
        except (requests.RequestException, ConnectionError) as error:
            raise self._dashboard.lost(error) from error
        except RuntimeError as error:
            if f"submission_id {job_id} already exists" in str(error):
                return False
            raise ClusterError(
                f"the Ray cluster at {self.address} does not take {job_id}: {self._dashboard.why(str(error))}"
            ) from error
        except (OSError, ValueError) as error:
            raise ClusterError(f"cannot submit {job_id}: {first_line(error)}") from error
        return True

    def find(self, job_id: str) -> Submission | None:
        """A submission; None if the cluster knows none of this id."""
        found = self._dashboard.get(f"/api/jobs/{job_id}")
        return None if found is None else _submission(found)

    def submissions(self) -> list[Submission]:
        """All submissions that belong to jobs of ours, oldest first."""
        found = self._dashboard.get("/api/jobs/") or []
        ours = [_submission(one) for one in found if one.get("submission_id") and JOB in (one.get("metadata") or {})]
        return sorted(ours, key=lambda submission: submission.start_ms or 0)

    def logs(self, job_id: str) -> str:
        """All that a submission has written so far.

        Raises:
            NoSuchJob: the cluster does not know it.
        """
        text = self._whole_log(job_id)
        return _own_words(job_id, text) or text

    def follow(self, job_id: str) -> Iterator[str]:
        """The lines that a submission writes, as it writes them, until it has ended.

        Short losses of the connection are sat out.

        Raises:
            NoSuchJob: the cluster does not know it, or no longer: its head was started anew.
            Unreachable: the cluster does not answer any more; the submission may well go on.
        """
        read = 0
        while True:
            submission = self._patiently(lambda: self._known(job_id))
            text = self._patiently(lambda: self._whole_log(job_id))
            text = _own_words(job_id, text) or (text if submission.status.ended else "")
            end = len(text) if submission.status.ended else text.rfind("\n") + 1
            yield from text[read:end].splitlines()
            read = max(read, end)
            if submission.status.ended:
                return
            time.sleep(max(POLL_S, len(text) / LOG_BYTES_PER_S))

    def wait(self, job_id: str, timeout_s: float | None = None) -> Submission:
        """A submission once it has ended, or as it is when the time is up.

        Raises:
            NoSuchJob: the cluster does not know it, or no longer.
            Unreachable: the cluster does not answer any more; the submission may well go on.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s = FIRST_POLL_S
        while True:
            submission = self._patiently(lambda: self._known(job_id))
            left_s = POLL_S if deadline is None else deadline - time.monotonic()
            if submission.status.ended or left_s <= 0:
                return submission
            time.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 1.2, POLL_S)

    def stop(self, job_id: str) -> bool:
        """Ask a submission to stop: SIGTERM to all its processes, and after the cluster's patience, SIGKILL.

        Returns:
            Whether it was running; ``wait`` tells when it has ended.

        Raises:
            NoSuchJob: the cluster does not know it.
        """
        found = self._dashboard.ask("POST", f"/api/jobs/{job_id}/stop")
        if found is None:
            raise self._unknown(job_id)
        return bool(found["stopped"])

    def delete(self, job_id: str) -> None:
        """Make the cluster forget a submission that has ended.

        Raises:
            NoSuchJob: the cluster does not know it.
            ClusterError: it has not ended.
        """
        if self._dashboard.ask("DELETE", f"/api/jobs/{job_id}") is None:
            raise self._unknown(job_id)

    def run(self, entrypoint: str, working_dir: Path | None = None, timeout_s: float = 60.0) -> Ran:
        """Run a short command on the cluster's head, and bring back what it wrote.

        Raises:
            ClusterError: it could not be started, or did not end in time; it is stopped then.
        """
        command_id, mark = f"tuner-{secrets.token_hex(8)}", f"--- {secrets.token_hex(16)}"
        self.submit(command_id, _two_streams(entrypoint, mark), working_dir)
        try:
            ended = self.wait(command_id, timeout_s)
            if not ended.status.ended:
                raise ClusterError(f"the command did not end on {self.address} within {timeout_s:g} s: {entrypoint}")
            out, found, err = self.logs(command_id).partition(f"{mark}\n")
            if ended.exit_code is None or not found:
                raise ClusterError(f"the command could not be run on {self.address}: {ended.message}")
            return Ran(ended.exit_code, out, err)
        finally:
            self._forget(command_id)

    def nodes(self) -> tuple[Node, ...]:
        """The cluster's nodes, the head first; nodes that are gone are among them for a while."""
        return read_nodes(self._dashboard)

    def auth_is_on(self) -> bool:
        """Whether the cluster refuses those who have no token; asks it without one."""
        return not self._dashboard.is_open()

    def _client(self) -> "JobSubmissionClient":
        from ray.job_submission import JobSubmissionClient

        for talks in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(talks).setLevel(logging.ERROR)
        logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.ERROR)
        auth = self._dashboard.auth

        class Client(JobSubmissionClient):
            """Ray's own has no time limits, and a ``.netrc`` would win over its token."""

            def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
                return super()._do_request(method, endpoint, auth=auth, timeout=(CONNECT_S, ANSWER_S), **options)

        # With a header of ours it does not look for a token by itself, and fail where there is none.
        return Client(self.address, headers={"Authorization": ""})

    def _whole_log(self, job_id: str) -> str:
        found = self._dashboard.get(f"/api/jobs/{job_id}/logs")
        if found is None:
            raise self._unknown(job_id)
        return str(found["logs"])

    def _known(self, job_id: str) -> Submission:
        found = self.find(job_id)
        if found is None:
            raise self._unknown(job_id)
        return found

    def _unknown(self, job_id: str) -> NoSuchJob:
        return NoSuchJob(f"the Ray cluster at {self.address} knows no submission {job_id}; was its head started anew?")

    def _patiently(self, ask: Callable[[], T]) -> T:
        """What ``ask`` gives, if need be after the cluster was away for a while."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return ask()
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
            time.sleep(POLL_S)

    def _forget(self, command_id: str) -> None:
        with suppress(ClusterError):
            if self.stop(command_id):
                self.wait(command_id, STOP_S)
            self.delete(command_id)


def _two_streams(entrypoint: str, mark: str) -> str:
    """A shell command that writes what another wrote to stderr after all else, behind a mark: Ray keeps one log."""
    inner = shlex.quote(entrypoint)
    return f'e=$(mktemp) && {{ sh -c {inner} 2>"$e"; c=$?; echo "{mark}"; cat "$e"; rm "$e"; exit $c; }}'


def _own_words(job_id: str, text: str) -> str:
    """A log without Ray's preface: nothing, where the command was not started.

    Ray may write the end of its preface after the command's first lines.
    """
    before, started, after = text.partition(f"Running entrypoint for job {job_id}: ")
    if not started:
        return ""
    early = [line for line in before.splitlines(keepends=True) if not _PREFACE.match(line)]
    return "".join(early) + after.partition("\n")[2]


def _submission(found: Mapping[str, Any]) -> Submission:
    return Submission(
        id=str(found["submission_id"]),
        entrypoint=str(found["entrypoint"]),
        metadata=dict(found["metadata"] or {}),
        status=Status(str(found["status"]).lower()),
        message=first_line(found["message"] or ""),
        exit_code=found.get("driver_exit_code"),
        start_ms=found["start_time"],
        end_ms=found["end_time"],
    )
