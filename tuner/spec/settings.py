"""The sections of a spec that define how the search runs.

They are the budget, the sampler, the scheduler, the resources, the searches, the confirm runs and the tracking.
"""

import itertools
import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tuner.spec.experiment import Line
from tuner.spec.messages import InvalidValue, shown
from tuner.spec.ranges import Frozen


class BudgetSpec(Frozen):
    """How much is trained: trials, epochs and limits."""

    trials: int = Field(ge=1, le=100_000, description="number of trials per arm, in each search")
    epochs: int = Field(ge=1, le=100_000, description="maximum number of epochs per trial")
    epochs_per_search: int | None = Field(
        default=None,
        ge=1,
        le=10**9,
        description="an arm starts no further trial of a search after this many epochs of it; default: no limit",
    )
    batch_size: int = Field(default=100, ge=1, le=1_000_000, description="number of images per update")
    max_hours: float | None = Field(
        default=None, gt=0, le=100_000, description="hours after which no new trial starts; default: no limit"
    )
    max_gpu_hours: float | None = Field(
        default=None, gt=0, le=10**7, description="hours of GPU time after which no new trial starts; default: no limit"
    )


class SamplerSpec(Frozen):
    """The sampler, which proposes the settings."""

    name: Literal["tpe", "random", "qmc", "gp", "cmaes"] = Field(default="tpe", description="the Optuna sampler")
    startup_trials: int | None = Field(
        default=None, ge=1, le=100_000, description="number of random trials before the sampler learns (tpe, gp, cmaes)"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.startup_trials is not None and self.name in ("random", "qmc"):
            raise InvalidValue(
                f"the sampler {self.name} does not learn, so it has no start-up trials; remove this key",
                "startup_trials",
            )
        return self


class SchedulerSpec(Frozen):
    """The scheduler, which stops unpromising trials early."""

    name: Literal["asha", "hyperband", "none"] = Field(
        default="asha",
        description="asha: asynchronous successive halving; hyperband: asha in several brackets; none: no early stop",
    )
    first_rung: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="number of epochs before the first rung; default: a 27th of all epochs, at least 2",
    )
    reduction_factor: int = Field(default=2, ge=2, le=1000, description="one in reduction_factor trials passes a rung")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.name == "none" and self.first_rung is not None:
            raise InvalidValue("the scheduler none has no rungs; remove this key", "first_rung")
        return self

    def first_rung_of(self, epochs: int) -> int:
        """Number of epochs before the first rung, in trials of ``epochs`` epochs."""
        if self.first_rung is not None:
            return self.first_rung
        return max(1, min(max(2, math.ceil(epochs / 27)), epochs - 1))


class ResourcesSpec(Frozen):
    """The resources of one trial, and the number of trials that run at once."""

    auto: bool = Field(
        default=False,
        description="on a GPU, measure how many trials at once are best; without a GPU, one thread per trial",
    )
    cpus: int = Field(default=1, ge=1, le=1024, description="CPU threads per trial")
    gpus: float = Field(default=0.0, ge=0, le=1024, description="GPUs per trial: a share below 1, or a whole number")
    concurrent: int | None = Field(
        default=None, ge=1, le=100_000, description="maximum number of trials at once; default: as many as fit"
    )
    deterministic: bool = Field(
        default=False, description="use only deterministic algorithms on a GPU; a CPU is always deterministic"
    )
    cuda_graph: bool = Field(
        default=True,
        description="on a GPU, capture an update once and replay it; false: plain updates, as a reference for it",
    )
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="fp32, or bf16 for mixed precision")
    retries: int = Field(
        default=1, ge=0, le=100, description="how many times a trial that fails without progress is tried again"
    )
    trial_hours: float | None = Field(
        default=None, gt=0, le=100_000, description="a trial that takes more hours fails; default: no limit"
    )
    silent_minutes: float = Field(
        default=30.0,
        gt=0,
        le=100_000,
        description="after this many minutes without a report, a trial or the whole search is ended and tried again",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise InvalidValue(f"is {shown(self.gpus)}; must be a share of at most 1, or a whole number", "gpus")
        for key, value in (("cpus", self.cpus), ("gpus", self.gpus)):
            if self.auto and value != type(self).model_fields[key].default:
                raise InvalidValue(f"is {shown(value)}, but auto chooses it; keep one of the two", key)
        return self


class ConfirmSpec(Frozen):
    """How the best settings are trained again on fresh seeds."""

    top_k: int = Field(default=1, ge=1, le=100, description="number of best trials per arm that are trained again")
    selection_seeds: int = Field(
        default=2, ge=1, le=100, description="number of seeds that choose one of these trials, by validation results"
    )
    seeds: int = Field(default=5, ge=3, le=1000, description="number of fresh seeds for the verdict on the winners")
    margin: float = Field(
        default=0.5,
        ge=0,
        le=1e9,
        description="two arms tie within this margin: in percentage points, at most 100; for a metric of your own, in "
        "its unit, default 0",
    )


LEAST_SEARCHES = 3
"""Fewest searches per arm that give a verdict."""
MOST_SEARCHES = 1000
"""Largest number of searches per arm."""


class SearchesSpec(Frozen):
    """How often every arm is searched, and when the verdict looks at the results."""

    at: tuple[int, ...] = Field(
        default=(4, 6, 8, 12),
        min_length=1,
        max_length=100,
        description="numbers of searches per arm at which the verdict is computed; an arm that is settled stops there",
    )
    confirm_seeds: int = Field(
        default=1, ge=1, le=2, description="number of fresh seeds on which the winner of each search is trained again"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.at[0] < LEAST_SEARCHES:
            raise InvalidValue(f"the first look is at {self.at[0]}; it must be at {LEAST_SEARCHES} or more", "at", 0)
        for index, (before, after) in enumerate(itertools.pairwise(self.at), start=1):
            if after <= before:
                raise InvalidValue(f"{after} comes after {before}; the numbers must increase", "at", index)
        if self.most > MOST_SEARCHES:
            raise InvalidValue(f"is {self.most}; must be at most {MOST_SEARCHES}", "at", len(self.at) - 1)
        return self

    @property
    def most(self) -> int:
        """The largest number of searches per arm: the last look."""
        return self.at[-1]


MOST_EXPERIMENT_NAME = 246
"""MLflow's databases keep 256 characters, and a simulation adds ``-simulated``."""


def _experiment(value: str) -> str:
    if len(value) > MOST_EXPERIMENT_NAME:
        raise InvalidValue(f"has {len(value)} characters; MLflow takes at most {MOST_EXPERIMENT_NAME} here")
    return value


ExperimentName = Annotated[Line, AfterValidator(_experiment)]


class TrackingSpec(Frozen):
    """Where MLflow stores the runs."""

    uri: Line | None = Field(default=None, description="MLflow tracking URI; default: a local store")
    experiment: ExperimentName | None = Field(
        default=None, description="MLflow experiment; default: the name of the spec"
    )
