"""Anytime curves, checked against every subset and every order of a few trials."""

import itertools
import statistics
from collections.abc import Sequence

import numpy as np
import pytest

from tuner.report.anytime import MOST_POINTS, by_epochs, by_trials, expected_best

VALUES: Sequence[float] = (0.3, 0.9, 0.5, 0.5, 0.7, 0.1)


@pytest.mark.parametrize("count", range(1, len(VALUES) + 1))
def test_the_expected_best_is_the_mean_over_every_subset(count: int) -> None:
    subsets: list[tuple[float, ...]] = list(itertools.combinations(VALUES, count))
    by_hand = statistics.fmean(map(max, subsets))
    assert float(expected_best(VALUES)[count - 1]) == pytest.approx(by_hand)


def test_the_curve_starts_at_the_mean_and_ends_at_the_best() -> None:
    curve = by_trials(VALUES, maximize=True, seed=0)
    assert list(curve.cost) == [1, 2, 3, 4, 5, 6]
    assert [curve.mean[0], curve.mean[-1]] == pytest.approx([0.5, 0.9])
    assert all(low <= high for low, high in zip(curve.low, curve.high, strict=True))


def test_the_smallest_loss_is_the_best() -> None:
    up, down = by_trials(VALUES, True, 0), by_trials([-value for value in VALUES], False, 0)
    assert down.mean == tuple(-value for value in up.mean)
    assert down.low == tuple(-value for value in up.high)


def test_the_band_contains_nine_of_ten_bootstrap_means() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.1, 40)
    curve = by_trials([float(value) for value in values], True, seed=2)
    # After one trial, the bootstrap's mean is normal. Its standard deviation is the standard error of the mean.
    half = 1.645 * float(values.std()) / len(values) ** 0.5
    assert curve.high[0] - curve.low[0] == pytest.approx(2 * half, rel=0.2)


def test_the_curve_by_epochs_is_the_mean_over_every_order() -> None:
    values, epochs = (0.9, 0.6, 0.2, 0.5), (4, 1, 2, 3)
    curve = by_epochs(values, epochs, True, seed=0)
    orders = list(itertools.permutations(zip(values, epochs, strict=True)))
    for cost, mean in zip(curve.cost, curve.mean, strict=True):
        by_hand = []
        for order in orders:
            spent = itertools.accumulate(needed for _, needed in order)
            by_hand.append(max(value for (value, _), end in zip(order, spent, strict=True) if end <= cost))
        # The curve uses 200 random orders, so the test allows three standard errors.
        assert mean == pytest.approx(statistics.fmean(by_hand), abs=3 * statistics.stdev(by_hand) / 200**0.5 + 1e-9)
    assert (curve.cost[0], curve.cost[-1], curve.mean[-1]) == (4, 10, 0.9)


def test_long_searches_are_drawn_with_few_points() -> None:
    values = [0.001 * number for number in range(1000)]
    curve = by_trials(values, True, 0)
    assert (len(curve.cost), curve.cost[0], curve.cost[-1], curve.mean[-1]) == (MOST_POINTS, 1, 1000, 0.999)


def test_the_same_seed_gives_the_same_band() -> None:
    assert by_epochs(VALUES, [3] * 6, True, 5) == by_epochs(VALUES, [3] * 6, True, 5)
    assert by_trials(VALUES, True, 5) == by_trials(VALUES, True, 5)
