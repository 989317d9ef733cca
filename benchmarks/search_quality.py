"""Epochs that a search needs to reach a target, replayed over recorded tables: ours, and other ways to search.

The target of a table was fixed before the first search: the accuracy that the best 3 % of its settings have at full
length, or the loss of the tenth best of TaskSet's 1,000. A search has reached it when a trial of full length has,
because only such a trial can be chosen. A search that has not reached it after the epochs of ``MOST`` whole trainings
is lost. It counts with the epochs that it spent, so means over lost searches are too small.

The defaults were chosen on the seeds below ``FIRST``. The figures are of the seeds from there on.
"""

import functools
import logging
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from scipy.stats import spearmanr

from benchmarks.measuring import Result, say
from benchmarks.peers.searchers import OPTUNA, SEARCHERS, SYNE_TUNE, Make, raced
from benchmarks.peers.syne_tune_local import REQUIREMENTS
from benchmarks.tables import taskset
from benchmarks.tables.bank import table_of
from benchmarks.tables.replay import MOST, RANDOM, Reached, Search, replay
from benchmarks.tables.table import TABLES, Table
from tuner.spec.settings import SamplerSpec, SchedulerSpec

GOOD = 0.03
"""The share of the settings of a table that defines its target."""
TENTH = 10
"""The rank of the setting that defines the target of a TaskSet table."""
FIRST = 100
"""The first seed of the figures."""
SEEDS_A_PAIR = 10
PROCESSES = 2
RESAMPLES = 2000

BASE, OURS = "random search", "tuner"
BEFORE = "tuner before: TPE without a distance, ASHA by thirds"
NEAR = "tuner without the distance"
NOT_NEEDED = ("huggingface_hub", "xgboost")
"""Packages that Syne Tune 0.16 imports, although this searcher does not use them."""

Way = Callable[[Table, float, int], Reached]
"""A way to search: a function of (table, target, seed)."""
Runs = Mapping[str, Sequence[Reached]]
"""Table to its searches, one per seed."""


def _replayed(search: Search, table: Table, target: float, seed: int) -> Reached:
    return replay(table, target, search, seed)


def _raced(make: Make, table: Table, target: float, seed: int) -> Reached:
    return raced(table, target, make, seed)


def _as_before(table: Table, target: float, seed: int) -> Reached:
    first = max(2, math.ceil(table.plan.epochs / 9))
    return replay(table, target, Search(scheduler=SchedulerSpec(first_rung=first, reduction_factor=3), spacing=0), seed)


WAYS: Mapping[str, Way] = {
    BASE: partial(_replayed, RANDOM),
    "random search and ASHA": partial(_replayed, Search(SamplerSpec(name="random"))),
    BEFORE: _as_before,
    NEAR: partial(_replayed, Search(spacing=0)),
    OURS: partial(_replayed, Search()),
    **{name: partial(_raced, make) for name, make in SEARCHERS.items()},
}
"""Ways to search by name. Each is measured over every table."""


FEWER: Mapping[str, int] = {
    BEFORE: 5,
    NEAR: 5,
    OPTUNA: 5,
    SYNE_TUNE: 100,
}
"""Ways that get only one seed of this many: a lost search takes long, and Syne Tune needs 0.3 s for each proposal."""


def measure(
    pairs: int,
    names: Sequence[str] = tuple(TABLES),
    seeds_a_pair: int = SEEDS_A_PAIR,
    ways: Sequence[str] = tuple(WAYS),
) -> Result:
    """Search every table in every way, with ``seeds_a_pair`` seeds per pair.

    Args:
        names: the tables: the six of our own trainings, or some of TaskSet's.
    """
    seeds = range(FIRST, FIRST + pairs * seeds_a_pair)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        if SYNE_TUNE in ways:
            _install(Path(folder))
        found = {way: _searched(way, names, seeds, folder) for way in ways}
    rows = [[way, *_ratios(found[way], found[BASE]), _lost(found[way])] for way in ways]
    return Result(
        HOW.format(tables=len(names), first=seeds[0], last=seeds[-1], most=MOST),
        details={
            "epochs": {name: {way: _summary(runs[name]) for way, runs in found.items()} for name in names},
            "tables": {name: described(table_of(name)) for name in names},
        },
        tables={f"{len(names)} tables": [["", "ratio of means", "ratio of medians", "lost"], *rows]},
    )


