"""The seam between search and execution: a trial to run, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from trainables.config import TrialConfig
from trainables.own.trial import OwnTrial
from trainables.report import Report
from trainables.space import Scalar
from tuner.search.asha import JudgedEpochs
from tuner.storage.events import Stage, State, setting_label


@dataclass(frozen=True)
class TrialRequest:
    """One trial to run.

    Args:
        key: its name in the job.
        stage: its purpose.
        arm: the arm's name.
        number: of the setting in the arm's search.
        trial: what to train.
        setting: every knob and its value; the trial was made from it.
        knobs: the searched knobs, as the sampler proposed them; empty if the setting comes from an earlier trial.
        search: which of the arm's searches the setting comes from, from 1; 0 in a job with one search per arm.
        round: of confirm runs, 0 before them.
        judged: where the early stopper judges it; None for trials that are never stopped early.
        weights_path: where to write the final weights: a path or an S3 URL.
    """

    key: str
    stage: Stage
    arm: str
    number: int
    trial: TrialConfig | OwnTrial
    setting: Mapping[str, Scalar]
    knobs: Mapping[str, Scalar] = field(default_factory=dict)
    search: int = 0
    round: int = 0
    judged: JudgedEpochs | None = None
    weights_path: str | None = None

    @property
    def image_trial(self) -> TrialConfig:
        """The trial of an arm on the built-in training."""
        assert isinstance(self.trial, TrialConfig), "no own trainable"
        return self.trial


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended: its state, its epochs, and why it failed or diverged."""

    state: State
    epochs: tuple[Report, ...]
    reason: str | None = None


def search_key(arm: str, search: int, number: int) -> str:
    """The key of a trial of the search."""
    return f"{Stage.SEARCH}/{arm}/{setting_label(search, number)}"


class TrialSource(Protocol):
    """Where trials come from."""

    def next(self) -> TrialRequest | None:
        """The next trial to start, or None when there are no more."""

    def ended(self, request: TrialRequest, outcome: TrialOutcome) -> None:
        """A trial that ``next`` gave has ended."""
