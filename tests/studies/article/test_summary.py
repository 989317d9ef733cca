"""The table and the figures are made from the runs' files and the published logs, and from nothing else."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from numpy.typing import NDArray

from studies.article.cases import CASES, LN_10
from studies.article.figures import causes, rates
from studies.article.runs import COLUMNS, Run, path_of, write
from studies.article.summary import document, found, holds

Rows = list[dict[str, float]]


def rows(test_loss: float) -> Rows:
    """Two made-up epochs."""
    return [{**dict.fromkeys(COLUMNS, 0.5), "epoch": epoch, "test_loss": test_loss} for epoch in (1.0, 2.0)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A baseline, case 4 stuck and case 4 with one defect off, learning."""
    for run, loss in {
        Run("baseline", "published", 0): 1.5,
        Run("case4", "published", 0): LN_10,
        Run("case4", "without-random-feedback", 0): 1.7,
    }.items():
        write(rows(loss), path_of(run, tmp_path))
    return tmp_path


def test_runs_are_found_in_the_studys_order_and_held_against_the_log(folder: Path) -> None:
    runs = found(folder)
    assert [str(run) for run in runs] == [
        "baseline.published.seed0",
        "case4.published.seed0",
        "case4.without-random-feedback.seed0",
    ]
    assert [holds(run, runs) for run in runs] == [None, True, False]


def test_a_run_without_the_baseline_of_its_seed_is_not_judged(folder: Path) -> None:
    path_of(Run("baseline", "published", 0), folder).unlink()
    runs = found(folder)
    assert {holds(run, runs) for run in runs} == {None}


def test_the_document_has_a_row_for_every_log_and_run(folder: Path) -> None:
    lines = document("small", found(folder)).splitlines()
    assert sum("the article's log" in line for line in lines) == len(CASES)
    assert "| case4 | published, seed 0 | 0.5000 | 50.00 | 2.3026 | 50.00 | 50.00 | × 1.00 | yes |" in lines


def test_a_figure_has_a_curve_for_every_run_of_its_case(folder: Path) -> None:
    accuracy, _ = causes("case4", found(folder)).axes
    assert {line.get_label() for line in accuracy.lines} == {"as published", "random-feedback off", "chance"}


def drawn(axes: Axes, label: str) -> NDArray[np.float64]:
    """What the curve of that label shows, without gaps."""
    (line,) = (line for line in axes.lines if line.get_label() == label)
    values = np.asarray(line.get_ydata(), dtype=np.float64)
    return values[np.isfinite(values)]


def test_the_figure_of_rates_shows_what_was_used() -> None:
    noam, restarts = rates().axes
    assert set(drawn(restarts, "used")) == {1e-4}
    assert drawn(restarts, "meant").max() == 1e-3
    assert drawn(noam, "meant").max() == pytest.approx(9.13e-4, rel=0.01)
    assert drawn(noam, "used").max() == pytest.approx(6.53e-7, rel=0.01)
