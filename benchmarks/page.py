"""Writes ``docs/performance.md`` from the results of the benchmarks in ``docs/results/performance``.

    python -m benchmarks.page

The tables and the picture come only from the JSON files. The text of the findings is in ``benchmarks/findings.md``.
"""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from benchmarks.__main__ import BENCHMARKS, RESULTS

TEMPLATE = Path(__file__).with_name("performance.md.j2")
PAGE = Path("docs/performance.md")
PICTURE = Path("docs/images/time-of-a-search.svg")
COLOURS = ("#8da0cb", "#1b9e77", "#d95f02", "#bbbbbb", "#e7298a")

Kept = Mapping[str, Any]
"""The JSON of one benchmark."""


def main() -> None:
    """Write the page and its picture, and print their paths."""
    PAGE.write_text(page(RESULTS))
    print(PAGE)
    breakdown = RESULTS / "breakdown.json"
    if breakdown.exists():
        draw(json.loads(breakdown.read_text()), PICTURE)
        print(PICTURE)


def page(folder: Path) -> str:
    """The text of the page, from a folder of results."""
    files = {name: folder / f"{name}.json" for name, one in BENCHMARKS.items() if one.folder == RESULTS}
    kept = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    environment = Environment(loader=FileSystemLoader(TEMPLATE.parent), undefined=StrictUndefined, autoescape=False)
    environment.globals.update(rows=rows, conditions=conditions)
    text: str = environment.get_template(TEMPLATE.name).render(
        kept=kept, missing=[name for name in files if name not in kept]
    )
    return text.rstrip() + "\n"


def draw(breakdown: Kept, file: Path) -> None:
    """Draw one stacked bar per run: the shares of the workers' time."""
    runs = len(breakdown["figures"][0]["values"])
    figure = Figure(figsize=(8, 1 + 0.5 * runs), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * runs
    for part, colour in zip(breakdown["figures"], COLOURS, strict=True):
        bars = axes.barh([f"run {run + 1}" for run in range(runs)], part["values"], left=left, color=colour)
        bars.set_label(part["title"])
        axes.bar_label(bars, [f"{value:.0f} %" if value >= 4 else "" for value in part["values"]], label_type="center")
        left = [start + value for start, value in zip(left, part["values"], strict=True)]
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="% of the workers' time, from the command to its end")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(COLOURS), frameon=False)
    # The same data must give the same bytes.
    with mpl.rc_context({"svg.hashsalt": "performance"}):
        figure.savefig(file, metadata={"Date": None})


def rows(kept: Kept) -> list[tuple[str, str, str, str, str]]:
    """Rows of the table: the measurement, our figure, the peer's figure, the ratio with its range, and the goal."""
    return [*map(_compared, kept["comparisons"]), *map(_alone, kept["figures"])]


def conditions(kept: Kept) -> str:
    """The conditions of the figures, in one line."""
    about = kept["conditions"]
    versions = ", ".join(f"{name} {about['versions'][name]}" for name in ("torch", "ray", "optuna", "mlflow"))
    return (
        f"`{kept['command']}`, {about['cpus']} CPUs ({about['processor']}), Python {about['python']}, {versions},"
        f" load average before the run {about['load_average_1m']:g}"
    )


def _compared(one: Kept) -> tuple[str, str, str, str, str]:
    ratios = [ours / theirs for ours, theirs in zip(one["ours"], one["theirs"], strict=True)]
    ratio = statistics.median(ratios)
    return (
        f"{one['title']}, against {one['peer']}",
        f"{_number(statistics.median(one['ours']))} {one['unit']}",
        f"{_number(statistics.median(one['theirs']))} {one['unit']}",
        f"{_number(ratio)} ({_number(min(ratios))} to {_number(max(ratios))}; {len(ratios)})",
        _goal(one["goal"], ratio, "×"),
    )


def _alone(one: Kept) -> tuple[str, str, str, str, str]:
    median = statistics.median(one["values"])
    spread = f"{_number(min(one['values']))} to {_number(max(one['values']))}; {len(one['values'])}"
    return one["title"], f"{_number(median)} {one['unit']}", "", f"({spread})", _goal(one["goal"], median, one["unit"])


def _goal(goal: Kept | None, value: float, unit: str) -> str:
    if goal is None:
        return ""
    met = value >= goal["value"] if goal["at"] == "least" else value <= goal["value"]
    sign = "≥" if goal["at"] == "least" else "≤"
    return f"{sign} {_number(goal['value'])} {unit}: {'met' if met else '**missed**'}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
