"""Runs the benchmarks, prints the results, and writes them as JSON for ``docs/performance.md``.

python -m benchmarks --list
python -m benchmarks                      every benchmark that needs no GPU
python -m benchmarks start leaderboard --pairs 7
python -m benchmarks --gpu                the benchmarks that need a GPU
"""

import argparse
import dataclasses
import importlib
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.conditions import conditions
from benchmarks.measuring import Comparison, Figure, Goal, Result
from cluster.runtime import usable_gpus

RESULTS = Path("docs/results/performance")
PAIRS = 5
LONG_DETAIL = 2000
"""Characters from which a detail of a result is not printed."""


class Benchmark(NamedTuple):
    """A module with ``measure(pairs) -> Result``, whether it needs a GPU, and the folder for its result."""

    module: str
    title: str
    gpu: bool = False
    folder: Path = RESULTS


BENCHMARKS: Mapping[str, Benchmark] = {
    "start": Benchmark("benchmarks.start", "Commands that must answer at once"),
    "leaderboard": Benchmark("benchmarks.leaderboard", "Reading the leaderboard of a large job"),
    "cpu": Benchmark("benchmarks.cpu", "Training on a CPU"),
    "gpu": Benchmark("benchmarks.gpu", "Training on a GPU", gpu=True),
    "tracked": Benchmark("benchmarks.tracked", "How much tracking slows the training"),
    "ask": Benchmark("benchmarks.ask", "Time to propose a setting as a study grows"),
    "regret": Benchmark("benchmarks.regret", "The loss of our TPE on smooth functions"),
    "search": Benchmark("benchmarks.search_quality", "Epochs until a search finds a good setting"),
    "search-others": Benchmark("benchmarks.search_others", "The same on curves that others recorded"),
    "whole": Benchmark("benchmarks.whole_search", "A whole search"),
    "control": Benchmark("benchmarks.control", "Overhead per trial"),
    "breakdown": Benchmark("benchmarks.breakdown", "Where the time of a search goes"),
    "growth": Benchmark("benchmarks.growth", "Time per trial as a search grows"),
    "scale": Benchmark("benchmarks.scale", "A search of 100,000 trials"),
    "reports": Benchmark("benchmarks.reports", "What a report costs the driver"),
    "jobs": Benchmark("benchmarks.many_jobs", "Commands in a workspace of 1,000 jobs"),
    "aa": Benchmark("benchmarks.aa", "How often an arm beats itself", folder=Path("docs/results/aa")),
    "aa-real": Benchmark("benchmarks.aa_real", "An arm against itself in real jobs", folder=Path("docs/results/aa")),
}
"""Benchmarks by name. To add one, add a row."""


def main() -> None:
    """Run the benchmarks of the command line, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all benchmarks without a GPU")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"number of pairs of runs (default {PAIRS})")
    parser.add_argument("--gpu", action="store_true", help="run the benchmarks that need a GPU")
    parser.add_argument("--list", action="store_true", help="list the benchmarks")
    parser.add_argument("--to", type=Path, help=f"folder for the results (default {RESULTS}, or the benchmark's own)")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(BENCHMARKS):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; the benchmarks are {', '.join(BENCHMARKS)}")
    if asked.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:14} {benchmark.title}{' (GPU)' * benchmark.gpu}")
        return
    for name in asked.names or [name for name, benchmark in BENCHMARKS.items() if benchmark.gpu == asked.gpu]:
        run(name, asked.pairs, asked.to or BENCHMARKS[name].folder)


def run(name: str, pairs: int, folder: Path) -> None:
    """Run one benchmark, print its result and write ``folder/NAME.json``."""
    benchmark = BENCHMARKS[name]
    if benchmark.gpu and not usable_gpus():
        print(f"{name}: skipped, there is no GPU here", file=sys.stderr)
        return
    print(f"{name}: {benchmark.title}", file=sys.stderr, flush=True)
    before = conditions()
    result: Result = importlib.import_module(benchmark.module).measure(pairs)
    command = f"python -m benchmarks {name} --pairs {pairs}"
    kept = {"name": name, "title": benchmark.title, "command": command, "conditions": before}
    folder.mkdir(parents=True, exist_ok=True)
    Path(folder, f"{name}.json").write_text(json.dumps(kept | dataclasses.asdict(result), indent=2) + "\n")
    for comparison in result.comparisons:
        print(line(comparison))
    for figure in result.figures:
        print(line_of(figure))
    for title, rows in result.tables.items():
        print(f"  {title}")
        for row in rows:
            print("    " + " | ".join(row))
    for key, value in result.details.items():
        text = json.dumps(value)
        print(f"  {key}: {text if len(text) < LONG_DETAIL else 'in the file'}")


def line(comparison: Comparison) -> str:
    """One comparison as a line of text."""
    ratios = comparison.ratios()
    return (
        f"  {comparison.title}: {statistics.median(comparison.ours):.4g} {comparison.unit}"
        f" against {statistics.median(comparison.theirs):.4g} ({comparison.peer});"
        f" ratio {comparison.ratio():.3g} [{min(ratios):.3g} to {max(ratios):.3g}], {len(ratios)} pairs"
        + _aim(comparison.goal, comparison.ratio())
    )


def line_of(figure: Figure) -> str:
    """One figure without a peer, as a line of text."""
    values = figure.values
    return (
        f"  {figure.title}: {figure.median():.4g} {figure.unit} [{min(values):.4g} to {max(values):.4g}],"
        f" {len(values)} runs" + _aim(figure.goal, figure.median())
    )


def _aim(goal: Goal | None, value: float) -> str:
    if goal is None:
        return ""
    return f"; goal at {goal.at} {goal.value:g}: {'met' if goal.met(value) else 'missed'}"


if __name__ == "__main__":
    main()