HOW = (
    "Asynchronous searches with 4 trials at once replay recorded learning curves, with seeds {first} to {last} for each"
    " of {tables} tables. All begin with the same random setting. A setting that was not recorded has the curve of the"
    " nearest recorded one. The target is the accuracy that the best 3 % of the settings reach at full length; on"
    " TaskSet, the loss of the tenth best of 1,000. A search is lost after the epochs of {most} whole trainings. The"
    " ratios are to random search without early stopping: for each table the ratio of the means (medians) over the"
    " seeds, then the geometric mean over the tables, with its 95 % bootstrap interval over seeds. Slow ways have fewer"
    " seeds, the first ones, and are compared with random search on the same seeds."
)


def target(table: Table) -> float:
    """The target for the searches of a table."""
    rank = TENTH if table.name in taskset.TASKS else max(2, round(GOOD * len(table.rows)))
    return table.finals()[rank - 1]


def ratios(ours: Runs, theirs: Runs, middle: Callable[..., np.float64]) -> tuple[float, float, float]:
    """The geometric mean over the tables of ``middle`` of the epochs, ours / theirs, with a 95 % bootstrap interval.

    Args:
        ours, theirs: searches with the same seeds; of ``theirs``, those of the first seeds count.
        middle: ``numpy.mean`` or ``numpy.median``.

    Returns:
        Ratio, low end and high end.
    """
    seeds = min(map(len, ours.values()))
    a_TS, b_TS = (np.array([[run.epochs for run in runs[name][:seeds]] for name in ours]) for runs in (ours, theirs))
    rng = np.random.default_rng(0)
    drawn = [np.arange(seeds), *(rng.integers(seeds, size=seeds) for _ in range(RESAMPLES))]
    found = [
        float(np.exp(np.mean(np.log(middle(a_TS[:, one], axis=1) / middle(b_TS[:, one], axis=1))))) for one in drawn
    ]
    low, high = np.quantile(found[1:], [0.025, 0.975])
    return found[0], float(low), float(high)


def described(table: Table) -> dict[str, object]:
    """The size of a table, its target, and the rank correlation of early and final value."""
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


def _searched(way: str, names: Sequence[str], seeds: Sequence[int], packages: str) -> Runs:
    seeds = seeds[: math.ceil(len(seeds) / FEWER.get(way, 1))]
    runs = [(name, seed) for name in names for seed in seeds]
    with ProcessPoolExecutor(PROCESSES) as pool:
        search = functools.partial(_search, way, packages)
        found = list(pool.map(search, *zip(*runs, strict=True), chunksize=5))
    say(f"{way}: {len(runs)} searches, {sum(not run.target for run in found)} lost")
    return {name: [run for (table, _), run in zip(runs, found, strict=True) if table == name] for name in names}


def _search(way: str, packages: str, name: str, seed: int) -> Reached:
    if way == SYNE_TUNE and packages not in sys.path:
        sys.path.append(packages)
        sys.modules |= {name: mock.MagicMock() for name in NOT_NEEDED}
        logging.getLogger("syne_tune").setLevel(logging.ERROR)
    table = table_of(name)
    return WAYS[way](table, target(table), seed)


def _summary(runs: Sequence[Reached]) -> dict[str, int]:
    epochs = [run.epochs for run in runs]
    return {
        "mean epochs": round(statistics.fmean(epochs)),
        "median epochs": round(statistics.median(epochs)),
        "lost": sum(not run.target for run in runs),
        "of": len(runs),
    }


def _install(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, *REQUIREMENTS], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _ratios(runs: Runs, base: Runs) -> list[str]:
    return ["{:.3f} ({:.3f} to {:.3f})".format(*ratios(runs, base, middle)) for middle in (np.mean, np.median)]


def _lost(runs: Runs) -> str:
    found = [run.target for table in runs.values() for run in table]
    return f"{found.count(False)} of {len(found):,}"
