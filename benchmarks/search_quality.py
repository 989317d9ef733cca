"""Epochs that our search needs to reach a target, against random search, replayed over recorded tables.

The target of a table was fixed before the first search. It is the accuracy that the best 3 % of its settings have at
full length. A search has reached the target when a trial of full length has reached it, because only such a trial can
be chosen.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.measuring import Comparison, Goal, Result, say
from benchmarks.tables.replay import RANDOM, Reached, Search, replay
from benchmarks.tables.table import TABLES, Table, read

GOOD = 0.03
"""The share of the settings that defines the target."""
SEEDS_A_PAIR = 10
PROCESSES = 2
RESAMPLES = 10_000
PEER = "random search without early stopping"

Runs = Mapping[str, Sequence[Reached]]


def measure(pairs: int, tables: Sequence[str] = tuple(TABLES), seeds_a_pair: int = SEEDS_A_PAIR) -> Result:
    """Search every table with our defaults and at random, with ``seeds_a_pair`` seeds per pair."""
    seeds = range(pairs * seeds_a_pair)
    ours, theirs = searched(tables, Search(), seeds), searched(tables, RANDOM, seeds)
    comparisons = [
        Comparison(f"epochs to the target, {name}", PEER, "epochs", epochs(ours[name]), epochs(theirs[name]), NOT_WORSE)
        for name in tables
    ]
    title = f"epochs to the target, geometric mean of {len(tables)} tables"
    comparisons.insert(0, Comparison(title, PEER, "epochs", means(ours), means(theirs), Goal(0.5, "most")))
    return Result(
        f"Asynchronous searches with {Search().concurrent} trials at once replay recorded learning curves, with"
        f" {len(seeds)} seeds per table. A setting that was not recorded has the curve of the nearest recorded one. The"
        " target is the accuracy that the best 3 % of the settings reach at full length.",
        tuple(comparisons),
        {
            "ratios of medians, and 95 % intervals": ratios(ours, theirs),
            "tables": {name: described(read(name)) for name in tables},
            "searches that never got there": {
                name: [sum(not run.target for run in runs[name]) for runs in (ours, theirs)] for name in tables
            },
        },
    )


NOT_WORSE = Goal(1.1, "most")


def target(table: Table) -> float:
    """The target for the searches of a table."""
    return table.finals()[max(1, round(GOOD * len(table.rows))) - 1]


def searched(tables: Sequence[str], search: Search, seeds: Sequence[int]) -> dict[str, list[Reached]]:
    """Search every table with every seed."""
    runs = [(name, seed) for name in tables for seed in seeds]
    with ProcessPoolExecutor(PROCESSES) as pool:
        found = list(pool.map(_search, *zip(*((name, search, seed) for name, seed in runs), strict=True), chunksize=5))
    say(f"{len(runs)} searches: {search.sampler.name}, {search.scheduler.name}")
    return {
        name: [reached for (table, _), reached in zip(runs, found, strict=True) if table == name] for name in tables
    }


def epochs(runs: Sequence[Reached]) -> tuple[float, ...]:
    """The epochs that each search spent."""
    return tuple(float(run.epochs) for run in runs)


def means(runs: Runs) -> tuple[float, ...]:
    """For each seed, the geometric mean over the tables of the epochs that the searches spent."""
    return tuple(statistics.geometric_mean(seed) for seed in zip(*map(epochs, runs.values()), strict=True))


def ratios(ours: Runs, theirs: Runs) -> dict[str, list[float]]:
    """Ratios ours / theirs of the medians over seeds, with 95 % bootstrap intervals over seeds.

    Returns:
        Ratio, low end and high end, for each table and for the geometric mean of all tables.
    """
    rng = np.random.default_rng(0)
    logs = {name: _log_ratios(epochs(ours[name]), epochs(theirs[name]), rng) for name in ours}
    logs = {"geometric mean": np.mean(list(logs.values()), axis=0), **logs}
    return {
        name: [round(math.exp(value), 3) for value in (log[0], *np.quantile(log[1:], [0.025, 0.975]))]
        for name, log in logs.items()
    }


def described(table: Table) -> dict[str, object]:
    """The size of a table, its target, and the rank correlation of early and final accuracy."""
    whole = [row.curve for row in table.rows if len(row.curve) == table.plan.epochs]
    first = table.spec.scheduler.first_rung_of(table.plan.epochs)
    finals = [curve[-1] for curve in whole]
    return {
        "settings": len(table.rows),
        "diverged": len(table.rows) - len(whole),
        "epochs": table.plan.epochs,
        "target": target(table),
        "settings at the target": sum(final >= target(table) for final in finals),
        f"rank correlation of epoch {first} with the last": round(
            float(spearmanr([curve[first - 1] for curve in whole], finals).statistic), 2
        ),
    }


def _search(name: str, search: Search, seed: int) -> Reached:
    table = read(name)
    return replay(table, target(table), search, seed)


def _log_ratios(ours: Sequence[float], theirs: Sequence[float], rng: np.random.Generator) -> NDArray[np.float64]:
    """The log ratio of the medians, followed by the log ratio of every resample."""
    drawn = rng.integers(len(ours), size=(2, RESAMPLES, len(ours)))
    drawn = np.concatenate([np.tile(np.arange(len(ours)), (2, 1, 1)), drawn], axis=1)
    of_ours, of_theirs = (
        np.median(np.asarray(side)[index], axis=1) for side, index in zip((ours, theirs), drawn, strict=True)
    )
    found: NDArray[np.float64] = np.log(of_ours / of_theirs)
    return found
