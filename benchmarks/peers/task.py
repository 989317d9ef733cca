"""What a peer has to do: the very trials that ``tuner`` trained, and where the same images lie."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainables.config import TrialConfig
from trainables.data.cache import load
from trainables.data.splits import Splits
from trainables.hyper import Hyper
from tuner.jobs.request import spec_of
from tuner.jobs.workspace import Workspace
from tuner.spec.trial_config import trial_config

KNOBS = {"lr": (1e-4, 1e-2), "l2": (1e-6, 1e-2)}
"""What is searched, on a log scale: the ranges of ``adam_l2`` in ``trainables.variants``."""


@dataclass(frozen=True)
class Task:
    """A search.

    Args:
        trials: settings, lengths and data; the data, the model and the lengths are the same in all of them.
        cache: folder of decoded images; they are in it already.
        loader_workers: processes of each ``DataLoader``.
        cpus: that a trial asks for.
    """

    trials: tuple[TrialConfig, ...]
    cache: str
    loader_workers: int
    cpus: int

    @property
    def trial(self) -> TrialConfig:
        """The first trial, for what they have in common."""
        return self.trials[0]

    @property
    def settings(self) -> list[dict[str, float]]:
        """The searched knobs of each trial."""
        return [{knob: getattr(trial.hyper, knob) for knob in KNOBS} for trial in self.trials]

    def splits(self) -> Splits:
        """The images."""
        return load(self.trial.data, Path(self.cache))

    def write(self, file: Path) -> None:
        """As JSON."""
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> "Task":
        """The inverse of ``write``."""
        values: Mapping[str, Any] = json.loads(file.read_text())
        return cls(**{**values, "trials": tuple(map(TrialConfig.from_dict, values["trials"]))})


@dataclass(frozen=True)
class Done:
    """What was trained, of all trials together; and, where a program says so, its seconds from report to end."""

    trials: int
    epochs: int
    first_report: float = 0.0
    last_end: float = 0.0

    def tell(self) -> None:
        """Print it, as the last line."""
        print(json.dumps(asdict(self)), flush=True)

    @classmethod
    def told(cls, output: str) -> "Done":
        """The inverse of ``tell``."""
        return cls(**json.loads(output.strip().splitlines()[-1]))


def task_of(home: Workspace, loader_workers: int, cpus: int) -> Task:
    """The trials of the newest job in a home: those of the search, and then those that confirmed its winners."""
    job = home.job()
    spec = spec_of(job)
    trials = tuple(trial_config(spec, Hyper(**trial.hyper), trial.seed) for trial in job.record().trials.values())
    return Task(trials, str(home.cache), loader_workers, cpus)


def done_by(home: Workspace) -> Done:
    """What the newest job in a home trained."""
    trials = home.job().record().trials.values()
    return Done(len(trials), sum(len(trial.epochs) for trial in trials))
