"""The figures that compare all arms, in groups with a heading."""

from collections.abc import Callable, Iterator, Mapping

from tuner.report.figures.budgets import by_epochs, by_trials, cost
from tuner.report.figures.curves import decay, learning, lr, numbers, train_loss
from tuner.report.figures.style import Arms, Figure
from tuner.report.figures.verdicts import forest, seeds
from tuner.report.findings import Findings

Maker = Callable[[Findings, Arms], Figure | list[Figure] | None]
PARTS: Mapping[str, tuple[Maker, ...]] = {
    "Verdict": (forest, seeds),
    "Learning curves": (learning, train_loss, numbers),
    "Best result by budget": (by_trials, by_epochs, cost),
    "Schedules of the winners": (lr, decay),
}


def comparing(found: Findings, arms: Arms) -> Iterator[tuple[str, list[Figure]]]:
    """Each heading with its figures. A figure that has no data yet is left out."""
    for heading, makers in PARTS.items():
        figures: list[Figure] = []
        for make in makers:
            made = make(found, arms)
            figures += made if isinstance(made, list) else [] if made is None else [made]
        yield heading, figures
