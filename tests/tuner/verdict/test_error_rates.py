"""The whole path from noisy search to verdict, many times over, on studies whose truth is known."""

from functools import cache

import numpy as np
import pytest
from scipy import stats

from tests.tuner.simulated_studies import Design, simulate
from tuner.storage.events import Outcome
from tuner.verdict.paired_test import compare

STUDIES = 2_000
EQUAL, UNEQUAL = (0.003,) * 7, (0.003, 0.001, 0.009, 0.002, 0.006, 0.003, 0.012)
NOISES = {"equal": EQUAL, "unequal": UNEQUAL}
SEEDS = (3, 5, 10)
IMAGES = 359
"""Test images of the digits."""


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


@pytest.mark.parametrize(("floor", "sound"), [(100 / IMAGES / np.sqrt(6), True), (1e-6, False)])
def test_a_floor_undoes_the_certainty_of_equal_rounded_differences(floor: float, sound: bool) -> None:
    # The control: almost without a floor, equal differences by chance pass for a verdict.
    rng = np.random.default_rng(20180503)
    wrong = 0
    for _ in range(STUDIES // 2):
        true_AS = 0.9 + 0.02 * rng.standard_normal(3) + 0.0015 * rng.standard_normal((5, 3))
        rounded_AS = np.round(np.minimum(1, true_AS) * IMAGES) / IMAGES
        baseline, *others = (dict(enumerate(row_S)) for row_S in rounded_AS.tolist())
        found = compare(baseline, {f"v{i}": row for i, row in enumerate(others)}, margin=0.0, floor=floor)
        wrong += any(c.outcome is not Outcome.NOT_ENOUGH for c in found)
    low, high = bounds(wrong, STUDIES // 2)
    assert high <= 0.06 if sound else low > 0.06


def test_the_advised_number_of_seeds_settles_four_of_five_studies() -> None:
    # The sample has a mean of 1 point and an sd of 1 point, and so have the studies.
    [advice] = compare(dict.fromkeys(range(3), 0.5), {"v": {0: 0.50, 1: 0.51, 2: 0.52}}, margin=0.0)
    assert advice.seeds_needed is not None
    points = np.random.default_rng(20180504).normal(1.0, 1.0, (STUDIES, advice.seeds_needed))
    baseline = dict.fromkeys(range(advice.seeds_needed), 0.5)
    settled = sum(
        compare(baseline, {"v": dict(enumerate(row))}, margin=0.0)[0].outcome is Outcome.BEATS
        for row in (0.5 + points / 100).tolist()
    )
    low, high = bounds(settled, STUDIES)
    assert 0.78 < low < high < 0.83
