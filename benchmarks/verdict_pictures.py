"""Draws the pictures of ``docs/verdict.md``, and computes its example and its small simulation.

    python -m benchmarks.verdict_pictures

Nothing is trained. All accuracies are made up, from normal distributions. The verdicts on them come from
``tuner.verdict``. Letters of shapes: J jobs, V variants, U units (searches, or confirm seeds of one search).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr

from tuner.storage.events import Outcome
from tuner.verdict.looks import LookPlan, Standing, judge_look, simulate
from tuner.verdict.method import describe
from tuner.verdict.paired_test import holm

Floats = NDArray[np.float64]

FOLDER = Path("docs/images")
SEARCH_SD, SEED_SD = 1.6, 1.0
"""Luck of the search and of the seed in the first picture, in points. Both are assumed. They are near those of the
small search on CIFAR-10 (docs/results/cifar10-small.md) with eight trials per search."""
LOOKS = (4, 6, 8, 12)
MARGIN = 2.0
"""Margin of the example, in points."""
GAINS: Mapping[str, float] = {"A": 3.0, "B": 0.2}
"""Variants of the example, and their true gains in points."""
EXAMPLE_SEED = 3
ALPHA = 0.05
JOBS = 10_000
"""Simulated jobs per point of the last picture. The standard error of a share is at most 0.5 points."""
VARIANTS = 4
RATIOS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""Luck of the search in the last picture, as a multiple of the luck of the seed."""
GREY, BLUE, GREEN, ORANGE = "#666666", "#4c63b6", "#1b9e77", "#d95f02"


class Example(NamedTuple):
    """The made-up job of the page.

    Args:
        accuracies: arm to the test accuracy of each search, in percent; the baseline has the name "baseline".
        standings: for each look, the standings of the variants that were not settled before.
    """

    accuracies: Mapping[str, Floats]
    standings: Sequence[Sequence[Standing]]


def main() -> None:
    """Write the pictures, and print their paths and the numbers that the page quotes."""
    for name, picture in PICTURES.items():
        file = FOLDER / f"verdict-{name}.svg"
        draw(picture, file)
        print(file)
    print("\n".join([*example_table(), *example_verdicts(), *simulated_table()]))


def draw(picture: Callable[[Figure], None], file: Path) -> None:
    """Draw one picture to an SVG file. The background is white, so that it can be read on dark pages too."""
    figure = Figure(figsize=(7.6, 3.2), layout="constrained", facecolor="white")
    # The text stays text, which makes small files. The same numbers must give the same bytes.
    with mpl.rc_context({"svg.hashsalt": "verdict", "svg.fonttype": "none", "font.size": 10}):
        picture(figure)
        figure.savefig(file, metadata={"Date": None})


def example() -> Example:
    """The made-up job: three arms with shared luck of the search, judged at the looks until all are settled."""
    rng = np.random.default_rng(EXAMPLE_SEED)
    shared_U, own_AU = rng.normal(0, 1.0, LOOKS[-1]), rng.normal(0, 1.2, (1 + len(GAINS), LOOKS[-1]))
    means = {"baseline": 70.0} | {arm: 70.0 + gain for arm, gain in GAINS.items()}
    accuracies = {
        arm: np.round(mean + shared_U + own_U, 1) for (arm, mean), own_U in zip(means.items(), own_AU, strict=True)
    }
    plan, settled, standings = LookPlan(LOOKS, MARGIN, len(GAINS)), dict[str, Outcome](), []
    for look, searches in enumerate(LOOKS, start=1):
        differences = {arm: list(accuracies[arm] - accuracies["baseline"])[:searches] for arm in GAINS}
        judged = judge_look(plan, look, differences, settled)
        standings.append(judged)
        settled |= {one.arm: one.outcome for one in judged if one.outcome != Outcome.NOT_ENOUGH}
        if len(settled) == len(GAINS):
            break
    return Example(accuracies, standings)


def example_table() -> list[str]:
    """The searches of the example as rows of a Markdown table. An arm has only the searches up to its last look."""
    found = example()
    last = {one.arm: LOOKS[one.look - 1] for judged in found.standings for one in judged}
    searches = max(last.values())
    rows = ["| search | baseline | A | A − baseline | B | B − baseline |", "|---|---|---|---|---|---|"]
    for search in range(searches):
        base = found.accuracies["baseline"][search]
        cells = [f"{search + 1}", f"{base:.1f}"]
        for arm in GAINS:
            value = found.accuracies[arm][search]
            cells += [f"{value:.1f}", f"{value - base:+.1f}"] if search < last[arm] else ["", ""]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def example_verdicts() -> list[str]:
    """What the verdict says about the example, one line per look and variant."""
    judged = (one for standings in example().standings for one in standings)
    return [f"{one.arm}: {describe(one, 'the baseline', MARGIN, LOOKS)}" for one in judged]


def simulated_table() -> list[str]:
    """The numbers of the last picture as rows of a Markdown table."""
    shares = false_beats()
    rows = [f"| luck of the search | {' | '.join(shares)} |", f"|---|{'---|' * len(shares)}"]
    for index, ratio in enumerate(RATIOS):
        rows.append(f"| {ratio:g} × | {' | '.join(f'{values[index]:.1f} %' for values in shares.values())} |")
    return rows


