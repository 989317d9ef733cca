"""Figures that hold the arms against each other, under their headings."""

from collections.abc import Callable, Iterator, Mapping

from tuner.report.figures.budgets import by_epochs, by_trials, cost
from tuner.report.figures.curves import decay, learning, lr, train_loss
from tuner.report.figures.style import Arms, Figure
from tuner.report.figures.verdicts import forest, seeds
from tuner.report.findings import Findings

Maker = Callable[[Findings, Arms], Figure | None]
PARTS: Mapping[str, tuple[Maker, ...]] = {
    "Verdict": (forest, seeds),
    "Learning curves": (learning, train_loss),
    "What a budget buys": (by_trials, by_epochs, cost),
    "Schedules that the winners used": (lr, decay),
}


def comparing(found: Findings, arms: Arms) -> Iterator[tuple[str, list[Figure]]]:
    """Headings and the figures under them, without those for which there is nothing to show yet."""
    for heading, makers in PARTS.items():
        yield heading, [figure for make in makers if (figure := make(found, arms)) is not None]
