"""``Job``: one job as Python sees it, on this machine or on a cluster."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.control import begin, deletion, results
from tuner.control.board import as_html, as_text, board_table
from tuner.control.driven import drive_to_its_end, say, user_errors
from tuner.control.rows import EPOCH, TRIAL, epoch_rows, trial_rows
from tuner.errors import NotFound, SpecError
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.request import spec_of
from tuner.jobs.workspace import Workspace
from tuner.spec.search_spec import SearchSpec
from tuner.verdict.ranking import job_results

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Verdict:
    """The verdict on one arm.

    Args:
        arm: name of the arm.
        baseline: name of the arm that it is compared with.
        outcome: ``beats``, ``ties``, ``loses``, or one of the words for "not known"; empty before the first verdict.
        gain: mean gain over the baseline; positive is better. In points for accuracies, else in the metric's own unit.
            None without results.
        low, high: ends of the confidence interval of the gain, or None.
        text: the verdict as the leaderboard words it.
    """

    arm: str
    baseline: str
    outcome: str
    gain: float | None
    low: float | None
    high: float | None
    text: str


class NoVerdict(NotFound, KeyError):
    """A job has no verdict on something of this name."""

    def __str__(self) -> str:
        # That of ``KeyError`` puts it in quotes.
        return str(self.args[0])


class Verdicts(dict[str, Verdict]):
    """Arm -> its verdict.

    Args:
        baseline: name of the job's baseline, which has none.
        verdicts: those of the other arms.
    """

    def __init__(self, baseline: str, verdicts: Mapping[str, Verdict]) -> None:
        super().__init__(verdicts)
        self._baseline = baseline

    def __missing__(self, arm: str) -> Verdict:
        what = f"{arm!r} is the baseline" if arm == self._baseline else f"there is no arm {arm!r}"
        raise NoVerdict(f"{what}; the arms with a verdict are: {', '.join(self)}")


class Job(ABC):
    """One job. Everything is read again at each use, so the values of a job that runs are up to date.

    Every method raises ``TunerError``: ``NotFound`` before the job has begun, ``ServiceError`` if a store or the
    cluster cannot be reached, ``IntegrityError`` if the journal is damaged.
    """

    @property
    @abstractmethod
    def id(self) -> str:
        """The job's id."""

    @property
    @abstractmethod
    def state(self) -> str:
        """``new``, ``running``, ``finished``, ``failed``, ``interrupted``, ``crashed`` or ``damaged``."""

    @property
    @abstractmethod
    def spec(self) -> SearchSpec:
        """The spec that the job was started with."""

    @property
    @abstractmethod
    def leaderboard(self) -> dict[str, Any]:
        """The leaderboard as plain values, as ``tuner leaderboard -o json`` prints it."""

    @property
    def verdict(self) -> "Verdicts":
        """Arm -> its verdict, for every arm but the baseline. Any other name raises ``NoVerdict``."""
        board = self.leaderboard
        rows = [row for row in board["rows"] if row["arm"] != board["baseline"]]
        return Verdicts(board["baseline"], {row["arm"]: _verdict(row) for row in rows})

    def trials(self) -> "DataFrame":
        """One row per trial, confirm runs among them: its place in the job, state, metrics and knobs.

        The metrics have the names of the reports (``val_acc``, or the user's own) and the values of the last epoch; a
        confirm run has the judging metric too. The columns ``knob.NAME`` hold the knobs that some arm searches. A
        metric with the name of another column has the prefix ``metric.``.
        """
        return _frame(self._rows("trials"), TRIAL, "trials()")

    def epochs(self) -> "DataFrame":
        """One row per epoch of every trial (for the user's own trainable: per report), with all its metrics."""
        return _frame(self._rows("epochs"), EPOCH, "epochs()")

    @abstractmethod
    def report(self, file: str | Path | None = None, force: bool = False) -> Path:
        """Write the report, finished or not, and return its path.

        Args:
            file: a file that ends in .html, .md or .json; by default JOB.html in the current folder.
            force: overwrite an existing file.
        """

    @abstractmethod
    def export(self, file: str | Path, arm: str | None = None, force: bool = False) -> Path:
        """Write the winner of an arm, and return the file's path.

        Args:
            file: .yaml, .json, .py, or .safetensors for the weights.
            arm: the arm; by default the best one that beats the baseline, or the baseline if none does.
            force: overwrite an existing file.
        """

    @abstractmethod
    def extend(self, hours: float | None = None, quiet: bool = False) -> "Job":
        """Search further in a job about methods that ended before its last look.

        Args:
            hours: begin no search that would end after this many hours; None: no such cap.
            quiet: show no progress.
        """

    @abstractmethod
    def confirm(self, seeds: int, quiet: bool = False) -> "Job":
        """Train the best settings again on this many fresh seeds (3 or more). The verdict stays as it is."""

    @abstractmethod
    def resume(self, quiet: bool = False) -> "Job":
        """Continue the job after a stop, a crash or a failure that was mended."""

    @abstractmethod
    def stop(self) -> None:
        """Stop the job, on whichever machine it runs. Its progress is kept."""

    @abstractmethod
    def delete(self) -> None:
        """Delete a job that is not running, without asking; ``tuner delete --help`` lists what is deleted."""

    @abstractmethod
    def _rows(self, kind: str) -> Sequence[Mapping[str, Any]]:
        """The rows of ``trials`` or ``epochs``."""


