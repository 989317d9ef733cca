"""Sensitivity cards: the ranges of the trials near the best, and no range from too few trials."""

from collections.abc import Mapping

from trainables.space import Choice, Domain, Float, Scalar
from tuner.report.sensitivity import Near, near_best, reach

SPACE: Mapping[str, Domain] = {"lr": Float(1e-4, 1e-2, "log"), "restarts": Choice(("2x1", "4x1", "6x1"))}


def near(*trials: tuple[float, str, float], maximize: bool = True) -> list[Near]:
    found: list[tuple[Mapping[str, Scalar], float]] = [
        ({"lr": lr, "restarts": restarts}, value) for lr, restarts, value in trials
    ]
    knobs, best = found[0]
    return list(near_best(SPACE, knobs, found, best, 0.01, maximize))


def test_a_range_covers_the_trials_near_the_best() -> None:
    lr, restarts = near((3e-3, "4x1", 0.9), (1e-3, "2x1", 0.895), (5e-3, "4x1", 0.89), (9e-3, "6x1", 0.88))
    assert (lr.best, lr.low, lr.high, lr.trials) == (3e-3, 1e-3, 5e-3, 3)
    assert (reach(lr), lr.searched) == ("0.001 to 0.005", "0.0001 to 0.01, log")
    assert (restarts.values, reach(restarts)) == (("2x1", "4x1"), "2x1, 4x1")


def test_too_few_trials_near_the_best_give_no_range() -> None:
    for card in near((3e-3, "4x1", 0.9), (1e-3, "2x1", 0.895), (9e-3, "6x1", 0.88)):
        assert not card.enough
        assert reach(card) == "too few trials to tell (2)"


def test_a_range_covers_the_smallest_losses() -> None:
    lr, _ = near((3e-3, "4x1", 0.1), (1e-3, "2x1", 0.105), (2e-3, "2x1", 0.109), (9e-3, "6x1", 0.2), maximize=False)
    assert (lr.low, lr.high) == (1e-3, 3e-3)
