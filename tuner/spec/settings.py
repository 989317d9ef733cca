"""The sections of a spec on how the search runs: budget, sampler, scheduler, resources, confirm runs."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from tuner.spec.experiment import Line
from tuner.spec.messages import InvalidValue, shown
from tuner.spec.ranges import Frozen


class BudgetSpec(Frozen):
    """How much is trained."""

    trials: int = Field(ge=1, le=100_000, description="trials of each arm")
    epochs: int = Field(ge=1, le=100_000, description="most epochs of one trial")
    batch_size: int = Field(default=100, ge=1, le=1_000_000, description="images in one update")
    max_hours: float | None = Field(
        default=None, gt=0, le=100_000, description="no new trial is started after so many hours"
    )
    max_gpu_hours: float | None = Field(default=None, gt=0, le=10**7, description="the same in hours of GPU time")


class SamplerSpec(Frozen):
    """What proposes the settings."""

    name: Literal["tpe", "random", "qmc", "gp", "cmaes"] = Field(default="tpe", description="Optuna's sampler")
    startup_trials: int | None = Field(
        default=None, ge=1, le=100_000, description="random trials before the sampler learns (tpe, gp, cmaes)"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.startup_trials is not None and self.name in ("random", "qmc"):
            raise InvalidValue(f"{self.name} learns nothing, so it has no start-up; leave it out", "startup_trials")
        return self


class SchedulerSpec(Frozen):
    """What stops unpromising trials early."""

    name: Literal["asha", "hyperband", "none"] = Field(
        default="asha", description="successive halving without waiting, the same in several brackets, or none"
    )
    first_rung: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="epochs before the first judgement; a ninth of all, at least 2, if not given",
    )
    reduction_factor: int = Field(default=3, ge=2, le=1000, description="one in so many trials passes a rung")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.name == "none" and self.first_rung is not None:
            raise InvalidValue("scheduler none has no rungs; leave it out", "first_rung")
        return self

    def first_rung_of(self, epochs: int) -> int:
        """Epochs before the first judgement in trials of ``epochs``."""
        if self.first_rung is not None:
            return self.first_rung
        return max(1, min(max(2, math.ceil(epochs / 9)), epochs - 1))


class ResourcesSpec(Frozen):
    """What one trial gets, and how many run at once."""

    auto: bool = Field(
        default=False,
        description="measure how many trials a GPU takes at once, and take the best; without a GPU, one thread each",
    )
    cpus: int = Field(default=1, ge=1, le=1024, description="CPU threads of one trial")
    gpus: float = Field(default=0.0, ge=0, le=1024, description="GPUs of one trial: a share below 1, or a whole number")
    concurrent: int | None = Field(
        default=None, ge=1, le=100_000, description="most trials at once; as many as fit, if not given"
    )
    deterministic: bool = Field(default=False, description="only deterministic algorithms on a GPU; a CPU always is")
    cuda_graph: bool = Field(
        default=True,
        description="on a GPU, capture an update once and replay it; without, the plain updates that it is checked by",
    )
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="bf16 is mixed precision")
    retries: int = Field(
        default=1, ge=0, le=100, description="how often a trial that fails without getting further is tried again"
    )
    trial_hours: float | None = Field(
        default=None, gt=0, le=100_000, description="a trial that takes longer fails; no limit, if not given"
    )
    silent_minutes: float = Field(
        default=30.0,
        gt=0,
        le=100_000,
        description="a trial, or the whole search, that reports nothing for so long is ended and tried again",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise InvalidValue(f"is {shown(self.gpus)}; must be a share up to 1, or a whole number", "gpus")
        for key, value in (("cpus", self.cpus), ("gpus", self.gpus)):
            if self.auto and value != type(self).model_fields[key].default:
                raise InvalidValue(f"is {shown(value)}, and auto is to find it; keep one of the two", key)
        return self


class ConfirmSpec(Frozen):
    """How the best settings are confirmed on fresh seeds."""

    top_k: int = Field(default=1, ge=1, le=100, description="best trials of each arm that are trained again")
    selection_seeds: int = Field(
        default=2, ge=1, le=100, description="seeds by which one of these is chosen, on validation"
    )
    seeds: int = Field(default=5, ge=3, le=1000, description="fresh seeds on which the winners are judged")
    margin: float = Field(default=0.5, ge=0, le=100, description="percentage points within which two arms tie")


class TrackingSpec(Frozen):
    """Where MLflow keeps the runs."""

    uri: Line | None = Field(default=None, description="MLflow tracking URI; a local store, if not given")
    experiment: Line | None = Field(default=None, description="MLflow experiment; the spec's name, if not given")
