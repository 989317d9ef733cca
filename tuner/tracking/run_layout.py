"""How a job and its trials look in MLflow: names, tags, parameters, metrics and colours of runs, and the runs table."""

import hashlib
import itertools
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trainables.report import ConfirmResult, EpochReport, OwnReport, Report, Result
from tuner.spec.experiment import MetricSpec
from tuner.storage.events import JobDescribed, Stage, State, TrialBegun
from tuner.tracking.colours import colour

VIEW = "mlflow.sharedViewState."
"""Prefix of the experiment's tags that hold views of its runs table. A link can name a view."""
METRICS: Mapping[str, str] = {
    "train_loss": "train/loss",
    "train_acc": "train/acc",
    "val_loss": "val/loss",
    "val_acc": "val/acc",
    "lr": "lr",
    "weight_decay": "weight_decay",
    "seconds": "epoch_seconds",
}
"""A field of an epoch's report, and MLflow's name of the metric."""
RESULTS: Mapping[str, str] = {"test_acc": "test/acc", "test_loss": "test/loss"}
"""The same for the result of a confirm run."""
MOST_PARAM, MOST_NAME, MOST_KEY = 6000, 240, 60
"""How many characters MLflow keeps of a parameter's value, and of its name (250, less a number); and one key's part."""
_NOT_IN_NAMES = re.compile(r"[^\w.\- ]")
_ALLOWED = re.compile(rf"[\w.\- :/]{{1,{MOST_NAME}}}")


class RunLayout(NamedTuple):
    """The name of a run, and its first tags and parameters."""

    name: str
    tags: dict[str, str]
    params: dict[str, Any]


def metrics(values: Report | Result) -> dict[str, float]:
    """MLflow's metrics of a step: name to value. The numbers of the user's trainables keep their names."""
    if isinstance(values, EpochReport | ConfirmResult):
        names = METRICS if isinstance(values, EpochReport) else RESULTS
        return {name: float(getattr(values, key)) for key, name in names.items()}
    ours = {METRICS["seconds"]: values.seconds} if isinstance(values, OwnReport) else {}
    return ours | {allowed(name): float(value) for name, value in values.values.items()}


def witnesses(metric: MetricSpec) -> tuple[str, ...]:
    """The metrics that MLflow has of every step of a run: one of each epoch, and one of a confirm run's result."""
    if metric.own:
        return tuple(dict.fromkeys(map(allowed, (metric.key, metric.judged))))
    return METRICS["train_loss"], RESULTS["test_acc"]


def allowed(name: str) -> str:
    """A name as MLflow takes it for a metric or a parameter: itself, or without what MLflow does not allow.

    A changed name ends with a checksum of the right one, because two names may differ only in what is not allowed.
    """
    if (
        _ALLOWED.fullmatch(name)
        and posixpath.normpath(name) == name
        and not name.startswith(("/", ".."))
        and name != "."
    ):
        return name
    part = _NOT_IN_NAMES.sub("_", name).lstrip(".")[: MOST_NAME - 9]
    return f"{part}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def job_run(event: JobDescribed) -> RunLayout:
    """The parent run of a job."""
    tags = {"tuner.job": event.job, "tuner.stage": "job", "tuner.trial": "", "tuner.state": State.RUNNING.value}
    tags |= {"tuner.data_fingerprint": event.data_fingerprint, "tuner.git_commit": event.git_commit}
    tags["tuner.claim"] = event.spec.get("claim", "setting")
    params = _flat(event.spec) | {f"versions.{name}": version for name, version in event.versions.items()}
    return RunLayout(event.job, tags, params)


