"""One run of the study: a case, a choice of its defects, and a seed.

A run is trained once, and a CSV file keeps its epochs.
"""

import csv
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from studies.article.cases import CASES, Outcome, Size, config_of
from studies.article.defects import OF_RULE, OF_SCHEDULE, Defect
from studies.article.rules import CodedAdam
from studies.article.schedule import CodedSchedule
from trainables.config import TrialConfig
from trainables.data.splits import Arrays, Splits
from trainables.training.trainer import Training
from trainables.training.updates import Eager

RESULTS = Path("docs/results/article")
COLUMNS = ("epoch", "train_loss", "train_acc", "test_loss", "test_acc", "lr", "weight_norm", "seconds")
PUBLISHED, CORRECTED, WITHOUT, ONLY = "published", "corrected", "without", "only"


@dataclass(frozen=True)
class Run:
    """A run of the study. Its name, also for its file, looks like ``case1.without-doubled-slope.seed0``."""

    case: str
    setting: str
    seed: int

    def __str__(self) -> str:
        return f"{self.case}.{self.setting}.seed{self.seed}"

    @property
    def defects(self) -> frozenset[Defect]:
        """The defects that are on."""
        all_of_case = CASES[self.case].defects
        kind, _, name = self.setting.partition("-")
        if kind == WITHOUT:
            return all_of_case - {Defect(name)}
        if kind == ONLY:
            return frozenset({Defect(name)})
        return {PUBLISHED: all_of_case, CORRECTED: frozenset[Defect]()}[kind]


def all_runs(seeds: int) -> Iterator[Run]:
    """Every run of the study. The published and the corrected runs come first.

    The baseline has no defects, so it is the published and the corrected run at once. Runs with only
    one defect on, or with one defect off, use the first seed only.
    """
    for seed in range(seeds):
        for case, row in CASES.items():
            yield Run(case, PUBLISHED, seed)
            if row.defects:
                yield Run(case, CORRECTED, seed)
        if seed == 0:
            for kind in (WITHOUT, ONLY):
                for case, row in CASES.items():
                    yield from (Run(case, f"{kind}-{defect}", seed) for defect in sorted(row.defects))


def training_of(run: Run, size: Size, splits: Splits, config: TrialConfig, device: str = "cpu") -> Training:
    """The training of ``trainables``, with other parts where the defects of the run change them."""
    training = Training(config, splits, device, Eager)
    updates = training.updates
    defects = run.defects
    if defects & OF_SCHEDULE:
        updates.schedule = CodedSchedule(config.hyper, training.plan, defects, size.lr_factor, CASES[run.case].decay)
    if defects & OF_RULE:
        updates.optimizer = CodedAdam(training.optimizer.param_groups, defects)
    return training


def as_the_article(splits: Splits) -> Splits:
    """The splits as in the article, which had no validation split.

    All training images are for training, and the test images are evaluated after every epoch.
    """
    train = Arrays(
        np.concatenate([splits.train.images_BHWC, splits.val.images_BHWC]),
        np.concatenate([splits.train.labels_B, splits.val.labels_B]),
    )
    return dataclasses.replace(splits, train=train, val=splits.test)


def train(run: Run, size: Size, splits: Splits, data: str | None, device: str = "cpu") -> list[dict[str, float]]:
    """Train the run to its end, even if it diverges, and return one row per epoch."""
    config = config_of(CASES[run.case], run.defects, size, run.seed, data)
    training = training_of(run, size, as_the_article(splits), config, device)
    rows = []
    for _ in range(size.epochs):
        report = training.run_epoch()
        norm = torch.nn.utils.get_total_norm([p.detach() for p in training.model.parameters()]).item()
        rows.append(
            {
                "epoch": report.epoch,
                "train_loss": report.train_loss,
                "train_acc": report.train_acc,
                "test_loss": report.val_loss,
                "test_acc": report.val_acc,
                "lr": report.lr,
                "weight_norm": norm,
                "seconds": report.seconds,
            }
        )
    return rows


def path_of(run: Run, folder: Path) -> Path:
    """The CSV file of the run."""
    return folder / f"{run}.csv"


def write(rows: list[dict[str, float]], path: Path) -> None:
    """Write the rows. The file appears complete, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([f"{row[column]:.6g}" for column in COLUMNS] for row in rows)
    os.replace(partial, path)


def read(path: Path) -> list[dict[str, float]]:
    """Read the rows of a run or of a published log."""
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def outcome(rows: list[dict[str, float]]) -> Outcome:
    """The result of the last epoch."""
    return Outcome(**{field.name: rows[-1][field.name] for field in dataclasses.fields(Outcome)})
