"""Writes a job's journal to MLflow, in batches.

The writer reads the journal file itself. A note beside the journal says how much MLflow has. So a tracker that is down
stops nothing and loses nothing: the next writer continues where the last one ended. If the note is lost or does not
fit the journal, the writer starts again from the beginning. It does so too if the tracker does not know the job's run:
somebody has set up another one at its address.

Each trial has one run and each step one row, whatever died in between. Where an event may have been sent before, the
writer searches for the run by its tags before it creates one, and reads the run's steps before it sends more. The time
of a metric comes from the journal, so a call that timed out and succeeded after all writes the same row.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from tuner.errors import IntegrityError, ServiceError, Unreachable, without_password
from tuner.jobs.job_folder import JobFolder
from tuner.spec.experiment import MetricSpec
from tuner.storage.database_url import file_id
from tuner.storage.events import Entry, JobDescribed, State, TrialBegun
from tuner.storage.file_lock import AlreadyLocked, exclusive
from tuner.storage.journal import Line, read_from
from tuner.tracking.client import LOST, REFUSED, connect, tracker_errors
from tuner.tracking.run_changes import JOB, Change, Step, fold
from tuner.tracking.run_layout import VIEW, job_run, metrics, trial_run, view, witnesses
from tuner.tracking.server_check import DELETED, at_tracker, deleted_experiment
from tuner.tracking.sync_state import SyncState, load, save

RUNNING = "RUNNING"
RUN_STATUS: Mapping[str, str] = {
    State.RUNNING: RUNNING,
    State.COMPLETE: "FINISHED",
    State.PRUNED: "KILLED",
    State.DIVERGED: "FAILED",
    State.FAILED: "FAILED",
    State.OOM: "FAILED",
    "finished": "FINISHED",
    "interrupted": "KILLED",
}
"""States of trials and jobs, and MLflow's status for each."""
JOB_ENDS = ("finished", "failed", "interrupted")

MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Makes the UI open an experiment on its runs. Without it, the UI shows the page of language-model traces."""
BATCH = 2000
"""Events between two notes."""
ROWS_A_CALL = 875
PARAMS_A_CALL = 100
"""MLflow's limits: 1,000 items in a call, of which 100 may be parameters."""
MOST_TAG = 5000
ALONE_S = 10.0
"""How long to wait while another process sends the same journal."""