def trial_run(event: TrialBegun, job: str, parent: str, arms: Sequence[str]) -> RunLayout:
    """A child run.

    Args:
        event: the event that began the trial.
        job: the job's id.
        parent: id of the parent run.
        arms: names of all arms of the job, which decide the colour.
    """
    name = f"{event.arm}-{event.label}"
    if event.stage != Stage.SEARCH:
        name += f"-{event.stage}-{event.seed}"
    tags = {
        "mlflow.parentRunId": parent,
        "tuner.job": job,
        "tuner.trial": event.trial,
        "tuner.arm": event.arm,
        "tuner.stage": event.stage.value,
        "tuner.state": State.RUNNING.value,
        "tuner.number": str(event.number),
        "mlflow.runColor": colour(arms.index(event.arm)),
    }
    if event.search:
        tags["tuner.search"] = str(event.search)
    params = {allowed(knob): _kept(value) for knob, value in event.hyper.items()}
    # A knob of the user's may have this name.
    return RunLayout(name, tags, {**params, "tuner.seed" if "seed" in params else "seed": event.seed})


MODEL_TRAINING = "workflowType=machine_learning"
"""Opens the UI on its pages for training. By default it opens on the pages for language models."""


def table_page(job: str, experiment: str) -> str:
    """The page that shows the runs of a job in its ``view``, below the server's address."""
    return f"/#/experiments/{experiment}/runs?viewStateShareKey={job}&{MODEL_TRAINING}"


def run_page(run: str, experiment: str) -> str:
    """The page that shows one run."""
    return f"/#/experiments/{experiment}/runs/{run}?{MODEL_TRAINING}"


def _flat(value: Any, name: str = "", depth: int = 0) -> dict[str, Any]:
    """One parameter for each option, as ``section.option``, and as ``arms.NAME.option`` for those of an arm.

    A list of plain values is one parameter, as JSON, unless it is longer than MLflow keeps.
    """
    if isinstance(value, Mapping):
        parts = {str(key): part for key, part in value.items() if depth < 2 or part is not None}
    elif not isinstance(value, list):
        return {name: _kept(value)}
    elif any(isinstance(part, list | Mapping) for part in value) or len(json.dumps(value)) > MOST_PARAM:
        parts = {
            str(part["name"]) if isinstance(part, Mapping) and "name" in part else str(number): part
            for number, part in enumerate(value)
        }
    else:
        return {name: json.dumps(value)}
    flat: dict[str, Any] = {}
    for key, part in parts.items():
        for inner, kept in _flat(part, _NOT_IN_NAMES.sub("_", key)[:MOST_KEY], depth + 1).items():
            whole = ".".join(filter(None, (name, inner)))[:MOST_NAME]
            # Two keys may differ only in what MLflow does not allow in a name.
            numbered = (f"{whole}_{number}" for number in itertools.count(2))
            flat[next(free for free in itertools.chain([whole], numbered) if free not in flat)] = kept
    return flat


def _kept(value: Any) -> Any:
    """A plain value, or a remark in place of one that MLflow would cut."""
    size = len(str(value))
    return value if size <= MOST_PARAM else f"{size} characters; see spec.yaml among the artifacts"


def view(event: JobDescribed) -> str:
    """The runs table as it suits a job: only its runs, the best first, with a column for each knob.

    Returns:
        The UI's own form of a shared view. A field that is left out is undefined in the UI; it gets no default.
    """
    metric = MetricSpec.model_validate(event.spec["metric"])
    names = [allowed(name) for name in dict.fromkeys((metric.key, metric.judged))]
    if not metric.own:
        names = ["val/acc", "val/loss", "test/acc", "train/loss"]
    knobs = dict.fromkeys(knob for arm in event.arms for knob in arm.space)
    columns = [f"metrics.`{name}`" for name in names]
    columns += [f"params.`{allowed(knob)}`" for knob in knobs]
    columns += ["attributes.`Duration`", "tags.`tuner.stage`", "tags.`tuner.state`"]
    facets = {
        "searchFilter": f"tags.`tuner.job` = '{event.job}'",
        # If the order is by time, the UI folds all runs away below their parent, whatever the view says.
        "orderByKey": f"metrics.`{names[0] if metric.own else metric.name}`",
        "orderByAsc": not metric.maximize,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }
    state = {
        "selectedColumns": columns,
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    return json.dumps(facets | state, separators=(",", ":"))
