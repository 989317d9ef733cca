"""A table: a CSV file with settings that were really trained, and their validation accuracy after each epoch.

A row is a setting. It holds the setting's number in the sequence from which the settings were drawn, its knobs, and its
accuracies. A setting that diverged has fewer accuracies than the trials have epochs. Lines that begin with ``#``
describe how the table was made.
"""

import csv
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables.unit import distance
from trainables.space import Choice, Domain, Float, Int, Plan, Scalar
from tuner.spec.arms import Arm, arms
from tuner.spec.search_spec import SearchSpec, load

FOLDER = Path(__file__).parent
TRAIN_IMAGES: Mapping[str, int] = {"digits": 1078, "late": 1078, "cifar10": 1500}
"""Spec -> number of its training images. With it, the length of a trial is known without decoding the data."""
TABLES: Mapping[str, tuple[str, str]] = {
    "digits-adam_l2": ("digits", "adam_l2"),
    "digits-restarts": ("digits", "adamw_restarts"),
    "late-noam": ("late", "noam"),
    "late-cosine": ("late", "adamw_cosine"),
    "cifar10-adam_l2": ("cifar10", "adam_l2"),
    "cifar10-cosine": ("cifar10", "adamw_cosine"),
}
"""Table -> its spec, a file in this folder, and the arm whose search space it covers."""


@dataclass(frozen=True)
class Row:
    """A trained setting: its number, its knobs, and its validation accuracy after each epoch."""

    number: int
    knobs: Mapping[str, Scalar]
    curve: tuple[float, ...]


@dataclass(frozen=True)
class Table:
    """Recorded settings of one arm of a spec."""

    name: str
    spec: SearchSpec
    plan: Plan
    arm: Arm
    rows: tuple[Row, ...]

    def nearest(self, knobs: Mapping[str, Scalar]) -> Row:
        """The nearest recorded setting, in the unit cube of the search space."""
        return min(self.rows, key=lambda row: distance(self.arm.space, row.knobs, knobs))

    def finals(self) -> list[float]:
        """The final accuracy of each setting that did not diverge, the best first."""
        return sorted((row.curve[-1] for row in self.rows if len(row.curve) == self.plan.epochs), reverse=True)


def path(name: str) -> Path:
    """The file of the table."""
    return FOLDER / f"{name}.csv"


@functools.cache
def read(name: str) -> Table:
    """A recorded table."""
    spec, plan, arm = arm_of(name)
    return Table(name, spec, plan, arm, tuple(_rows(name, arm.space)))


def arm_of(name: str) -> tuple[SearchSpec, Plan, Arm]:
    """The spec of a table, the length of its trials, and its arm."""
    spec_name, arm_name = TABLES[name]
    spec = load(FOLDER / f"{spec_name}.yaml")
    plan = Plan(spec.budget.epochs, TRAIN_IMAGES[spec_name] // spec.budget.batch_size)
    return spec, plan, next(arm for arm in arms(spec, plan) if arm.name == arm_name)


def _rows(name: str, space: Mapping[str, Domain]) -> Iterator[Row]:
    types: dict[str, type[int] | type[float] | type[str]] = {
        knob: {Choice: str, Float: float, Int: int}[type(domain)] for knob, domain in space.items()
    }
    with path(name).open(encoding="utf-8", newline="") as file:
        for number, *values in csv.reader(line for line in file if not line.startswith("#")):
            knobs: dict[str, Scalar] = {
                knob: kind(value) for (knob, kind), value in zip(types.items(), values, strict=False)
            }
            yield Row(int(number), knobs, tuple(map(float, values[len(types) :])))
