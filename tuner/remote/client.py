"""A client of the service on a Ray cluster, for scripts and for the command line: the same verbs.

A job runs on the cluster's head, beside its stores. Whatever reads or changes jobs is asked of the head as well: the
command line is run there, and what it prints comes back. Nothing but the cluster's address and token is needed here.
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
from tuner.jobs.request import refuse_finished
from tuner.remote.submission import pack_job
from tuner.spec.messages import InvalidValue
from tuner.spec.search_spec import SearchSpec
from tuner.storage.atomic_files import check_new, write_new

PROGRAM = "python -m tuner.cli"
WORK = f"{PROGRAM} work"
ANSWER_S = 120.0
STOP_ANSWER_S = 180.0
TIMED_OUT = 124
"""Exit code of a wait that was given up, as of ``timeout``."""


class Submitted(NamedTuple):
    """A job's id, and whether this call brought it to the cluster: it may have been there."""

    job: str
    new: bool


class Service:
    """The jobs of one cluster.

    Args:
        address: of its dashboard; else ``RAY_API_SERVER_ADDRESS``, else ``RAY_ADDRESS``.

    Raises:
        ClusterError: as every method does: it cannot be reached, or refuses us.
    """

    def __init__(self, address: str | None = None) -> None:
        self.api = JobsApi.connect(address)

    def submit(self, spec: Path | str, data_path: str | None = None, queue: bool = False) -> Submitted:
        """Have a spec searched; the same spec, code and name are the same job, however often it is submitted.

        Args:
            spec: the file.
            data_path: where the data lies on the nodes, instead of what the spec says.
            queue: take a job that no node can run yet, because more will join.

        Raises:
            SpecError: what is wrong with the spec, or no node has what a trial asks for.
            NotFound: there is no such file.
        """
        leaving = pack_job(Path(spec), data_path)
        if not queue:
            check_fits(leaving.spec, self.api.nodes())
        with tempfile.TemporaryDirectory(prefix="tuner-") as made:
            for name, content in leaving.files.items():
                Path(made, name).write_bytes(content)
            return Submitted(leaving.job, self.api.submit(leaving.job, WORK, Path(made), {JOB: leaving.job}))

    def resume(self, job: str, data_path: str | None = None, seeds: int | None = None) -> str:
        """Have a job go on where it stands; returns its whole id.

        Args:
            job: its id, or the beginning of it.
            data_path: where the data lies on the nodes now.
            seeds: begin a new round of confirm runs, on so many fresh seeds.

        Raises:
            NotFound: there is no such job.
            SpecError: it runs, or is finished.
        """
        found = self.status(job)
        if found["holder"]:
            raise SpecError(f"job {found['job']} is held by {found['holder']}")
        if seeds is None:
            refuse_finished(found["job"], found["state"])
        options = [] if data_path is None else ["--data", data_path]
        options += [] if seeds is None else ["--seeds", str(seeds)]
        submit_again(self.api, found["job"], options)
        return str(found["job"])

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, as ``tuner list -o json``."""
        rows: list[dict[str, Any]] = self._json("list")
        return rows

    def status(self, job: str = "latest") -> dict[str, Any]:
        """How a job stands, as ``tuner status -o json``."""
        found: dict[str, Any] = self._json("status", job)
        return found

    def leaderboard(self, job: str = "latest") -> dict[str, Any]:
        """A job's verdicts, as ``tuner leaderboard -o json``."""
        board: dict[str, Any] = self._json("leaderboard", job)
        return board

    def report(self, job: str = "latest", form: str = "md") -> str:
        """A job's report as text: ``md`` or ``json``."""
        return self._checked(self.ask(["report", job, "-o", form])).out

    def write_report(self, job: str = "latest", file: Path | None = None, force: bool = False) -> Path:
        """Bring a job's report here, with pictures or in the form of the file's suffix.

        Args:
            job: its id, or the beginning of it.
            file: where to; without one, JOB.html in the current folder, which may be there already.
            force: overwrite.

        Raises:
            NotFound: no such job.
            SpecError: the file is there, or the suffix is not known.
        """
        if file is None:
            return self._fetch(["report", job], Path(), force=True)[0]
        check_new(file, force)
        return self._fetch(["report", job, "-o", file.name], file.parent, force)[0]

    def export(self, words: Sequence[str], file: Path, force: bool = False) -> list[Path]:
        """Bring winning settings here.

        Args:
            words: the job, and ``--best``, ``--arm ARM`` or ``--all``.
            file: where to; a folder with ``--all``.
            force: overwrite.

        Raises:
            NotFound: no such job or arm, or nothing to export yet.
            SpecError: the file is there, or the suffix is not known.
        """
        check_new(file, force)
        return self._fetch(["export", *words, "-o", file.name], file.parent, force)

    def logs(self, job: str, follow: bool = False) -> Iterator[str]:
        """Lines that the job's last driver printed; with ``follow`` as they come, until it ends."""
        last = self._last(job)
        if follow:
            yield from self.api.follow(last.id)
        else:
            yield from self.api.logs(last.id).splitlines()

    def wait(self, job: str, timeout_s: float | None = None) -> int:
        """The exit code that a job's driver ended with, once it has; ``TIMED_OUT`` if it has not by then."""
        ended = self.api.wait(self._last(job).id, timeout_s)
        if not ended.status.ended:
            return TIMED_OUT
        if ended.exit_code is None:
            raise ServiceError(f"job {job} did not end by itself: {ended.message}; go on with: tuner resume {job}")
        return ended.exit_code

    def stop(self, job: str, force: bool = False) -> str:
        """Stop a job; what was done is kept. Returns what is to be said of it.

        Args:
            job: its id, or the beginning of it.
            force: end its processes if it does not stop in time.
        """
        answer = self.ask(["stop", job], STOP_ANSWER_S)
        if answer.code != ServiceError.exit_code or not force:
            return self._checked(answer).err
        last = self._last(job)
        self.api.stop(last.id)
        self.api.wait(last.id, ANSWER_S)
        return f"{last.metadata[JOB]}: ended by force; go on with: tuner resume {last.metadata[JOB]}\n"

    def ask(self, words: Sequence[str], timeout_s: float = ANSWER_S) -> Ran:
        """Run ``tuner`` with these words on the cluster's head."""
        width = f"COLUMNS={_width()}"
        return self.api.run(f"{width} {PROGRAM} {shlex.join(words)}", timeout_s=timeout_s)

    def _fetch(self, words: Sequence[str], folder: Path, force: bool) -> list[Path]:
        """Write into a folder here what a command wrote there."""
        answer = self._checked(self.ask(["forwarded", *words]))
        written = []
        for name, content in json.loads(answer.out).items():
            target = folder / name
            if not target.resolve().is_relative_to(folder.resolve()):
                raise IntegrityError(f"the cluster sent a file of the name {name!r}")
            target.parent.mkdir(parents=True, exist_ok=True)
            write_new(target, gzip.decompress(base64.b64decode(content)), force)
            written.append(target)
        return written

    def _json(self, *words: str) -> Any:
        answer = self._checked(self.ask([*words, "-o", "json"]))
        try:
            return json.loads(answer.out)
        except ValueError as error:
            raise ClusterError(f"the cluster at {self.api.address} answers tuner {words[0]} with no JSON") from error

    def _checked(self, answer: Ran) -> Ran:
        if answer.code:
            lines = answer.err.strip().splitlines()
            said = lines[-1].removeprefix("error: ") if lines else f"tuner ended with {answer.code} there"
            raise error_of(answer.code)(said)
        return answer

    def _last(self, job: str) -> Submission:
        found = [one for one in self.api.submissions() if one.metadata[JOB].startswith(job) or job == "latest"]
        jobs = {one.metadata[JOB] for one in found}
        exact = [one for one in found if one.metadata[JOB] == job]
        if not found or (len(jobs) > 1 and not exact and job != "latest"):
            many = f"; several begin so: {', '.join(sorted(jobs))}" if jobs else ""
            raise NotFound(f"the cluster at {self.api.address} runs no job {job!r}{many}; see: tuner list")
        return (exact or found)[-1]


def submit_again(api: JobsApi, job: str, options: Sequence[str] = ()) -> str:
    """Start a driver for a job whose record is on the cluster; returns the submission's id."""
    number = 2
    while not api.submit(f"{job}.{number}", shlex.join([*WORK.split(), "--job", job, *options]), None, {JOB: job}):
        number += 1
    return f"{job}.{number}"


def check_fits(spec: SearchSpec, nodes: Sequence[Node]) -> None:
    """Refuse a trial that no node could ever run, instead of waiting for one.

    Raises:
        SpecError: what is asked for, and what there is.
    """
    workers = [node for node in nodes if node.alive and (node.cpus or node.gpus)]
    cpus, gpus = spec.resources.cpus, spec.resources.gpus
    if any(node.cpus >= cpus and node.gpus >= gpus for node in workers):
        return
    what = f"a trial asks for {cpus} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
    there = ", ".join(sorted({f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in workers}))
    raise spec.origin.error(
        InvalidValue(
            f"{what}, and {f'no node has more than: {there}' if there else 'no worker has joined the cluster'};"
            " --queue takes the job all the same, if such a node will join",
            "resources",
        )
    )


def _width() -> int:
    return shutil.get_terminal_size((200, 24)).columns