class Writer:
    """Sends a job's journal to MLflow, from where the last writer ended.

    Args:
        job: the job's folder.
        uri: the tracking URI.
        experiment: the experiment's name. A missing one is created.
        artifacts: the folder of a new experiment's artifacts; None leaves the choice to the server.

    Raises:
        ServiceError: the tracker's database cannot be reached, or the file with the password cannot be read. A server
            is first called by ``send``.
    """

    def __init__(self, job: JobFolder, uri: str, experiment: str, artifacts: Path | None) -> None:
        self._job = job
        self._uri = uri
        self.shown = without_password(uri)
        """The tracking URI without a password."""
        self._experiment_name = experiment
        self._artifacts = artifacts
        self._note = SyncState()
        self._steps: dict[str, set[int]] = {}
        """Run id to the steps that the run has."""
        self._description: JobDescribed | None = None
        self._in_doubt = 0
        """Length of the journal's part that may have been sent without a note, in bytes from its start."""
        self._file_id: int | None = None
        """Of the SQLite file that the client has open, if something was sent to it."""
        self._files = 1
        """How many files there were at the path."""
        self._client = connect(uri)

    def send(self) -> None:
        """Send everything in the journal.

        Raises:
            ServiceError: the tracker cannot be reached, or another process is sending. The note says what was sent.
            IntegrityError: the journal is damaged. The part before the damage was sent.
        """
        with self._alone(), self._explained():
            self._follow_the_file()
            note = load(self._job.tracked)
            if note != self._note:
                self._note = note
                self._doubt()
            if self._note.tracker != self.shown:
                self._restart()
            elif not self._note.fits(self._job.journal):
                self._delete_lost()
                self._restart()
            elif not self._has_job_run():
                self._restart()
            try:
                self._send_all()
            except MlflowException as error:
                if error.error_code != LOST or not self._note.offset:
                    raise
                # The tracker was set up again a moment ago.
                self._restart()
                self._send_all()
            self._file_id = self._file_id or file_id(self._uri)

    def _follow_the_file(self) -> None:
        """Connect again if another file is at the path of the tracker's SQLite file: the open one is a removed one.

        MLflow keeps its connection for each URI as long as the process lives, so the path gets another spelling.
        """
        if self._file_id in (None, file_id(self._uri)):
            return
        self._client = connect(self._uri.replace("///", "///" + "/." * self._files, 1))
        self._files, self._file_id = self._files + 1, None
        self._steps.clear()

    def _has_job_run(self) -> bool:
        """Whether the tracker still has the parent run of the note, if the note has one.

        Raises:
            ServiceError: the run, or its experiment, was deleted, and can be restored.
        """
        if JOB not in self._note.runs:
            return True
        try:
            info = self._client.get_run(self._note.runs[JOB]).info
        except MlflowException as error:
            if error.error_code != LOST:
                raise
            return False
        if info.lifecycle_stage == DELETED:
            self._refuse_deleted_experiment(self._client.get_experiment(info.experiment_id))
            raise ServiceError(
                f"MLflow at {self.shown}: the run of job {self._job.id} was deleted; restore it with:"
                f" {at_tracker(self.shown)} mlflow runs restore --run-id {info.run_id}; or remove it for good (mlflow"
                " gc): then the job is sent anew"
            )
        return True

    def _refuse_deleted_experiment(self, found: Any) -> None:
        if found.lifecycle_stage == DELETED:
            raise deleted_experiment(self.shown, found.name, found.experiment_id)

    def attach(self, files: Mapping[str, Path], description: str) -> None:
        """Attach files and a description to the parent run.

        Args:
            files: artifact path to file.
            description: Markdown.

        Raises:
            ServiceError: the tracker cannot be reached.
        """
        with self._explained():
            for name, file in files.items():
                self._client.log_artifact(self.runs[JOB], str(file), os.path.dirname(name) or None)
            self._client.set_tag(self.runs[JOB], "mlflow.note.content", description)

    @contextmanager
    def exclusive(self) -> Iterator[Any]:
        """The MLflow client, while no other process sends this job.

        Raises:
            ServiceError: the tracker cannot be reached, or another process is sending.
        """
        with self._alone(), self._explained():
            yield self._client

    @property
    def runs(self) -> Mapping[str, str]:
        """Trial key to MLflow run id. The key of the parent run is ``JOB``."""
        return self._note.runs

    def delete_runs(self) -> int:
        """Delete the job's runs at the tracker, and return how many there were.

        Raises:
            ServiceError: the tracker cannot be reached, or another process is sending.
        """
        deleted = 0
        with self._alone(), self._explained():
            note = load(self._job.tracked)
            for run_id in note.runs.values() if note.tracker == self.shown else ():
                try:
                    self._client.delete_run(run_id)
                    deleted += 1
                except MlflowException as error:
                    # Somebody else has deleted it.
                    if error.error_code not in (LOST, REFUSED):
                        raise
        return deleted

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            with exclusive(self._job.tracked.with_suffix(".lock"), ALONE_S):
                yield
        except AlreadyLocked as other:
            raise Unreachable(
                f"another process is sending job {self._job.id} to MLflow ({other.owner}); try again later"
            ) from None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with tracker_errors(self.shown):
                yield
        except ServiceError:
            # Nobody knows whether the call succeeded.
            self._steps.clear()
            self._doubt()
            raise

    def _doubt(self) -> None:
        """From now on, assume that every event of the journal may have been sent."""
        journal = self._job.journal
        self._in_doubt = journal.stat().st_size if journal.exists() else 0

    def _restart(self) -> None:
        self._note = SyncState(tracker=self.shown)
        self._doubt()

    def _send_all(self) -> None:
        while batch := self._next_batch():
            self._send([line.entry for line in batch])
            last = batch[-1]
            self._note.start = batch[-2].end if len(batch) > 1 else self._note.offset
            self._note.offset, self._note.n, self._note.ms = last.end, last.entry.n, last.entry.ms
            save(self._job.tracked, self._note)

    def _next_batch(self) -> list[Line]:
        batch: list[Line] = []
        try:
            for line in read_from(self._job.journal, self._note.offset):
                batch.append(line)
                if len(batch) == BATCH:
                    break
        except IntegrityError:
            if not batch:
                raise
        return batch

    def _send(self, entries: Iterable[Entry]) -> None:
        changes, running = fold(entries, self._note.running)
        lacking = {}
        for key, change in sorted(changes.items(), key=lambda item: item[0] != JOB):
            if change.begun is not None:
                lacking[key] = self._begin(key, change, change.begun)
        for key, change in changes.items():
            self._apply(self.runs[key], change, *lacking.get(key, ([], _tags(change))))
        if JOB in changes and changes[JOB].state in JOB_ENDS:
            self._delete_twins()
        self._note.running = running

    def _apply(self, run_id: str, change: Change, params: Sequence[Param], tags: Mapping[str, str]) -> None:
        try:
            self._log(run_id, change, params, tags)
            if status := RUN_STATUS.get(change.state):
                if status == RUNNING:
                    self._client.update_run(run_id, status)
                else:
                    self._client.set_terminated(run_id, status, end_time=change.ms)
                    # Nothing more comes of it, and the steps of all runs of a long search would fill the memory.
                    self._steps.pop(run_id, None)
        except MlflowException as error:
            # The user may delete a run. The other runs still get their events. A deleted experiment comes back whole.
            if error.error_code != REFUSED:
                raise
            info = self._client.get_run(run_id).info
            if info.lifecycle_stage != DELETED:
                raise
            self._refuse_deleted_experiment(self._client.get_experiment(info.experiment_id))

    def _log(self, run_id: str, change: Change, params: Sequence[Param], tags: Mapping[str, str]) -> None:
        there = self._steps_of(run_id) if change.steps else set()
        steps = [(number, step) for number, step in change.steps.items() if number not in there]
        # The rows of witnesses go last: who finds one knows that all of the step was sent.
        known = witnesses(self._measured()) if steps else ()
        rows = [
            row
            for number, step in steps
            for row in sorted(_metrics(number, step), key=lambda metric: metric.key in known)
        ]
        while rows or params or tags:
            now = [RunTag(name, value) for name, value in tags.items()]
            sent, rows = rows[:ROWS_A_CALL], rows[ROWS_A_CALL:]
            self._client.log_batch(run_id, metrics=sent, params=params[:PARAMS_A_CALL], tags=now)
            there.update(row.step for row in sent if row.key in known)
            params, tags = params[PARAMS_A_CALL:], {}

    def _steps_of(self, run_id: str) -> set[int]:
        if run_id not in self._steps:
            known = witnesses(self._measured())
            rows = [row for name in known for row in self._client.get_metric_history(run_id, name)]
            self._steps[run_id] = {row.step for row in rows}
        return self._steps[run_id]

    def _begin(
        self, key: str, change: Change, event: JobDescribed | TrialBegun
    ) -> tuple[list[Param], Mapping[str, str]]:
        """Create a run unless it exists; return the parameters and tags that it lacks."""
        if key == JOB:
            self._note.experiment = self._find_experiment() or self._make_experiment()
        if isinstance(event, JobDescribed):
            name, tags, params = job_run(event)
        else:
            name, tags, params = trial_run(event, self._job.id, self.runs[JOB], self._arm_names())
        found = self._find(key) if self._note.offset < self._in_doubt else None
        lacking = _tags(change)
        if found is None:
            tags |= lacking
            run = self._client.create_run(self._note.experiment, start_time=change.begun_ms, tags=tags, run_name=name)
            self._steps[run.info.run_id] = set()
            # The new run has these tags already.
            lacking = {}
            if change.state == State.RUNNING:
                change.state = ""
        else:
            run = found
        self._note.runs[key] = run.info.run_id
        if isinstance(event, JobDescribed):
            self._client.set_experiment_tag(self._note.experiment, VIEW + self._job.id, view(event))
        missing = [Param(name, str(value)) for name, value in params.items() if name not in run.data.params]
        return missing, lacking

    def _arm_names(self) -> list[str]:
        return [arm.name for arm in self._described().arms]

    def _measured(self) -> MetricSpec:
        return MetricSpec.model_validate(self._described().spec.get("metric", {}))

    def _described(self) -> JobDescribed:
        if self._description is None:
            first = next(iter(read_from(self._job.journal, 0))).entry.event
            assert isinstance(first, JobDescribed), "a journal begins with its job"
            self._description = first
        return self._description

    def _find(self, key: str) -> Run | None:
        tag, value = ("tuner.stage", "job") if key == JOB else ("tuner.trial", key)
        runs = self._search(f"tags.`{tag}` = '{value}'")
        return max(runs, key=lambda run: len(run.data.metrics), default=None)

    def _search(self, where: str) -> Sequence[Run]:
        ours = f"tags.`tuner.job` = '{self._job.id}'"
        found: Sequence[Run] = self._client.search_runs([self._note.experiment], f"{ours} and {where}")
        return found

    def _delete_twins(self) -> None:
        """Delete empty runs that are not ours: a call that timed out may have created a second run of a trial."""
        for run in self._search(f"attributes.status = '{RUNNING}'"):
            if run.info.run_id not in self.runs.values() and not run.data.metrics:
                self._client.delete_run(run.info.run_id)

    def _delete_lost(self) -> None:
        """After a recovery of the journal, delete runs with events that it lost. The trials may now go differently."""
        known, _ = fold((line.entry for line in read_from(self._job.journal, 0)), ())
        for run in list(self._children()):
            change = known.get(run.data.tags.get("tuner.trial", JOB))
            if change is None or self._holds_more(run, change):
                self._client.delete_run(run.info.run_id)

    def _holds_more(self, run: Run, change: Change) -> bool:
        """Whether a run has other parameters than a trial, or steps that the trial did not report."""
        params: dict[str, Any] = {}
        if isinstance(change.begun, TrialBegun):
            params = trial_run(change.begun, self._job.id, "", self._arm_names()).params
        differs = any(run.data.params.get(name, str(value)) != str(value) for name, value in params.items())
        return differs or not self._steps_of(run.info.run_id) <= change.steps.keys()

    def _children(self) -> Iterator[Run]:
        where = f"tags.`tuner.job` = '{self._job.id}' and tags.`tuner.stage` != 'job'"
        token = None
        while True:
            page = self._client.search_runs([self._note.experiment], where, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment_name)
        if not found:
            return ""
        self._refuse_deleted_experiment(found)
        return str(found.experiment_id)

    def _make_experiment(self) -> str:
        location = None if self._artifacts is None else self._artifacts.as_uri()
        try:
            return str(
                self._client.create_experiment(self._experiment_name, artifact_location=location, tags=MODEL_TRAINING)
            )
        except MlflowException:
            # Another job may have created it a moment ago.
            if found := self._find_experiment():
                return found
            raise


def _metrics(number: int, step: Step) -> list[Metric]:
    return [Metric(name, value, step.ms, number) for name, value in metrics(step.values).items()]


def _tags(change: Change) -> dict[str, str]:
    tags = {
        "tuner.state": change.state,
        "tuner.reason": change.reason[-MOST_TAG:],
        "tuner.attempts": str(change.attempt) if change.attempt > 1 else "",
    }
    return {name: value for name, value in tags.items() if value}
