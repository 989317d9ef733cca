"""The task of a peer: exactly the trials that ``tuner`` trained, and the folder of the same images."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainables.config import TrialConfig
from trainables.data.cache import load
from trainables.data.splits import Splits
from tuner.jobs.request import spec_of
from tuner.jobs.workspace import Workspace
from tuner.spec.trial_config import image_trial

KNOBS = {"lr": (1e-4, 1e-2), "l2": (1e-6, 1e-2)}
"""The searched knobs and their ranges, on a log scale, as for ``adam_l2`` in ``trainables.variants``."""


@dataclass(frozen=True)
class Task:
    """The task of a search.

    Args:
        trials: settings, lengths and data of each trial. All trials have the same data, model and length.
        cache: the folder that already holds the decoded images.
        loader_workers: processes per ``DataLoader``.
        cpus: CPUs per trial.
    """

    trials: tuple[TrialConfig, ...]
    cache: str
    loader_workers: int
    cpus: int

    @property
    def trial(self) -> TrialConfig:
        """The first trial, for the values that all trials share."""
        return self.trials[0]

    @property
    def settings(self) -> list[dict[str, float]]:
        """The searched knobs of each trial."""
        return [{knob: getattr(trial.hyper, knob) for knob in KNOBS} for trial in self.trials]

    def splits(self) -> Splits:
        """The images."""
        return load(self.trial.data, Path(self.cache))

    def write(self, file: Path) -> None:
        """Write the task as JSON."""
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> "Task":
        """Read a task that ``write`` wrote."""
        values: Mapping[str, Any] = json.loads(file.read_text())
        return cls(**{**values, "trials": tuple(map(TrialConfig.from_dict, values["trials"]))})


@dataclass(frozen=True)
class Done:
    """The numbers of trained trials and epochs, and the times of the first report and the last end, if measured."""

    trials: int
    epochs: int
    first_report: float = 0.0
    last_end: float = 0.0

    def tell(self) -> None:
        """Print it as JSON, as the last line of the output."""
        print(json.dumps(asdict(self)), flush=True)

    @classmethod
    def told(cls, output: str) -> "Done":
        """Read it from the output of a program that called ``tell``."""
        return cls(**json.loads(output.strip().splitlines()[-1]))


def task_of(home: Workspace, loader_workers: int, cpus: int) -> Task:
    """The trials of the newest job in a workspace: the trials of the search, then the confirm runs of its winners."""
    job = home.job()
    spec = spec_of(job)
    record = job.record()
    trials = tuple(
        image_trial(spec, trial.arm, trial.hyper, trial.seed, contiguous=record.contiguous)
        for trial in record.trials.values()
    )
    return Task(trials, str(home.cache), loader_workers, cpus)


def done_by(home: Workspace) -> Done:
    """The numbers of trials and epochs that the newest job in a workspace trained."""
    trials = home.job().record().trials.values()
    return Done(len(trials), sum(len(trial.epochs) for trial in trials))
