"""Jobs on a Ray cluster: submit, find, read, follow and stop them. Plain types hide Ray's Jobs API.

A submission is one run of a command on the head of the cluster. A job may have several submissions. The first has the
id of the job, the later ones are ``id.2``, ``id.3`` …
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
"""Key in the metadata of a submission; its value is the id of the job."""
PATIENCE_S = 60.0
"""How long to retry while the cluster does not answer."""
POLL_S = 0.5
LOG_BYTES_PER_S = 2e6
"""Upper limit of the average download rate in ``follow``, which reads the whole log at every poll."""
FIRST_POLL_S = 0.05
STOP_S = 30.0
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
"""Ray accepts any text as an id and uses it in a path."""
_PREFACE = re.compile(r"[-\d]+ [:,.\d]+\s+[A-Z]+ job_manager\.py:\d+ -- ")
T = TypeVar("T")


class Status(StrEnum):
    """The state of a submission."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether the submission has ended: no process of it runs, and none will start."""
        return self not in (Status.PENDING, Status.RUNNING)


@dataclass(frozen=True)
class Submission:
    """One run of a command on the cluster.

    Args:
        id: id of the submission.
        entrypoint: the command.
        metadata: the metadata that were submitted with it.
        status: its state.
        message: Ray's explanation of the state, one line.
        exit_code: exit code of the command; None unless the command ended by itself.
        start_ms: time of the submission, in ms since the epoch.
        end_ms: time of the end, in ms since the epoch.
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
    """The result of a command on the cluster: its exit code and its output on stdout and stderr."""

    code: int
    out: str
    err: str


class JobsApi:
    """The jobs of one cluster. Call ``connect`` to get one."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard

    @classmethod
    def connect(cls, address: str | None = None) -> "JobsApi":
        """The jobs of the cluster at ``address``, else at ``RAY_API_SERVER_ADDRESS``, else at ``RAY_ADDRESS``.

        Raises:
            ClusterError: no server answers, the server is not a Ray dashboard, or it rejects the token.
        """
        return cls(Dashboard.connect(address))

    @property
    def address(self) -> str:
        """URL of the dashboard."""
        return self._dashboard.address

    @property
    def ray_version(self) -> str:
        """Version of Ray on the cluster."""
        return self._dashboard.ray_version

    def submit(
        self, job_id: str, entrypoint: str, working_dir: Path | None = None, metadata: Mapping[str, str] | None = None
    ) -> bool:
        """Submit a command, unless the cluster already has a submission with this id.

        Args:
            job_id: id of the submission.
            entrypoint: a shell command; all users of the cluster can read it.
            working_dir: the command runs in a copy of this folder, without the files that its ``.gitignore`` excludes.
            metadata: more data, which all users of the cluster can read.

        Returns:
            Whether this call submitted it. If several calls submit the same id at once, one of them returns True.

        Raises:
            ClusterError: the cluster rejects the submission, or nobody knows whether it accepted it.
        """
        from ray.exceptions import AuthenticationError

        if not _ID.fullmatch(job_id):
            raise ClusterError(f"{job_id!r} is not a valid job id; use letters, digits, dots, dashes and underscores")
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
                f"the Ray cluster at {self.address} rejects {job_id}: {self._dashboard.why(str(error))}"
            ) from error
        except (OSError, ValueError) as error:
            raise ClusterError(f"cannot submit {job_id}: {first_line(error)}") from error
        return True

    def find(self, job_id: str) -> Submission | None:
        """The submission with this id; None if the cluster has none."""
        found = self._dashboard.get(f"/api/jobs/{job_id}")
        return None if found is None else _submission(found)

    def submissions(self) -> list[Submission]:
        """All submissions of our jobs, oldest first."""
        found = self._dashboard.get("/api/jobs/") or []
        ours = [_submission(one) for one in found if one.get("submission_id") and JOB in (one.get("metadata") or {})]
        return sorted(ours, key=lambda submission: submission.start_ms or 0)

    def logs(self, job_id: str) -> str:
        """All output of a submission so far.

        Raises:
            NoSuchJob: the cluster has no such submission.
        """
        text = self._whole_log(job_id)
        return _own_words(job_id, text) or text

    def follow(self, job_id: str) -> Iterator[str]:
        """The output lines of a submission, as soon as they are written, until it has ended.

        If the connection is lost, this retries for ``PATIENCE_S``.

        Raises:
            NoSuchJob: the cluster has no such submission. A restarted head has lost all submissions.
            Unreachable: the cluster stopped answering; the submission may still run.
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
        """Wait until a submission has ended or the time is up, and return its last state.

        Raises:
            NoSuchJob: the cluster has no such submission. A restarted head has lost all submissions.
            Unreachable: the cluster stopped answering; the submission may still run.
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
        """Ask a submission to stop: all its processes get SIGTERM, and SIGKILL after a grace period of the cluster.

        Returns:
            Whether it was running. This does not wait for its end; ``wait`` does.

        Raises:
            NoSuchJob: the cluster has no such submission.
        """
        found = self._dashboard.ask("POST", f"/api/jobs/{job_id}/stop")
        if found is None:
            raise self._unknown(job_id)
        return bool(found["stopped"])

    def delete(self, job_id: str) -> None:
        """Delete an ended submission from the cluster's list.

        Raises:
            NoSuchJob: the cluster has no such submission.
            ClusterError: it has not ended.
        """
        if self._dashboard.ask("DELETE", f"/api/jobs/{job_id}") is None:
            raise self._unknown(job_id)

    def run(self, entrypoint: str, working_dir: Path | None = None, timeout_s: float = 60.0) -> Ran:
        """Run a short command on the head of the cluster, and return its output.

        Raises:
            ClusterError: the command did not start, or it did not end in time and was stopped.
        """
        command_id, mark = f"tuner-{secrets.token_hex(8)}", f"--- {secrets.token_hex(16)}"
        self.submit(command_id, _two_streams(entrypoint, mark), working_dir)
        try:
            ended = self.wait(command_id, timeout_s)
            if not ended.status.ended:
                raise ClusterError(f"the command did not end on {self.address} within {timeout_s:g} s: {entrypoint}")
            out, found, err = self.logs(command_id).partition(f"{mark}\n")
            if ended.exit_code is None or not found:
                raise ClusterError(f"cannot run the command on {self.address}: {ended.message}")
            return Ran(ended.exit_code, out, err)
        finally:
            self._forget(command_id)

    def nodes(self) -> tuple[Node, ...]:
        """The nodes of the cluster, the head first. For a while, the list still holds nodes that have left."""
        return read_nodes(self._dashboard)

    def auth_is_on(self) -> bool:
        """Whether the cluster requires a token. This sends a request without one."""
        return not self._dashboard.is_open()

    def _client(self) -> "JobSubmissionClient":
        from ray.job_submission import JobSubmissionClient

        for talks in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(talks).setLevel(logging.ERROR)
        logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.ERROR)
        auth = self._dashboard.auth

        class Client(JobSubmissionClient):
            """Ray's client with time limits, and with a token that no ``.netrc`` replaces."""

            def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
                return super()._do_request(method, endpoint, auth=auth, timeout=(CONNECT_S, ANSWER_S), **options)

        # With this header, Ray does not search for a token itself and does not fail if there is none.
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
        return NoSuchJob(f"the Ray cluster at {self.address} has no submission {job_id}; was its head restarted?")

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Return ``ask()``. Retry for ``PATIENCE_S`` while the cluster is unreachable."""
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
    """A shell command that runs ``entrypoint`` and then prints a mark and the stderr of ``entrypoint``.

    Ray keeps stdout and stderr in one log. The mark separates them.
    """
    inner = shlex.quote(entrypoint)
    return f'e=$(mktemp) && {{ sh -c {inner} 2>"$e"; c=$?; echo "{mark}"; cat "$e"; rm "$e"; exit $c; }}'


def _own_words(job_id: str, text: str) -> str:
    """A log without Ray's preface; empty if the command did not start.

    Ray may write the end of its preface after the first lines of the command.
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
