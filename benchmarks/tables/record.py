"""Trains the settings of a table, and writes each setting as a row when its training ends.

If the program is started again, it resumes with the missing rows. The settings are the points of a scrambled Sobol
sequence in the search space of the arm, so any number of rows is a usable table. The accuracies are of validation
images only.

    TUNER_DATA=FOLDER python -m benchmarks.tables.record digits-adam_l2 cifar10-adam_l2 --rows 64
"""

import argparse
import csv
import io
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from scipy.stats import qmc

from benchmarks.conditions import conditions
from benchmarks.tables.table import TABLES, arm_of, path
from benchmarks.tables.unit import setting
from trainables.config import TrialConfig, derive_seed
from trainables.data.cache import load
from trainables.data.splits import Splits
from trainables.space import Scalar
from trainables.training.trainer import Training, plan_of
from tuner.spec.trial_config import data_request, image_trial

BLOCK = 16
"""Rows of a table before the next table's turn. After an interruption, no table is far behind the others."""


def main() -> None:
    """Record until every table has its rows, or the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="TABLE", default=list(TABLES), help=", ".join(TABLES))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--cache", type=Path, default=Path("tuner-runs/cache"), help="folder of decoded data")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="minutes after which no setting starts")
    asked = parser.parse_args()
    deadline = time.monotonic() + 60 * asked.minutes
    for rows in range(BLOCK, asked.rows + BLOCK, BLOCK):
        for name in asked.names:
            record(name, min(rows, asked.rows), asked.cache, deadline)


def record(name: str, rows: int, cache: Path, deadline: float) -> None:
    """Train the missing settings among the first ``rows`` of the table, until the deadline."""
    spec, plan, arm = arm_of(name)
    file = path(name)
    done = len(_lines(file)) if file.exists() else 0
    if done >= rows or time.monotonic() > deadline:
        return
    splits = load(data_request(spec), cache)
    if not file.exists():
        file.write_text(header(name, splits), encoding="utf-8")
    sequence = qmc.Sobol(len(arm.space), scramble=True, rng=derive_seed(spec.seed, "table", name))
    # The points are balanced in powers of two. The first points do not depend on the number of points.
    points = sequence.random_base2(math.ceil(math.log2(rows)))[done:rows]
    for number, point in enumerate(points, start=done):
        if time.monotonic() > deadline:
            return
        knobs = setting(arm.space, point)
        config = image_trial(spec, arm.name, arm.setting(knobs), spec.seed)
        assert plan_of(config, len(splits.train.labels_B)) == plan
        _append(file, [number, *knobs.values(), *(f"{acc:.5g}" for acc in curve(config, splits))])


def curve(config: TrialConfig, splits: Splits) -> Iterator[float]:
    """Validation accuracy after each epoch. It ends early if the training diverges."""
    training = Training(config, splits)
    for _ in range(config.epochs):
        report = training.run_epoch()
        yield report.val_acc
        if report.diverged is not None:
            return


def header(name: str, splits: Splits) -> str:
    """The comment lines of a table: how it was made, and its columns."""
    spec, plan, arm = arm_of(name)
    made = conditions()
    versions = made["versions"]
    assert isinstance(versions, dict)
    lines = [
        f"# python -m benchmarks.tables.record {name}",
        f"# spec {TABLES[name][0]}.yaml, arm {arm.name}: {plan.epochs} epochs of {plan.steps_per_epoch} updates, seed"
        f" {spec.seed} (weights, data order, split)",
        f"# data {spec.data.name}, fingerprint {splits.fingerprint[:16]}; {len(splits.val.labels_B)} validation images",
        f"# {made['system']}, Python {made['python']}, torch {versions['torch']}, one thread",
        f"# columns: number, {', '.join(arm.space)}, validation accuracy after each epoch; fewer where it diverged",
    ]
    return "\n".join(lines) + "\n"


def _lines(file: Path) -> Sequence[str]:
    return [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def _append(file: Path, row: Sequence[Scalar]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    with file.open("a", encoding="utf-8") as out:
        out.write(text.getvalue())


if __name__ == "__main__":
    main()
