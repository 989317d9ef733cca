"""Learning curves of TaskSet, which others recorded: 12 text tasks with 1,000 settings of Adam each.

The folder ``curves`` has the files, their source and their licence. A file becomes a ``Table``, so that our own search
can run over it. The value of a report is the negative validation loss, in nats.
"""

import csv
import functools
import gzip
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.tables.table import FOLDER, Row, Table
from trainables.hyper import KNOBS, Hyper
from trainables.space import Float, Plan, Scalar, middle, share
from tuner.spec.arms import Arm
from tuner.spec.search_spec import from_dict

FILES = FOLDER / "curves"
REPORTS = 50
"""Reports of a whole training. The file also has the loss before the training, as report 0."""
SPACE: Mapping[str, Float] = {
    "lr": Float(1e-8, 10.0, "log"),
    "beta1": Float(0.0, 0.9999, "one-minus-log"),
    "beta2": Float(0.0, 0.999999, "one-minus-log"),
    "eps": Float(1e-10, 1e3, "log"),
    "l1": Float(1e-8, 10.0, "log"),
    "l2": Float(1e-8, 10.0, "log"),
    "linear_decay": Float(1e-7, 1e-4, "log"),
    "exponential_decay": Float(1e-6, 1e-3, "log"),
}
"""The space adam8p, in the order of the files' columns (Metz et al. 2020, arXiv:2002.11887, appendix)."""
DEFAULT: Mapping[str, Scalar] = {knob: middle(domain) for knob, domain in SPACE.items()}
"""The first trial. A known-good setting would win many searches of 8 trials, because most settings of this wide
space learn nothing. Then there would be little luck of the search to measure."""
TASKS: Sequence[str] = tuple(sorted(file.name.removesuffix(".csv.gz") for file in FILES.glob("*.csv.gz")))


class TaskArm(Arm):
    """The arm of a task. Three of its knobs are none of ours, so that a trial's config does not show them."""

    def hyper(self, sampled: Mapping[str, Scalar]) -> Hyper:
        """The hyperparameters of a trial, as far as our training has these knobs."""
        return super().hyper({knob: value for knob, value in sampled.items() if knob in KNOBS})


@dataclass(frozen=True)
class TaskTable(Table):
    """A table of 1,000 settings, with a fast search for the nearest one."""

    def nearest(self, knobs: Mapping[str, Scalar]) -> Row:
        """The nearest recorded setting, in the unit cube of the search space."""
        gaps = self._places_RK - _place(knobs)
        return self.rows[int(np.argmin((gaps**2).sum(axis=1)))]

    @functools.cached_property
    def _places_RK(self) -> NDArray[np.float64]:
        return np.array([_place(row.knobs) for row in self.rows])


@functools.cache
def read(name: str) -> TaskTable:
    """The table of a task.

    Args:
        name: one of ``TASKS``.
    """
    spec = from_dict(
        {
            "name": "taskset",
            "data": {"name": "digits"},
            "model": {"name": "elu_net"},
            "baseline": "adam_l2",
            "arms": ["adam_l2", "adamw"],
            "budget": {"trials": 8, "epochs": REPORTS},
        }
    )
    arm = TaskArm("adam_l2", "adam_l2", SPACE, {}, DEFAULT)
    return TaskTable(name, spec, Plan(REPORTS, 1), arm, tuple(_rows(name)))


def _rows(name: str) -> Iterator[Row]:
    with gzip.open(FILES / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        for number, values in enumerate(csv.reader(file)):
            if number:
                settings, losses = values[: len(SPACE)], [float(value) for value in values[len(SPACE) :]]
                knobs = dict(zip(SPACE, map(float, settings), strict=True))
                yield Row(number - 1, knobs, tuple(_curve(losses)))


def _curve(losses: Sequence[float]) -> Sequence[float]:
    """The values of reports 1 to the last finite one. A training that diverges at once has the value of report 0."""
    end = next((report for report, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
    return [-loss for loss in losses[1:end]] or [-losses[0]]


def _place(knobs: Mapping[str, Scalar]) -> NDArray[np.float64]:
    return np.array([share(domain.scale, domain.low, domain.high, knobs[knob]) for knob, domain in SPACE.items()])
