"""The client of a Ray cluster that runs jobs. Its methods do what the commands of the same names do.

A job runs on the cluster's head, next to its stores. A command that reads or changes jobs also runs on the head, and
the client receives its output. This machine needs only the cluster's address and token.
"""

import base64
import gzip
import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cluster.errors import ClusterError
from cluster.jobs import JOB, JobsApi, Ran, Submission
from cluster.nodes import Node
from tuner.errors import IntegrityError, NotFound, ServiceError, SpecError, error_of
from tuner.jobs.request import refuse_finished, refuse_unended
from tuner.remote.submission import PackedJob
from tuner.spec.messages import InvalidValue
from tuner.spec.search_spec import SearchSpec
from tuner.storage.atomic_files import check_new, write_new

PROGRAM = "python -m tuner.cli"
WORK = f"{PROGRAM} work"
ANSWER_S = 120.0
STOP_ANSWER_S = 180.0
TIMED_OUT = 124
"""Exit code of a wait that timed out. The shell command ``timeout`` uses the same code."""


class Submitted(NamedTuple):
    """A submitted job.

    Attributes:
        job: its id.
        new: False if the cluster already had this job.
    """

    job: str
    new: bool


class Service:
    """The jobs of one cluster.

    Args:
        address: URL of the cluster's dashboard; by default ``RAY_API_SERVER_ADDRESS``, else ``RAY_ADDRESS``.

    Raises:
        ClusterError: the cluster is unreachable or refuses the token. Every method raises it too.
    """

    def __init__(self, address: str | None = None) -> None:
        self.api = JobsApi.connect(address)

    def send(self, packed: PackedJob, queue: bool = False) -> Submitted:
        """Submit a job that was packed. The same job is started once, however often it is submitted.

        Args:
            packed: the job.
            queue: accept a job that no node can run yet, because more nodes will join.

        Raises:
            SpecError: no node has the resources of a trial.
        """
        if not queue:
            check_fits(packed.spec, self.api.nodes())
        with tempfile.TemporaryDirectory(prefix="tuner-") as folder:
            for name, content in packed.files.items():
                file = Path(folder, name)
                # Ray keeps the mode of a file: on the nodes, no other user may read it.
                file.touch(0o600)
                file.write_bytes(content)
            return Submitted(packed.job, self.api.submit(packed.job, WORK, Path(folder), {JOB: packed.job}))

    def resume(self, job: str, data_path: str | None = None, seeds: int | None = None) -> str:
        """Resume a job.

        Args:
            job: its id, or the beginning of it.
            data_path: folder of the data set on the nodes now.
            seeds: start a new round of confirm runs on this number of fresh seeds.

        Returns:
            The job's whole id.

        Raises:
            NotFound: there is no such job.
            SpecError: the job runs, or is finished.
        """
        status = self._idle(job)
        if seeds is None and not status.get("lacks"):
            refuse_finished(status["job"], status["state"])
        return self._drive_again(status["job"], data_path, [] if seeds is None else ["--seeds", str(seeds)])

    def extend(self, job: str, hours: float | None = None, data_path: str | None = None) -> str:
        """Search further in a job about methods that ended before its last look.

        Args:
            job: its id, or the beginning of it.
            hours: begin no search that would end after this many hours; None: no such cap.
            data_path: folder of the data set on the nodes now.

        Returns:
            The job's whole id. If every arm is settled, the job's log says so.

        Raises:
            NotFound: there is no such job.
            SpecError: the job has not ended.
        """
        status = self._idle(job)
        refuse_unended(status["job"], status["state"])
        limit = [] if hours is None else ["--hours", str(hours)]
        return self._drive_again(status["job"], data_path, ["--extend", *limit])

    def _idle(self, job: str) -> dict[str, Any]:
        """The status of a job that nobody runs."""
        status = self.status(job)
        if status["holder"]:
            raise SpecError(f"job {status['job']} is held by {status['holder']}")
        return status

    def _drive_again(self, job: str, data_path: str | None, more: Sequence[str]) -> str:
        options = [] if data_path is None else ["--data", data_path]
        submit_again(self.api, job, [*options, *more])
        return job

    def list_jobs(self) -> list[dict[str, Any]]:
        """All jobs, as ``tuner list -o json`` prints them."""
        rows: list[dict[str, Any]] = self._json("list")
        return rows

    def status(self, job: str = "latest") -> dict[str, Any]:
        """A job's status, as ``tuner status -o json`` prints it."""
        status: dict[str, Any] = self._json("status", job)
        return status

    def leaderboard(self, job: str = "latest") -> dict[str, Any]:
        """A job's verdicts, as ``tuner leaderboard -o json`` prints them."""
        board: dict[str, Any] = self._json("leaderboard", job)
        return board

    def report(self, job: str = "latest", form: str = "md") -> str:
        """A job's report as text, in the format ``md`` or ``json``."""
        return self._checked(self.ask(["report", job, "-o", form])).out

    def write_report(self, job: str = "latest", file: Path | None = None, force: bool = False) -> Path:
        """Write a job's report to a file on this machine, in the format of the file's suffix.

        Args:
            job: its id, or the beginning of it.
            file: the file to write. Without it, JOB.html in the current folder is written or overwritten.
            force: overwrite an existing file.

        Returns:
            The file.

        Raises:
            NotFound: there is no such job.
            SpecError: the file exists, or its suffix is unknown.
        """
        if file is None:
            return self.fetch(["report", job], Path(), force=True)[0]
        check_new(file, force)
        return self.fetch(["report", job, "-o", file.name], file.parent, force)[0]

    def export(self, words: Sequence[str], file: Path, force: bool = False) -> list[Path]:
        """Write winning settings to files on this machine.

        Args:
            words: the job, and ``--best``, ``--arm ARM`` or ``--all``.
            file: the file to write; with ``--all`` a folder.
            force: overwrite existing files.

        Returns:
            The files.

        Raises:
            NotFound: there is no such job or arm, or nothing to export yet.
            SpecError: the file exists, or its suffix is unknown.
        """
        check_new(file, force)
        return self.fetch(["export", *words, "-o", file.name], file.parent, force)

    def logs(self, job: str, follow: bool = False) -> Iterator[str]:
        """The output lines of the job's last driver. With ``follow``, new lines are added until the driver ends."""
        last = self._last(job)
        if follow:
            yield from self.api.follow(last.id)
        else:
            yield from self.api.logs(last.id).splitlines()

    def wait(self, job: str, timeout_s: float | None = None) -> int:
        """Wait until a job's driver ends.

        Args:
            job: its id, or the beginning of it.
            timeout_s: longest time to wait, in seconds; None waits without limit.

        Returns:
            The driver's exit code, or ``TIMED_OUT``.

        Raises:
            ServiceError: the driver did not end by itself.
        """
        submission = self.api.wait(self._last(job).id, timeout_s)
        if not submission.status.ended:
            return TIMED_OUT
        if submission.exit_code is None:
            reason = submission.message
            raise ServiceError(f"job {job} did not end by itself: {reason}; resume it with: tuner resume {job}")
        return submission.exit_code

    def stop(self, job: str, force: bool = False) -> str:
        """Stop a job. Its progress is kept.

        Args:
            job: its id, or the beginning of it.
            force: end its processes if it does not stop in time.

        Returns:
            A message for the user.
        """
        answer = self.ask(["stop", job], STOP_ANSWER_S)
        if answer.code != ServiceError.exit_code or not force:
            return self._checked(answer).err
        last = self._last(job)
        self.api.stop(last.id)
        self.api.wait(last.id, ANSWER_S)
        return f"{last.metadata[JOB]}: ended by force; resume it with: tuner resume {last.metadata[JOB]}\n"

    def ask(self, words: Sequence[str], timeout_s: float = ANSWER_S) -> Ran:
        """Run ``tuner`` with these arguments on the cluster's head."""
        width = f"COLUMNS={_width()}"
        return self.api.run(f"{width} {PROGRAM} {shlex.join(words)}", timeout_s=timeout_s)

    def delete(self, job: str) -> str:
        """Delete a job that is not running, on the cluster and in its stores.

        Args:
            job: its whole id.

        Returns:
            A message for the user.
        """
        return self._checked(self.ask(["delete", job])).err

    def fetch(self, words: Sequence[str], folder: Path, force: bool = False) -> list[Path]:
        """Run a command of ``tuner`` on the head, and write the files that it writes into a folder on this machine.

        Raises:
            SpecError: a file exists, and ``force`` is off.
        """
        answer = self._checked(self.ask(["forwarded", *words]))
        written = []
        for name, content in json.loads(answer.out).items():
            target = folder / name
            if not target.resolve().is_relative_to(folder.resolve()):
                raise IntegrityError(f"the cluster sent a file whose name leads outside the folder: {name!r}")
            target.parent.mkdir(parents=True, exist_ok=True)
            write_new(target, gzip.decompress(base64.b64decode(content)), force)
            written.append(target)
        return written

    def _json(self, *words: str) -> Any:
        answer = self._checked(self.ask([*words, "-o", "json"]))
        try:
            return json.loads(answer.out)
        except ValueError as error:
            address = self.api.address
            raise ClusterError(f"the cluster at {address} did not answer tuner {words[0]} with JSON") from error

    def _checked(self, answer: Ran) -> Ran:
        if answer.code:
            lines = answer.err.strip().splitlines()
            message = lines[-1].removeprefix("error: ") if lines else f"tuner on the head exited with {answer.code}"
            raise error_of(answer.code)(message)
        return answer

    def _last(self, job: str) -> Submission:
        matches = [one for one in self.api.submissions() if one.metadata[JOB].startswith(job) or job == "latest"]
        jobs = {one.metadata[JOB] for one in matches}
        exact = [one for one in matches if one.metadata[JOB] == job]
        if not matches or (len(jobs) > 1 and not exact and job != "latest"):
            many = f"; several ids begin like this: {', '.join(sorted(jobs))}" if jobs else ""
            raise NotFound(f"the cluster at {self.api.address} runs no job {job!r}{many}; see: tuner list")
        return (exact or matches)[-1]


