"""A bank: many independent searches of one table, each with the setting that won and the epochs that it spent.

Simulated jobs draw their searches from a bank. So thousands of jobs take seconds. The searches are whole ones, with our
own sampler, early stopping and dispatcher, as in ``replay``. They differ only in their seed, which is their line in the
file, from 0.

    python -m benchmarks.tables.bank cifar10-adam_l2 digits-adam_l2 --searches 1000
"""

import argparse
import csv
import io
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.conditions import conditions
from benchmarks.measuring import say
from benchmarks.tables import table as recorded
from benchmarks.tables import taskset
from benchmarks.tables.replay import run
from benchmarks.tables.table import FOLDER, TABLES, Table
from tuner.search.winners import ranked

NAMES: Sequence[str] = (*TABLES, *taskset.TASKS)
"""All tables that have a bank."""
TRIALS = 8
"""Trials per search."""
CONCURRENT = 4
"""Trials at once."""
SEARCHES = 1000
"""Searches per bank."""
POINTS = 100.0
"""The fraction 1 in points. For a loss, a point is a hundredth of a nat."""


class Search(NamedTuple):
    """One search: the number of the setting that won, and the epochs that all trials trained.

    ``winner`` is None if every trial diverged.
    """

    winner: int | None
    epochs: int


@dataclass(frozen=True)
class Bank:
    """The searches of one table.

    Args:
        name: name of the table.
        values_S: for each search, the recorded final value of its winner, in points. A search without a winner has the
            worst final value of the table.
        epochs_S: epochs that each search spent.
        epochs: epochs of one whole training, such as a confirm run.
    """

    name: str
    values_S: NDArray[np.float64]
    epochs_S: NDArray[np.int64]
    epochs: int


def main() -> None:
    """Search every table and write the banks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="TABLE", default=list(NAMES), help=", ".join(NAMES))
    parser.add_argument("--searches", type=int, default=SEARCHES)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--to", type=Path, default=FOLDER / "searches", help="folder of the banks")
    asked = parser.parse_args()
    asked.to.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(asked.processes) as pool:
        for name in asked.names:
            seeds = range(asked.searches)
            found = list(pool.map(_search, [name] * len(seeds), seeds, chunksize=20))
            path(name, asked.to).write_text(_text(name, found), encoding="utf-8")
            say(f"{name}: {len(found)} searches, {len({one.winner for one in found})} different winners")


def path(name: str, folder: Path = FOLDER / "searches") -> Path:
    """The file of a bank."""
    return folder / f"{name}.csv"


def table_of(name: str) -> Table:
    """The recorded table with this name, one of ``NAMES``."""
    return taskset.read(name) if name in taskset.TASKS else recorded.read(name)


def searches(name: str) -> Sequence[Search]:
    """The searches in the file of a bank."""
    with path(name).open(encoding="utf-8", newline="") as file:
        rows = csv.reader(line for line in file if not line.startswith("#"))
        return [Search(int(winner) if winner else None, int(epochs)) for winner, epochs in rows]


def read(name: str) -> Bank:
    """A bank from its file."""
    table, found = table_of(name), searches(name)
    finals = {row.number: row.curve[-1] for row in table.rows if len(row.curve) == table.plan.epochs}
    worst = min(finals.values())
    values = [worst if one.winner is None else finals[one.winner] for one in found]
    return Bank(name, POINTS * np.array(values), np.array([one.epochs for one in found]), table.plan.epochs)


def search(table: Table, seed: int) -> Search:
    """Run one search of ``TRIALS`` trials over a table.

    Args:
        table: the recorded settings.
        seed: seed of the search, at least 0.
    """
    budget = table.spec.budget.model_copy(update={"trials": TRIALS})
    spec = table.spec.model_copy(update={"seed": seed, "budget": budget})
    record = run(table, spec, CONCURRENT)
    best = ranked(record, spec, table.arm.name)
    winner = table.nearest(best[0].knobs).number if best else None
    return Search(winner, sum(len(trial.epochs) for trial in record.trials.values()))


def _search(name: str, seed: int) -> Search:
    return search(table_of(name), seed)


def _text(name: str, found: Sequence[Search]) -> str:
    made = conditions()
    versions = made["versions"]
    assert isinstance(versions, dict)
    text = io.StringIO()
    text.write(f"# python -m benchmarks.tables.bank {name} --searches {len(found)}\n")
    text.write(f"# {TRIALS} trials per search, {CONCURRENT} at once, ASHA and TPE; line n has seed n, from 0\n")
    text.write(f"# Python {made['python']}, optuna {versions['optuna']}\n")
    text.write("# columns: number of the winning setting (empty if every trial diverged), epochs of all trials\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(("" if one.winner is None else one.winner, one.epochs) for one in found)
    return text.getvalue()


if __name__ == "__main__":
    main()