class LocalJob(Job):
    """A job of a workspace on this machine. ``resume``, ``extend`` and ``confirm`` return when the job has ended."""

    def __init__(self, workspace: Workspace, folder: JobFolder) -> None:
        self._workspace = workspace
        self._folder = folder

    @property
    def folder(self) -> JobFolder:
        """The job's folder.

        Raises:
            NotFound: the job was deleted.
        """
        if not self._folder.path.exists():
            raise NotFound(f"job {self._folder.id} was deleted")
        return self._folder

    @property
    def id(self) -> str:
        return self._folder.id

    @property
    def state(self) -> str:
        return self.folder.state()

    @property
    def spec(self) -> SearchSpec:
        return spec_of(self.folder)

    @property
    def leaderboard(self) -> dict[str, Any]:
        return job_results(self.folder).board.to_dict()

    def report(self, file: str | Path | None = None, force: bool = False) -> Path:
        with user_errors():
            return results.write_report(self.folder, None if file is None else Path(file), force)

    def export(self, file: str | Path, arm: str | None = None, force: bool = False) -> Path:
        with user_errors():
            return results.write_export(self.folder, Path(file), arm, force)

    def extend(self, hours: float | None = None, quiet: bool = False) -> "LocalJob":
        with user_errors():
            drive = begin.further(self._workspace, self.folder, hours)
        drive_to_its_end(drive, quiet)
        return self

    def confirm(self, seeds: int, quiet: bool = False) -> "LocalJob":
        if seeds < begin.LEAST_SEEDS:
            raise SpecError(f"seeds is {seeds}; must be at least {begin.LEAST_SEEDS}")
        with user_errors():
            drive = begin.once_more(self._workspace, self.folder, seeds)
        drive_to_its_end(drive, quiet)
        return self

    def resume(self, quiet: bool = False) -> "LocalJob":
        with user_errors():
            if self.folder.lacks(self.folder.state()):
                begin.complete(self._workspace, self.folder, say(quiet))
                return self
            drive = begin.again(self._workspace, self.folder)
        drive_to_its_end(drive, quiet)
        return self

    def stop(self) -> None:
        begin.stop(self.folder)

    def delete(self) -> None:
        with user_errors():
            deletion.delete(self._workspace, self.folder)

    def _rows(self, kind: str) -> Sequence[Mapping[str, Any]]:
        record = self.folder.record()
        return trial_rows(record) if kind == "trials" else epoch_rows(record)

    def __repr__(self) -> str:
        try:
            return as_text(board_table(job_results(self.folder).board))
        except NotFound as error:
            return str(error)

    def _repr_html_(self) -> str:
        """The leaderboard as a table, which notebooks show."""
        try:
            board = job_results(self.folder).board
        except NotFound as error:
            return escape(str(error))
        return as_html(board_table(board), board.warnings)


def _verdict(row: Mapping[str, Any]) -> Verdict:
    found = row["comparison"] or {}
    return Verdict(
        arm=row["arm"],
        baseline=row["baseline"],
        outcome=str(found.get("outcome", "")),
        gain=found.get("mean_diff"),
        low=found.get("low"),
        high=found.get("high"),
        text=row["verdict"],
    )


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], what: str) -> "DataFrame":
    try:
        pandas: Any = import_module("pandas")
    except ImportError:
        raise SpecError(f"{what} needs the package pandas; install it with: pip install pandas") from None
    frame: DataFrame = pandas.DataFrame.from_records(rows, columns=list(_columns(rows, columns)))
    return frame


def _columns(rows: Sequence[Mapping[str, Any]], first: Sequence[str]) -> Sequence[str]:
    """The columns of all rows: metrics of different trials may differ, and knobs come last."""
    found = dict.fromkeys(first)
    for row in rows:
        found |= dict.fromkeys(row)
    return sorted(found, key=lambda name: name.startswith("knob."))
