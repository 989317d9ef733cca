"""Anytime curves: the expected best value of an arm's search by number of trials, or by number of epochs.

They compare optimizers by the result of a tuning budget (Sivaprasad et al. 2020, arXiv:1910.11758).
With one search per arm, the trials count as exchangeable, as if a random search had drawn them. If a sampler learns
from earlier trials, its later trials are better, and the curve is too high at its beginning. With several searches per
arm, each keeps its order, and the bootstrap draws searches.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

RESAMPLES = 200
BAND = (5.0, 95.0)
"""Percentiles of the bootstrap."""
MOST_POINTS = 100
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class Curve:
    """The expected best value by cost. The band contains 90 % of the bootstrap's curves.

    Args:
        cost: numbers of trials or of epochs.
        mean: the expected best objective at each cost.
        low, high: the ends of the band at each cost.
    """

    cost: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def expected_best(values: Sequence[float]) -> Floats:
    """The mean of the largest of n values, drawn without replacement, for every n from 1 to the number of values.

    This is the unbiased estimator of Tang et al. 2020 (arXiv:2004.13705). Dodge et al. 2019 (arXiv:1909.03004) draw
    with replacement: their estimate is too low, and does not reach the best value at the end.
    """
    every = np.arange(len(values))
    return _weights(len(values), every) @ np.sort(np.asarray(values, dtype=np.float64))


def by_trials(values: Sequence[float], maximize: bool, seed: int) -> Curve:
    """The expected best value after each number of trials. The band comes from a bootstrap with replacement.

    Args:
        values: each trial's objective.
        maximize: whether a larger objective is better.
        seed: the seed of the bootstrap.
    """
    sign, draw = (1.0 if maximize else -1.0), np.random.default_rng(seed)
    signed = sign * np.asarray(values, dtype=np.float64)
    shown = _thinned(len(signed))
    weights = _weights(len(signed), shown)
    drawn: Floats = signed[draw.integers(len(signed), size=(RESAMPLES, len(signed)))]
    drawn.sort(axis=1)
    return _curve(shown.astype(np.float64) + 1, weights @ np.sort(signed), drawn @ weights.T, sign)


def by_epochs(values: Sequence[float], epochs: Sequence[int], maximize: bool, seed: int) -> Curve:
    """The expected best value after each number of epochs, if the trials run one after the other in random order.

    The curve begins at the length of the longest trial, so that at least one trial has ended.

    Args:
        values: each trial's objective.
        epochs: the number of epochs of each trial, at least 1.
        maximize: whether a larger objective is better.
        seed: the seed of the orders and of the bootstrap.
    """
    sign, draw = (1.0 if maximize else -1.0), np.random.default_rng(seed)
    signed, cost = sign * np.asarray(values, dtype=np.float64), np.asarray(epochs, dtype=np.float64)
    count = len(signed)
    grid = np.unique(np.linspace(cost.max(), cost.sum(), MOST_POINTS).round())
    mean = _best_within(signed, cost, (draw.permutation(count) for _ in range(RESAMPLES)), grid).mean(axis=0)
    drawn = draw.integers(count, size=(RESAMPLES, count))
    return _curve(grid, mean, _best_within(signed, cost, drawn, grid), sign)


def over_searches(
    values: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], maximize: bool, seed: int
) -> Curve:
    """The best value so far after each cost, as the mean over several searches.

    The curve begins where every search has a result. A search that has ended keeps its best value.

    Args:
        values: for each search, the objective of each trial, in order. A search has at least one.
        costs: for each of these trials, what it cost: 1, or its number of epochs.
        maximize: whether a larger objective is better.
        seed: the seed of the bootstrap over searches.
    """
    sign, draw = (1.0 if maximize else -1.0), np.random.default_rng(seed)
    spent = [np.cumsum(np.asarray(cost, dtype=np.float64)) for cost in costs]
    grid = np.unique(np.concatenate(spent))
    grid = grid[grid >= max(cost[0] for cost in spent)]
    grid = grid[_thinned(len(grid))]
    best = np.array(
        [
            np.maximum.accumulate(sign * np.asarray(search, dtype=np.float64))[
                np.searchsorted(cost, grid, side="right") - 1
            ]
            for search, cost in zip(values, spent, strict=True)
        ]
    )
    drawn = best[draw.integers(len(best), size=(RESAMPLES, len(best)))].mean(axis=1)
    return _curve(grid, best.mean(axis=0), drawn, sign)


def _best_within(
    signed: Floats, cost: Floats, orders: Iterable[np.ndarray[tuple[int, ...], np.dtype[np.int64]]], grid: Floats
) -> Floats:
    """Per order (there are ``RESAMPLES``) and per point of the grid, the best value of the trials that have ended."""
    found = np.empty((RESAMPLES, len(grid)))
    # One order at a time: all of them would need gigabytes after a search of 100,000 trials.
    for row, order in enumerate(orders):
        best = np.maximum.accumulate(signed[order])
        ended = np.searchsorted(np.cumsum(cost[order]), grid, side="right")
        found[row] = best[np.maximum(ended - 1, 0)]
    return found


def _weights(count: int, rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Floats:
    """Row n, column i: the chance that the i-th smallest value is the largest of n, C(i - 1, n - 1) / C(count, n).

    Args:
        count: number of values.
        rows: the wanted rows, from 0 for n = 1.
    """
    n, i = rows[:, None] + 1, np.arange(1, count + 1)[None, :]
    with np.errstate(invalid="ignore"):
        log = gammaln(i) - gammaln(i - n + 1) - gammaln(n)
        log = log - (gammaln(count + 1) - gammaln(n + 1) - gammaln(count - n + 1))
    weights: Floats = np.where(i >= n, np.exp(np.where(i >= n, log, 0.0)), 0.0)
    return weights


def _thinned(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(np.int64))


def _curve(cost: Floats, mean: Floats, drawn: Floats, sign: float) -> Curve:
    ends = np.sort(sign * np.percentile(drawn, BAND, axis=0), axis=0)
    rounded = [[float(f"{value:.6g}") for value in line] for line in (cost, sign * mean, ends[0], ends[1])]
    return Curve(*map(tuple, rounded))