@cache
def false_beats(jobs: int = JOBS) -> Mapping[str, Sequence[float]]:
    """The share of jobs in percent where any of ``VARIANTS`` equal variants beats the baseline.

    Args:
        jobs: number of simulated jobs per share.

    Returns:
        The rule to its shares, one for each of ``RATIOS``. The rules on seeds are the paired t-test with Holm's
        adjustment over the confirm seeds of one search per arm. The rule on searches has one confirm seed per search.
    """
    shares: dict[str, list[float]] = {}
    for ratio in RATIOS:
        rng = np.random.default_rng(0)
        for seeds in (5, 10):
            luck_JA1, noise_JAU = _drawn(rng, ratio, jobs, 1), _drawn(rng, 1.0, jobs, seeds)
            share = np.mean([_any_beats(one_VU) for one_VU in _differences(luck_JA1 + noise_JAU)])
            shares.setdefault(f"{seeds} seeds of one search", []).append(100 * float(share))
        results_JAU = _drawn(rng, ratio, jobs, LOOKS[-1]) + _drawn(rng, 1.0, jobs, LOOKS[-1])
        outcomes_JV = simulate(LookPlan(LOOKS, 0.0, VARIANTS), _differences(results_JAU)).outcomes
        beaten_J = (outcomes_JV == Outcome.BEATS.value).any(axis=1)
        shares.setdefault("searches, four looks", []).append(100 * float(beaten_J.mean()))
    return shares


def _drawn(rng: np.random.Generator, sd: float, jobs: int, units: int) -> Floats:
    return sd * rng.standard_normal((jobs, 1 + VARIANTS, units))


def _differences(results_JAU: Floats) -> Floats:
    return results_JAU[:, 1:] - results_JAU[:, :1]


def _any_beats(differences_VU: Floats) -> bool:
    n, mean_V = differences_VU.shape[1], differences_VU.mean(axis=1)
    t_V = mean_V * math.sqrt(n) / differences_VU.std(axis=1, ddof=1)
    p_V = 2 * stdtr(n - 1, -np.abs(t_V))
    return any(p < ALPHA and mean > 0 for p, mean in zip(holm(p_V.tolist()), mean_V, strict=True))


def _luck(figure: Figure) -> None:
    """Five searches of one arm: the winner of each, and five seeds of each winner."""
    axes = figure.subplots()
    # Evenly spaced quantiles, so that five points show the distribution and not its chance.
    quantiles = ndtri(np.array([0.1, 0.3, 0.5, 0.7, 0.9]))
    means_S = 46 + SEARCH_SD * quantiles[[3, 0, 2, 4, 1]]
    for row, mean in enumerate(means_S):
        axes.plot(mean + SEED_SD * quantiles, [row] * 5, "o", color=BLUE, alpha=0.6, markersize=5)
        axes.plot([mean, mean], [row - 0.3, row + 0.3], color=ORANGE, linewidth=2.5)
    row = len(means_S)
    axes.plot(means_S, [row] * len(means_S), "|", color=ORANGE, markersize=16, markeredgewidth=2.5)
    axes.axhline(row - 0.5, color=GREY, linewidth=0.8)
    axes.set_yticks(range(row + 1), [*(f"winner of search {one + 1}" for one in range(row)), "all five winners"])
    axes.plot([], [], "o", color=BLUE, alpha=0.6, label="one seed of this winner")
    axes.plot([], [], "|", color=ORANGE, markersize=12, markeredgewidth=2.5, label="the winner's true accuracy")
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy, % (made up)")
    _finish(figure, axes)


def _looks(figure: Figure) -> None:
    """The repeated intervals of the example at each look."""
    axes = figure.subplots()
    axes.axhspan(-MARGIN, MARGIN, color=GREY, alpha=0.15, linewidth=0, label=f"margin, ±{MARGIN:g} points")
    axes.axhline(0, color=GREY, linewidth=1)
    for (arm, colour), shift in zip({"A": GREEN, "B": ORANGE}.items(), (-0.12, 0.12), strict=True):
        found = [one for judged in example().standings for one in judged if one.arm == arm]
        at = np.array([LOOKS[one.look - 1] for one in found]) + shift
        middle = np.array([one.mean_diff for one in found], dtype=np.float64)
        half = middle - np.array([one.low for one in found], dtype=np.float64)
        axes.errorbar(at, middle, half, fmt="o", color=colour, capsize=4, linewidth=2, label=f"variant {arm}")
        end = (float(at[-1]), float(middle[-1] + half[-1]))
        axes.annotate(
            f"{arm} {found[-1].outcome}: stop", end, (0, 5), textcoords="offset points", color=colour, ha="center"
        )
    axes.set_xticks(LOOKS, [f"look {look}\n{searches} searches" for look, searches in enumerate(LOOKS, start=1)])
    axes.set(xlim=(3, 13), ylabel="difference to the\nbaseline, points")
    axes.margins(y=0.15)
    _finish(figure, axes)


def _false(figure: Figure) -> None:
    """The shares of ``false_beats``."""
    axes = figure.subplots()
    for (rule, shares), colour, marker in zip(false_beats().items(), (BLUE, ORANGE, GREEN), "s^o", strict=True):
        axes.plot(RATIOS, shares, color=colour, marker=marker, linewidth=2, label=rule)
    axes.set(
        xlabel="luck of the search, as a multiple of the luck of the seed",
        ylabel='jobs with a false\n"beats", %',
        ylim=(0, None),
    )
    axes.grid(axis="y", color=GREY, alpha=0.25)
    _finish(figure, axes)


def _finish(figure: Figure, axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)


PICTURES: Mapping[str, Callable[[Figure], None]] = {"luck": _luck, "looks": _looks, "false-beats": _false}
"""End of the file's name to the function that draws it."""


if __name__ == "__main__":
    main()
