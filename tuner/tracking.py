"""MLflow: the record people read, written from the journal by one batched writer. The one module that imports mlflow.

The writer reads the journal file itself and notes how far it came beside it, so a tracker that is down stops nothing
and loses nothing: the next writer goes on where the last one ended. Runs are found by tag before they are made, and
a metric's timestamp is the journal's, so sending an event twice leaves one run and one row.
"""

import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from tuner.errors import ServiceError, without_password
from tuner.home import JobFolder
from tuner.journal import Event, read_from
from tuner.record import Stage, State

logging.getLogger("mlflow").setLevel(logging.ERROR)
logging.getLogger("alembic").setLevel(logging.ERROR)

METRICS: Mapping[str, str] = {
    "train_loss": "train/loss",
    "train_acc": "train/acc",
    "val_loss": "val/loss",
    "val_acc": "val/acc",
    "lr": "lr",
    "weight_decay": "weight_decay",
    "seconds": "epoch_seconds",
}
RESULTS: Mapping[str, str] = {"test_acc": "test/acc", "test_loss": "test/loss"}
RUN_STATUS: Mapping[State, str] = {
    State.COMPLETE: "FINISHED",
    State.PRUNED: "KILLED",
    State.DIVERGED: "FAILED",
    State.FAILED: "FAILED",
}
JOB_STATUS: Mapping[str, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}

MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Opens an experiment in the UI on its runs; without it the UI takes it for a collection of language-model traces."""
BATCH = 1000
MOST_TAG = 5000
UNREACHABLE = (MlflowException, RequestException, SQLAlchemyError, OSError)


class Writer:
    """Sends a job's journal to MLflow, from where the last writer ended.

    Args:
        job: the job's folder.
        uri: the tracking URI.
        experiment: the experiment's name; made if it is not there.
        artifacts: where a new experiment keeps its artifacts, or None to leave it to the server.
    """

    def __init__(self, job: JobFolder, uri: str, experiment: str, artifacts: Path | None) -> None:
        self._job = job
        self._shown = without_password(uri)
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment_name = experiment
        self._artifacts = artifacts
        noted = json.loads(job.tracked.read_text()) if job.tracked.exists() else {}
        self._offset: int = noted.get("offset", 0)
        self._experiment: str = noted.get("experiment", "")
        self._runs: dict[str, str] = noted.get("runs", {})

    def send(self) -> None:
        """Send everything in the journal.

        Raises:
            ServiceError: the tracker cannot be reached; what was sent before is noted.
        """
        try:
            while batch := self._next_batch():
                self._send(event for event, _ in batch)
                self._offset = batch[-1][1]
                self._note()
        except UNREACHABLE as error:
            raise ServiceError(f"MLflow at {self._shown} cannot be written: {_first_line(error)}") from error

    def attach(self, files: Mapping[str, Path], description: str) -> None:
        """Put files (artifact folder and file) and a description in Markdown on the parent run.

        Raises:
            ServiceError: the tracker cannot be reached.
        """
        try:
            for name, file in files.items():
                self._client.log_artifact(self._runs[""], str(file), os.path.dirname(name) or None)
            self._client.set_tag(self._runs[""], "mlflow.note.content", description)
        except UNREACHABLE as error:
            raise ServiceError(f"MLflow at {self._shown} cannot be written: {_first_line(error)}") from error

    @property
    def runs(self) -> Mapping[str, str]:
        """Trial key to MLflow run id; the parent's key is the empty string."""
        return self._runs

    def _next_batch(self) -> list[tuple[Event, int]]:
        batch = []
        for pair in read_from(self._job.journal, self._offset):
            batch.append(pair)
            if len(batch) == BATCH // len(METRICS):
                break
        return batch

    def _send(self, events: Iterable[Event]) -> None:
        metrics: dict[str, list[Metric]] = defaultdict(list)
        for event in events:
            match event["kind"]:
                case "job":
                    self._start_parent(event)
                case "trial":
                    self._start_child(event)
                case "epoch":
                    metrics[event["trial"]] += _metrics(event, METRICS, event["epoch"])
                case "end":
                    # The run's rows go before its end, so that a finished run is a whole one.
                    self._log(event["trial"], metrics.pop(event["trial"], []))
                    self._end_child(event)
                case "state" if event["state"] in JOB_STATUS:
                    self._end_parent(event)
        for key, rows in metrics.items():
            self._log(key, rows)

    def _log(self, key: str, rows: list[Metric]) -> None:
        for start in range(0, len(rows), BATCH):
            self._client.log_batch(self._runs[key], metrics=rows[start : start + BATCH])

    def _start_parent(self, event: Event) -> None:
        found = self._client.get_experiment_by_name(self._experiment_name)
        self._experiment = found.experiment_id if found else self._make_experiment()
        tags = {"tuner.job": self._job.id, "tuner.stage": "job", "tuner.trial": ""}
        tags |= {f"tuner.{name}": str(event[name]) for name in ("data_fingerprint", "git_commit")}
        params = _flat(event["spec"]) | {f"versions.{name}": v for name, v in event["versions"].items()}
        self._start("", self._job.id, tags, params, event["ms"])

    def _start_child(self, event: Event) -> None:
        stage = event["stage"]
        name = f"{event['arm']}-{event['number']}"
        if stage != Stage.SEARCH:
            name += f"-{stage}-{event['seed']}"
        tags = {
            "mlflow.parentRunId": self._runs[""],
            "tuner.job": self._job.id,
            "tuner.trial": event["trial"],
            "tuner.arm": event["arm"],
            "tuner.stage": stage,
            "tuner.state": State.RUNNING.value,
            "tuner.number": str(event["number"]),
        }
        self._start(event["trial"], name, tags, {**event["hyper"], "seed": event["seed"]}, event["ms"])

    def _start(self, key: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any], ms: int) -> None:
        if key in self._runs:
            return
        run_id = (
            self._find(key)
            or self._client.create_run(self._experiment, start_time=ms, tags=dict(tags), run_name=name).info.run_id
        )
        self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
        self._runs[key] = run_id

    def _find(self, key: str) -> str | None:
        where = f"tags.`tuner.job` = '{self._job.id}' and tags.`tuner.trial` = '{key}'"
        if key == "":
            where = f"tags.`tuner.job` = '{self._job.id}' and tags.`tuner.stage` = 'job'"
        runs = self._client.search_runs([self._experiment], where, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _end_child(self, event: Event) -> None:
        run_id, state = self._runs[event["trial"]], State(event["state"])
        tags = {"tuner.state": state.value}
        if event["reason"]:
            tags["tuner.reason"] = event["reason"][-MOST_TAG:]
        rows = _metrics({**event["result"], "ms": event["ms"]}, RESULTS, 0)
        self._client.log_batch(run_id, metrics=rows, tags=[RunTag(key, value) for key, value in tags.items()])
        self._client.set_terminated(run_id, RUN_STATUS[state], end_time=event["ms"])

    def _end_parent(self, event: Event) -> None:
        if event["state"] != "finished":
            self._kill_running(event["ms"])
        self._client.set_tag(self._runs[""], "tuner.state", event["state"])
        self._client.set_terminated(self._runs[""], JOB_STATUS[event["state"]], end_time=event["ms"])

    def _kill_running(self, ms: int) -> None:
        for key, run_id in self._runs.items():
            if key and self._client.get_run(run_id).info.status == "RUNNING":
                self._client.set_tag(run_id, "tuner.state", "interrupted")
                self._client.set_terminated(run_id, "KILLED", end_time=ms)

    def _make_experiment(self) -> str:
        location = None if self._artifacts is None else self._artifacts.as_uri()
        try:
            return str(
                self._client.create_experiment(self._experiment_name, artifact_location=location, tags=MODEL_TRAINING)
            )
        except MlflowException:
            # Another job made it a moment ago, or it was deleted: the name tells.
            found = self._client.get_experiment_by_name(self._experiment_name)
            if found is None:
                raise
            return str(found.experiment_id)

    def _note(self) -> None:
        noted = {"offset": self._offset, "experiment": self._experiment, "runs": self._runs}
        partial = self._job.tracked.with_suffix(".partial")
        partial.write_text(json.dumps(noted))
        partial.replace(self._job.tracked)


def _metrics(event: Mapping[str, Any], names: Mapping[str, str], step: int) -> list[Metric]:
    return [Metric(name, float(event[key]), event["ms"], step) for key, name in names.items() if key in event]


def _flat(sections: Mapping[str, Any]) -> dict[str, Any]:
    """``section.key`` to value; what is nested deeper as JSON, since its keys may be no names for MLflow."""
    flat: dict[str, Any] = {}
    for section, values in sections.items():
        pairs = values.items() if isinstance(values, Mapping) else [("", values)]
        for key, value in pairs:
            name = f"{section}.{key}" if key else section
            flat[name] = json.dumps(value) if isinstance(value, list | Mapping) else value
    return flat


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
