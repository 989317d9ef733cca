"""One trial to run and how it ended: what a source of trials and the loop that runs them say to each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from trainables.config import TrialConfig
from trainables.space import Scalar
from tuner.jobs.record import Stage, State
from tuner.search.asha import JudgedEpochs


@dataclass(frozen=True)
class TrialRequest:
    """One trial to run.

    Args:
        key: its name in the job.
        stage: what it is for.
        arm: the arm's name.
        number: of the setting in the arm's study.
        trial: what to train.
        knobs: what the arm's study proposed; empty where the setting comes from a trial.
        round: of confirm runs, 0 before them.
        judged: for the scheduler; None where no trial is stopped early.
        weights_path: where to leave the final weights: a path or an S3 URL.
    """

    key: str
    stage: Stage
    arm: str
    number: int
    trial: TrialConfig
    knobs: Mapping[str, Scalar] = field(default_factory=dict)
    round: int = 0
    judged: JudgedEpochs | None = None
    weights_path: str | None = None


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended: its state, each epoch's reported values, and why it failed."""

    state: State
    epochs: tuple[Mapping[str, Any], ...]
    reason: str | None = None


class TrialSource(Protocol):
    """Where trials come from."""

    def next(self) -> TrialRequest | None:
        """The next trial to start, or None when there are no more."""

    def ended(self, request: TrialRequest, ended: TrialOutcome) -> None:
        """A trial that ``next`` gave has ended."""
