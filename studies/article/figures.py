"""The figures of the study, drawn from its CSV files.

python -m studies.article.figures     write SVG files to the folder of the results
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from studies.article.cases import CASES, FULL, LN_10, SIZES, hyper_of
from studies.article.defects import Defect
from studies.article.runs import CORRECTED, PUBLISHED, RESULTS, WITHOUT, Run
from studies.article.schedule import EPOCHS, CodedSchedule
from studies.article.summary import Rows, found, log_of
from trainables.schedules import Schedule

LOG, AS_PUBLISHED, RIGHT = "#555555", "#d1495b", "#00798c"
OTHERS = ("#edae49", "#66a182", "#8d6cab", "#2e4057", "#c97b4a", "#4aa3c9", "#999933")
"""Colours of the runs with one defect off."""
MEASURES = (("test_acc", "test accuracy", "linear"), ("test_loss", "test loss", "log"))


def main() -> None:
    """Draw every figure whose data exists."""
    parser = argparse.ArgumentParser(prog="python -m studies.article.figures", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    results = parser.parse_args().results
    # The same data must give the same bytes.
    mpl.rcParams.update({"svg.hashsalt": "article", "svg.fonttype": "none", "font.size": 8, "axes.grid": True})
    mpl.rcParams.update({"grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False})
    _save(rates(), results / "rates.svg")
    leaderboard = results / "tuned.json"
    if leaderboard.exists():
        _save(tuned(json.loads(leaderboard.read_text())), results / "tuned.svg")
    for name in SIZES:
        runs = found(results / name)
        if runs:
            _save(cases(runs), results / f"{name}-cases.svg")
            for case in CASES:
                if CASES[case].defects and any(run.case == case for run in runs):
                    _save(causes(case, runs), results / f"{name}-{case}.svg")


def cases(runs: dict[Run, Rows]) -> Figure:
    """All cases: the article's log, the run with the defects, and the same settings with the right formulas."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplots(len(MEASURES), len(CASES), sharex=True, sharey="row")
    for column, (case, row) in enumerate(CASES.items()):
        axes[0][column].set_title(f"{case}: {row.title}" if row.defects else row.title)
        for line, (measure, words, scale) in enumerate(MEASURES):
            axis = axes[line][column]
            _curve(axis, log_of(case), measure, LOG, "the article's log", "--")
            for run, rows in runs.items():
                if run.case == case and run.setting in (PUBLISHED, CORRECTED):
                    right = run.setting == CORRECTED or not row.defects
                    label = "corrected" if right else "as published"
                    _curve(axis, rows, measure, RIGHT if right else AS_PUBLISHED, label)
            _finish(axis, words if column == 0 else "", scale)
        axes[-1][column].set_xlabel("share of the training")
    _legend(figure, axes.flat)
    return figure


def causes(case: str, runs: dict[Run, Rows]) -> Figure:
    """One case, with its defects switched off one at a time."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, len(MEASURES))
    colours = dict(zip(sorted(CASES[case].defects), OTHERS, strict=False))
    for axis, (measure, words, scale) in zip(axes, MEASURES, strict=True):
        for run, rows in runs.items():
            if (run.case, run.seed) != (case, 0):
                continue
            kind, _, defect = run.setting.partition("-")
            if kind == PUBLISHED:
                _curve(axis, rows, measure, AS_PUBLISHED, "as published", width=2.2)
            elif kind == CORRECTED:
                _curve(axis, rows, measure, RIGHT, "corrected: all off", width=2.2)
            elif kind == WITHOUT:
                _curve(axis, rows, measure, colours[Defect(defect)], f"{defect} off")
        _finish(axis, words, scale)
        axis.set_xlabel("share of the training")
    figure.suptitle(f"{case}: {CASES[case].title}, one defect off at a time (seed 0)")
    _legend(figure, axes)
    return figure


def rates() -> Figure:
    """Cases 3 and 4 at full size: the intended learning rate, and the used one."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, case in zip(axes, ("case3", "case4"), strict=True):
        row, hyper = CASES[case], hyper_of(CASES[case], FULL)
        used = CodedSchedule(hyper, FULL.plan, row.defects, FULL.lr_factor, row.decay)
        for schedule, colour, label in ((Schedule(hyper, FULL.plan), RIGHT, "meant"), (used, AS_PUBLISHED, "used")):
            steps = range(0, FULL.plan.updates, 250)
            axis.plot([s / 500 for s in steps], [schedule.lr(s) or None for s in steps], color=colour, label=label)
        axis.plot([0, EPOCHS], [1e-4] * 2, color=LOG, ls="--", lw=1, label="the baseline's first rate")
        axis.set(title=f"{case}: {row.title}", xlabel="epoch of the article", yscale="log", ylim=(1e-9, 3e-3))
    axes[0].set_ylabel("learning rate")
    _legend(figure, axes)
    return figure


def tuned(leaderboard: dict[str, Any]) -> Figure:
    """The verdicts of a tuned search (``tuner leaderboard -o json``): each arm's difference with its interval."""
    figure = Figure(figsize=(7, 2.2), layout="constrained")
    axis = figure.subplots()
    rows = [row for row in leaderboard["rows"] if row["comparison"]]
    for height, row in enumerate(reversed(rows)):
        found = row["comparison"]
        axis.plot([found["low"], found["high"]], [height] * 2, color=RIGHT, lw=1.5)
        axis.plot(found["mean_diff"], height, "o", color=RIGHT)
    margin = leaderboard["margin"]
    axis.axvspan(-margin, margin, color=LOG, alpha=0.15, lw=0)
    axis.axvline(0, color="black", lw=0.8)
    axis.set_yticks(range(len(rows)), [f"{row['arm']}: {row['comparison']['outcome']}" for row in reversed(rows)])
    axis.set_xlabel(f"points of test accuracy against {leaderboard['baseline']}, 95 % interval; shaded: a tie")
    return figure


def _curve(axis: Any, rows: Rows, measure: str, colour: str, label: str, style: str = "-", width: float = 1.3) -> None:
    # A point belongs to the end of its epoch. The article counts epochs from 0, our runs from 1.
    ends = [row["epoch"] + (0 if "seconds" in row else 1) for row in rows]
    axis.plot(
        [end / ends[-1] for end in ends], [row[measure] for row in rows], style, color=colour, lw=width, label=label
    )


def _finish(axis: Any, words: str, scale: str) -> None:
    axis.set_yscale(scale)
    axis.set_ylabel(words)
    if scale == "log":
        axis.axhline(LN_10, color="black", lw=0.6, ls=":", label="chance")
    else:
        axis.axhline(0.1, color="black", lw=0.6, ls=":", label="chance")
        axis.set_ylim(0, None)


def _legend(figure: Figure, axes: Iterable[Any]) -> None:
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
