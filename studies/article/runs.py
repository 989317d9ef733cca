"""One run of the study: a case, which of its defects are on, a seed; trained, and kept as a CSV file of its epochs."""

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
    """Which run: ``case1.without-doubled-slope.seed0`` is its name, and its file's."""

    case: str
    setting: str
    seed: int

    def __str__(self) -> str:
        return f"{self.case}.{self.setting}.seed{self.seed}"

    @property
    def defects(self) -> frozenset[Defect]:
        """Those that are on."""
        all_of_case = CASES[self.case].defects
        kind, _, name = self.setting.partition("-")
        if kind == WITHOUT:
            return all_of_case - {Defect(name)}
        if kind == ONLY:
            return frozenset({Defect(name)})
        return {PUBLISHED: all_of_case, CORRECTED: frozenset[Defect]()}[kind]


def all_runs(seeds: int) -> Iterator[Run]:
    """Every run of the study, those first that the others are held against.

    The baseline has no defects and so is published and corrected at once. One defect at a time goes on or off with
    the first seed only.
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
    """``trainables``' own training, with the parts exchanged that the run's defects change."""
    training = Training(config, splits, device, Eager)
    updates = training.updates
    defects = run.defects
    if defects & OF_SCHEDULE:
        updates.schedule = CodedSchedule(config.hyper, training.plan, defects, size.lr_factor, CASES[run.case].decay)
    if defects & OF_RULE:
        updates.optimizer = CodedAdam(training.optimizer.param_groups, defects)
    return training


def as_the_article(splits: Splits) -> Splits:
    """All training images trained on, and the test images looked at after every epoch: it had no validation split."""
    train = Arrays(
        np.concatenate([splits.train.images_BHWC, splits.val.images_BHWC]),
        np.concatenate([splits.train.labels_B, splits.val.labels_B]),
    )
    return dataclasses.replace(splits, train=train, val=splits.test)


def train(run: Run, size: Size, splits: Splits, data: str | None, device: str = "cpu") -> list[dict[str, float]]:
    """Train the run to its end, whatever comes; returns a row an epoch."""
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
    """Where the run's epochs are kept."""
    return folder / f"{run}.csv"


def write(rows: list[dict[str, float]], path: Path) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([f"{row[column]:.6g}" for column in COLUMNS] for row in rows)
    os.replace(partial, path)


def read(path: Path) -> list[dict[str, float]]:
    """The rows of a run, or of a published log."""
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def outcome(rows: list[dict[str, float]]) -> Outcome:
    """The last epoch."""
    return Outcome(**{field.name: rows[-1][field.name] for field in dataclasses.fields(Outcome)})