def submit_again(api: JobsApi, job: str, options: Sequence[str] = ()) -> str:
    """Start another driver for a job whose record is on the cluster. Returns the id of the submission."""
    number = 2
    while not api.submit(f"{job}.{number}", shlex.join([*WORK.split(), "--job", job, *options]), None, {JOB: job}):
        number += 1
    return f"{job}.{number}"


def check_fits(spec: SearchSpec, nodes: Sequence[Node]) -> None:
    """Refuse a job whose trials need more than any node has. Otherwise the job would wait forever.

    Raises:
        SpecError: no node fits a trial. The message names the resources of a trial and of the nodes.
    """
    workers = [node for node in nodes if node.alive and (node.cpus or node.gpus)]
    cpus, gpus = spec.resources.cpus, spec.resources.gpus
    if any(node.cpus >= cpus and node.gpus >= gpus for node in workers):
        return
    needed = f"a trial needs {cpus} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
    available = ", ".join(sorted({f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in workers}))
    raise spec.origin.error(
        InvalidValue(
            f"{needed}, but {f'the nodes have only: {available}' if available else 'no worker has joined the cluster'};"
            " if a suitable node will join, submit the job with --queue",
            "resources",
        )
    )


def _width() -> int:
    return shutil.get_terminal_size((200, 24)).columns
