"""How a job and its trials look as MLflow runs: their names, tags and parameters."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from tuner.journal import Event
from tuner.record import Stage, State


class Looks(NamedTuple):
    """A run's name, and the tags and parameters it begins with."""

    name: str
    tags: dict[str, str]
    params: dict[str, Any]


def job_run(event: Event, job: str) -> Looks:
    """The parent run of a job, by its id, from the event that says what it runs."""
    tags = {"tuner.job": job, "tuner.stage": "job", "tuner.trial": "", "tuner.state": State.RUNNING.value}
    tags |= {f"tuner.{name}": str(event[name]) for name in ("data_fingerprint", "git_commit")}
    params = _flat(event["spec"]) | {f"versions.{name}": v for name, v in event["versions"].items()}
    return Looks(job, tags, params)


def trial_run(event: Event, job: str, parent: str) -> Looks:
    """A child run of a parent, by its run id, from the event that a trial started."""
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
    }
    return Looks(name, tags, {**event["hyper"], "seed": event["seed"]})


def _flat(sections: Mapping[str, Any]) -> dict[str, Any]:
    """``section.key`` to value; what is nested deeper as JSON, since its keys may be no names for MLflow."""
    flat: dict[str, Any] = {}
    for section, values in sections.items():
        pairs = values.items() if isinstance(values, Mapping) else [("", values)]
        for key, value in pairs:
            name = f"{section}.{key}" if key else section
            flat[name] = json.dumps(value) if isinstance(value, list | Mapping) else value
    return flat
