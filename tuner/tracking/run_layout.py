"""How a job and its trials look in MLflow: names, tags, parameters and colours of runs, and the table of a job's."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tuner.jobs.record import Stage, State
from tuner.storage.journal import Event
from tuner.tracking.colours import colour

VIEW = "mlflow.sharedViewState."
"""Prefix of an experiment's tags that hold views of its runs table, which a link can name."""


class RunLayout(NamedTuple):
    """A run's name, and the tags and parameters it begins with."""

    name: str
    tags: dict[str, str]
    params: dict[str, Any]


def job_run(event: Event, job: str) -> RunLayout:
    """The parent run of a job, by its id, from the event that says what it runs."""
    tags = {"tuner.job": job, "tuner.stage": "job", "tuner.trial": "", "tuner.state": State.RUNNING.value}
    tags |= {f"tuner.{name}": str(event[name]) for name in ("data_fingerprint", "git_commit")}
    params = _flat(event["spec"]) | {f"versions.{name}": v for name, v in event["versions"].items()}
    return RunLayout(job, tags, params)


def trial_run(event: Event, job: str, parent: str, arms: Sequence[str]) -> RunLayout:
    """A child run of a parent, by its run id, from the event that a trial started; ``arms`` are all of the job's."""
    stage = event["stage"]
    name = f"{event['arm']}-{event['number']}"
    if stage != Stage.SEARCH:
        name += f"-{stage}-{event['seed']}"
    tags = {
        "mlflow.parentRunId": parent,
        "tuner.job": job,
        "tuner.trial": event["trial"],
        "tuner.arm": event["arm"],
        "tuner.stage": stage,
        "tuner.state": State.RUNNING.value,
        "tuner.number": str(event["number"]),
        "mlflow.runColor": colour(arms.index(event["arm"])),
    }
    return RunLayout(name, tags, {**event["hyper"], "seed": event["seed"]})


MODEL_TRAINING = "workflowType=machine_learning"
"""Opens the UI on what is for training; it begins with what is for language models."""


def table_page(job: str, experiment: str) -> str:
    """Where the UI shows the runs of a job as in its ``view``, below its server's address."""
    return f"/#/experiments/{experiment}/runs?viewStateShareKey={job}&{MODEL_TRAINING}"


def run_page(run: str, experiment: str) -> str:
    """Where it shows one run."""
    return f"/#/experiments/{experiment}/runs/{run}?{MODEL_TRAINING}"


def _flat(sections: Mapping[str, Any]) -> dict[str, Any]:
    """``section.key`` to value; what is nested deeper as JSON, since its keys may be no names for MLflow."""
    flat: dict[str, Any] = {}
    for section, values in sections.items():
        pairs = values.items() if isinstance(values, Mapping) else [("", values)]
        for key, value in pairs:
            name = f"{section}.{key}" if key else section
            flat[name] = json.dumps(value) if isinstance(value, list | Mapping) else value
    return flat


def view(event: Event, job: str) -> str:
    """The runs table as it suits a job: its runs alone, the best first, with a column for each knob.

    Args:
        event: the one that says what the job runs.
        job: its id.

    Returns:
        The UI's own form of a shared view; a field that is left out is undefined there, and not its default.
    """
    metric = event["spec"]["metric"]
    knobs = dict.fromkeys(knob for arm in event["arms"] for knob in arm["space"])
    columns = [f"metrics.`{name}`" for name in ("val/acc", "val/loss", "test/acc", "train/loss")]
    columns += [f"params.`{knob}`" for knob in knobs]
    columns += ["attributes.`Duration`", "tags.`tuner.stage`", "tags.`tuner.state`"]
    facets = {
        "searchFilter": f"tags.`tuner.job` = '{job}'",
        # Ordered by time, all are folded away below their parent, and no view can say otherwise.
        "orderByKey": f"metrics.`{metric['name']}`",
        "orderByAsc": metric["goal"] == "minimize",
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
