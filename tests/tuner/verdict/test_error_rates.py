"""The whole path from noisy search to verdict, many times over, on studies whose truth is known."""

from functools import cache

import numpy as np
import pytest
from scipy import stats

from tests.tuner.simulated_studies import Design, simulate
from tuner.verdict.paired_test import Outcome, compare

STUDIES = 2_000
EQUAL, UNEQUAL = (0.003,) * 7, (0.003, 0.001, 0.009, 0.002, 0.006, 0.003, 0.012)
NOISES = {"equal": EQUAL, "unequal": UNEQUAL}
SEEDS = (3, 5, 10)


def noises(spread: str, variants: int) -> tuple[float, ...]:
    """Luck of the baseline and of the variants; a lone variant has the noisiest."""
    baseline, *others = NOISES[spread]
    return (baseline, *others[-variants:])


def any_beats(design: Design, rng: np.random.Generator) -> bool:
    # A margin of 0, so that no false "beats" hides behind a tie.
    return any(c.outcome is Outcome.BEATS for c in compare(*simulate(design, rng), margin=0.0))


@cache
def beaten(design: Design) -> int:
    """In how many studies any variant is said to beat the baseline."""
    rng = np.random.default_rng(20180501)
    return sum(any_beats(design, rng) for _ in range(STUDIES))


def bounds(hits: int, draws: int) -> tuple[float, float]:
    """Clopper-Pearson: two one-sided 95 % bounds of the chance."""
    low = stats.beta.ppf(0.05, hits, draws - hits + 1) if hits else 0.0
    high = stats.beta.ppf(0.95, hits + 1, draws - hits) if hits < draws else 1.0
    return float(low), float(high)


@pytest.mark.parametrize("spread", NOISES)
@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("variants", [1, 6])
def test_where_all_are_equal_a_variant_rarely_beats(variants: int, seeds: int, spread: str) -> None:
    _, high = bounds(beaten(Design(noises(spread, variants), seeds)), STUDIES)
    assert high <= 0.06


def test_one_variant_beats_by_chance_as_often_as_the_level_says() -> None:
    # Half of the two-sided 5 %: a one-sided test would double it and still pass under 6 %.
    hits = sum(beaten(Design(noises(spread, 1), seeds)) for spread in NOISES for seeds in SEEDS)
    low, high = bounds(hits, STUDIES * len(NOISES) * len(SEEDS))
    assert 0.02 < low < 0.025 < high < 0.03


@pytest.mark.parametrize("spread", NOISES)
@pytest.mark.parametrize("variants", [1, 6])
def test_a_gain_of_three_sd_is_found_on_ten_seeds(variants: int, spread: str) -> None:
    luck = noises(spread, variants)
    widest_sd = max(np.hypot(luck[0], noise) for noise in luck[1:])
    design = Design(luck, seeds=10, quality_sd=0.001, gain=float(3 * widest_sd))
    rng = np.random.default_rng(20180502)
    studies = [compare(*simulate(design, rng), margin=0.5) for _ in range(STUDIES // 4)]
    for verdicts in zip(*studies, strict=True):
        low, _ = bounds(sum(c.outcome is Outcome.BEATS for c in verdicts), len(verdicts))
        assert low >= 0.8


@pytest.mark.parametrize("variants", [1, 6])
@pytest.mark.parametrize("seeds", SEEDS)
def test_the_simulation_catches_a_verdict_on_the_numbers_of_the_search(variants: int, seeds: int) -> None:
    # The control: without it, studies too tame to punish the reuse would pass for proof of the rule.
    low, _ = bounds(beaten(Design(noises("equal", variants), seeds, judged_on="search")), STUDIES)
    assert low > 0.06
