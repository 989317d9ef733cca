"""Refuses a trial in an exported file that has the wrong form, or that no spec could give."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from trainables.catalog import is_dotted
from trainables.config import TrialConfig
from trainables.hyper import Hyper
from trainables.own.trial import OwnTrial
from trainables.schedules import Schedule
from trainables.space import Plan
from tuner.spec.experiment import DOTTED_PATTERN, DataSpec, ModelSpec
from tuner.spec.ranges import TRAINER_KNOBS
from tuner.spec.settings import BudgetSpec, ResourcesSpec

LONGEST = 10**9
"""Most updates in an epoch, because only the data tells how many there are."""
_TRIAL: TypeAdapter[TrialConfig] = TypeAdapter(TrialConfig)
_OWN_TRIAL: TypeAdapter[OwnTrial] = TypeAdapter(OwnTrial)
_DOTTED = re.compile(DOTTED_PATTERN)


def check_image_trial(trial: Mapping[str, Any]) -> None:
    """Check a trial of the built-in training, as ``TrialConfig.to_dict`` gives it. It raises many kinds of error."""
    data, model = dict(trial["data"]), trial["model"]
    config = TrialConfig.from_dict(trial)  # refuses unknown keys
    _TRIAL.validate_json(json.dumps(trial), strict=True)
    hyper, optimizer = Hyper.of(trial["hyper"]), config.optimizer
    if not is_dotted(hyper.schedule):
        # A schedule of the user's own is code, and reading a file runs none.
        Schedule(hyper, Plan(trial["epochs"], LONGEST))
    for name in () if optimizer is None else (optimizer.name, optimizer.groups):
        if name is not None and not _DOTTED.fullmatch(name):
            raise ValueError(f"trial.optimizer: {name!r} is no module:name")
    least, most = TRAINER_KNOBS["augment_shift"]
    if not least <= config.shift <= most:
        raise ValueError(f"trial.shift: must be from {least} to {most}")
    path, seed, sums = (data.pop(key) for key in ("path", "seed", "sha256"))
    if path is not None:
        raise ValueError("trial.data.path: an export names no path")
    place = None if data["name"] == "digits" else "."
    DataSpec(**data, path=place, sha256=dict(sums) or None, augment=trial["augment"])
    own = is_dotted(model["name"])
    ModelSpec(name=model["name"], **({"options": model["options"]} if own else model["options"]))
    BudgetSpec(trials=1, epochs=trial["epochs"], batch_size=trial["batch_size"])
    ResourcesSpec(
        cpus=trial["threads"],
        precision=trial["precision"],
        deterministic=trial["deterministic"],
        cuda_graph=config.cuda_graph,
    )
    if seed < 0:
        raise ValueError("trial.data.seed: must be at least 0")


def check_own_trial(trial: Mapping[str, Any], choose: str, judge: str) -> None:
    """Check a trial of the user's own trainable, as ``OwnTrial.to_dict`` gives it. It raises many kinds of error.

    Args:
        trial: the trial.
        choose, judge: the metrics of the export.
    """
    found = OwnTrial.from_dict(trial)
    _OWN_TRIAL.validate_json(json.dumps(trial), strict=True)
    if not _DOTTED.fullmatch(found.trainable):
        raise ValueError(f"trial.trainable: {found.trainable!r} is no module:name")
    if (found.choose, found.judge) != (choose, judge):
        raise ValueError("trial.choose, trial.judge: must be those of the metric")
    BudgetSpec(trials=1, epochs=found.epochs)
    ResourcesSpec(cpus=found.threads)
