import gc
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tuner.storage.events import Outcome
from tuner.verdict.paired_test import Comparison, compare, describe, holm, prediction_interval

IMAGES = 10_000
MIRROR = {
    Outcome.BEATS: Outcome.LOSES,
    Outcome.LOSES: Outcome.BEATS,
    Outcome.TIES: Outcome.TIES,
    Outcome.NOT_ENOUGH: Outcome.NOT_ENOUGH,
}

accuracies = st.integers(2_000, 8_000).map(lambda right: right / IMAGES)
pairs = st.lists(st.tuples(accuracies, accuracies), min_size=1, max_size=8)
p_lists = st.lists(st.floats(0, 1), max_size=8)
margins = st.sampled_from([0.0, 0.5, 5.0, 50.0])


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def shifted(*points: float) -> dict[int, float]:
    """Accuracies of a variant whose baseline has 0.70 on every seed."""
    return by_seed(*(0.70 + p / 100 for p in points))


def against_flat(*points: float, margin: float = 0.5, floor: float = 0.0) -> Comparison:
    [comparison] = compare(by_seed(*[0.70] * len(points)), {"v": shifted(*points)}, margin, floor=floor)
    return comparison


def among(variants: int, *points: float, margin: float = 0.5) -> Comparison:
    """The comparison of one variant among others that show nothing."""
    nothing = (-1.0, 1.0) * (len(points) // 2) + (0.0,) * (len(points) % 2)
    others = {f"other {i}": shifted(*nothing) for i in range(variants - 1)}
    return compare(by_seed(*[0.70] * len(points)), {"v": shifted(*points), **others}, margin)[0]


def split(pairs: list[tuple[float, float]]) -> tuple[dict[int, float], dict[int, float]]:
    return by_seed(*(a for a, _ in pairs)), by_seed(*(b for _, b in pairs))


# --- against independent references


@pytest.mark.parametrize("variants", [1, 4])
@pytest.mark.parametrize("seeds", [3, 5, 30])
def test_p_and_simultaneous_interval_are_those_of_the_paired_t_test(seeds: int, variants: int) -> None:
    draw = random.Random(seeds)
    a, b = ([draw.gauss(0.7, 0.01) for _ in range(seeds)] for _ in "ab")
    got, *_ = compare(by_seed(*a), {f"v{i}": by_seed(*b) for i in range(variants)}, margin=0.1)
    want = stats.ttest_rel(b, a)
    interval = want.confidence_interval(1 - 0.05 / variants)
    assert got.p == pytest.approx(want.pvalue)
    assert (got.low, got.high) == pytest.approx((100 * interval.low, 100 * interval.high))


@pytest.fixture(scope="module")
def little_garbage() -> Iterator[None]:
    """statsmodels collects garbage at each call: half a second, with torch and ray loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("little_garbage")
@settings(max_examples=50)
@given(p_lists.filter(len))
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


@pytest.mark.parametrize("arms", [1, 2, 6])
def test_every_variant_gets_its_own_holm_p(arms: int) -> None:
    draw = random.Random(arms)
    baseline = by_seed(*(draw.gauss(0.7, 0.01) for _ in range(5)))
    variants = {f"v{i}": {seed: a + draw.gauss(0.002 * i, 0.003) for seed, a in baseline.items()} for i in range(arms)}
    got = compare(baseline, variants, margin=0.0)
    raw = [stats.ttest_rel(list(v.values()), list(baseline.values())).pvalue for v in variants.values()]
    assert [c.arm for c in got] == list(variants)
    assert [c.p_holm for c in got] == pytest.approx(multipletests(raw, method="holm")[1])


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_prediction_interval_is_the_t_formula(level: float) -> None:
    values = [0.701, 0.698, 0.705, 0.700]
    half = stats.t.ppf((1 + level) / 2, 3) * stats.tstd(values) * math.sqrt(1 + 1 / 4)
    got = prediction_interval(values, level, widest=100)
    assert got == pytest.approx((0.701 - half, 0.701 + half))


def power(n: int, mean: float, sd: float, margin: float, variants: int) -> float:
    """Chance of a verdict on n seeds. A tie is integrated over the distribution of the sample's sd."""
    error = sd / math.sqrt(n)
    decided = stats.nct.sf(stats.t.isf(0.025 / variants, n - 1), n - 1, abs(mean) / error)
    share = (np.arange(4000) + 0.5) / 4000
    error_found = error * np.sqrt(stats.chi2.ppf(share, n - 1) / (n - 1))
    room = np.maximum(0, margin - stats.t.isf(0.025, n - 1) * error_found)
    tied = np.mean(stats.norm.cdf((room - mean) / error) - stats.norm.cdf((-room - mean) / error))
    return max(float(decided), float(tied))


@pytest.mark.parametrize("variants", [1, 6])
@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("mean", [-1.0, 0.2, 0.6])
def test_seeds_needed_is_the_first_count_with_a_power_of_80_percent(mean: float, margin: float, variants: int) -> None:
    got = among(variants, mean - 1, mean, mean + 1, margin=margin)
    wanted = got.seeds_needed
    assert got.outcome is Outcome.NOT_ENOUGH
    assert wanted is not None
    assert power(wanted - 1, mean, 1.0, margin, variants) < 0.8 <= power(wanted, mean, 1.0, margin, variants)


@pytest.mark.parametrize(
    ("mean", "unadjusted", "simultaneous", "wanted"),
    [(1.66, 1.57, 2.44, 10), (0.82, 1.45, 2.25, 26), (0.75, 1.64, 2.55, 38)],
    ids=["noam", "adamw_restarts", "amsgrad"],
)
def test_of_four_variants_on_five_seeds(mean: float, unadjusted: float, simultaneous: float, wanted: int) -> None:
    # Mean and half width as published in docs/results/cifar10-small.md.
    sd = unadjusted * math.sqrt(5) / stats.t.isf(0.025, 4)
    got = among(4, *(mean + sd * stats.zscore(np.arange(5), ddof=1)))
    assert got.high is not None
    assert got.high - mean == pytest.approx(simultaneous, abs=0.005)
    assert got.seeds_needed == wanted


# --- worked by hand


def test_differences_of_1_2_3_points_on_three_seeds() -> None:
    # t = 2 sqrt(3) with 2 degrees of freedom, whose p is 1 - t / sqrt(t^2 + 2); t_0.975 = 4.30265.
    got = against_flat(1, 2, 3)
    t = 2 * math.sqrt(3)
    assert got.mean_diff == pytest.approx(2)
    assert got.p == got.p_holm == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    assert (got.low, got.high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)
    # Tables of the power of a t-test give 0.75 for 4 pairs at an effect of 2 sd, and 0.91 for 5.
    assert (got.outcome, got.seeds_needed) == (Outcome.NOT_ENOUGH, 5)


@pytest.mark.parametrize(("margin", "outcome"), [(0.24, Outcome.NOT_ENOUGH), (0.25, Outcome.TIES)])
def test_an_interval_of_0_248_points_ties_only_within_a_wider_margin(margin: float, outcome: Outcome) -> None:
    # sd 0.1, so the half width is 4.30265 * 0.1 / sqrt(3) = 0.2484.
    assert against_flat(-0.1, 0, 0.1, margin=margin).outcome is outcome


def test_a_tie_needs_only_its_own_interval_inside_the_margin() -> None:
    # The half widths are 0.248 alone, and 10.886 * 0.1 / sqrt(3) = 0.6285 among six variants (t_0.99583 = 10.886).
    got = among(6, -0.1, 0.0, 0.1, margin=0.25)
    assert got.outcome is Outcome.TIES
    assert (got.low, got.high) == pytest.approx((-0.6285, 0.6285), abs=1e-4)


def test_a_small_but_certain_gain_ties_rather_than_beats() -> None:
    got = against_flat(0.19, 0.20, 0.21)
    assert got.p_holm is not None
    assert got.p_holm < 0.05
    assert got.outcome is Outcome.TIES


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([]) == ()


def test_a_gain_that_is_significant_alone_may_not_be_among_six() -> None:
    gain = {"v": shifted(1.0, 2.0, 3.0, 2.5)}
    baseline = by_seed(0.7, 0.7, 0.7, 0.7)
    others = {f"other {i}": shifted(-2, 1, 2, -1) for i in range(5)}
    alone, among = compare(baseline, gain, 0.5)[0], compare(baseline, gain | others, 0.5)[0]
    assert (alone.outcome, among.outcome) == (Outcome.BEATS, Outcome.NOT_ENOUGH)
    assert alone.p == among.p


def test_prediction_interval_by_hand() -> None:
    # t_0.75 with one degree of freedom is 1; sd = 0.02 / sqrt(2); times sqrt(3 / 2).
    half = 0.02 / math.sqrt(2) * math.sqrt(1.5)
    got = prediction_interval([0.70, 0.72], level=0.5, widest=10)
    assert got == pytest.approx((0.71 - half, 0.71 + half))


# --- degenerate cases


@pytest.mark.parametrize("points", [1.0, 0.0, -1.0])
@pytest.mark.parametrize("seeds", [3, 7])
def test_the_same_difference_on_every_seed_is_no_evidence_without_a_floor(points: float, seeds: int) -> None:
    baseline = {seed: 0.6 + 0.01 * seed for seed in range(seeds)}
    variant = {seed: a + points / 100 for seed, a in baseline.items()}
    [got] = compare(baseline, {"v": variant}, margin=0.5)
    assert (got.mean_diff, got.outcome) == (points, Outcome.NOT_ENOUGH)
    assert (got.low, got.high, got.p, got.p_holm, got.seeds_needed) == (None,) * 5
    assert got.note == "every seed gave the same difference"


@pytest.mark.parametrize(("points", "outcome"), [(1.0, Outcome.BEATS), (-1.0, Outcome.LOSES)])
def test_the_same_difference_on_every_seed_has_the_floor_as_its_sd(points: float, outcome: Outcome) -> None:
    # t = 1 / 0.1 * sqrt(3) with 2 degrees of freedom, whose p is 1 - t / sqrt(t^2 + 2).
    got = against_flat(points, points, points, floor=0.1)
    t = 10 * math.sqrt(3)
    assert got.p == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    assert (got.low, got.high) == pytest.approx((points - 0.24841, points + 0.24841), abs=1e-5)
    assert (got.outcome, got.note) == (outcome, "every seed gave the same difference")


def test_one_image_more_on_each_of_three_seeds_is_not_enough() -> None:
    # 359 images: the difference is 0.279 points and the floor 0.114, so t = sqrt(6) * sqrt(3) = 4.243 < 4.303.
    image = 100 / 359
    got = against_flat(image, image, image, margin=0.0, floor=image / math.sqrt(6))
    assert got.p == pytest.approx(1 - math.sqrt(18 / 20))


def test_a_floor_below_the_spread_changes_nothing() -> None:
    assert against_flat(1, 2, 3) == against_flat(1, 2, 3, floor=0.99) != against_flat(1, 2, 3, floor=1.01)


@pytest.mark.parametrize(("margin", "outcome"), [(0.5, Outcome.TIES), (0.0, Outcome.NOT_ENOUGH)])
def test_equal_results_tie_unless_the_margin_is_zero(margin: float, outcome: Outcome) -> None:
    got = against_flat(0, 0, 0, margin=margin, floor=0.1)
    assert (got.p, got.mean_diff, got.outcome, got.seeds_needed) == (1.0, 0.0, outcome, None)


def test_two_seeds_are_not_enough_however_alike() -> None:
    [got] = compare(by_seed(0.6, 0.6), {"v": by_seed(0.65, 0.65)}, margin=0.5)
    assert (got.n, got.p, got.low, got.outcome) == (2, None, None, Outcome.NOT_ENOUGH)
    assert describe(got) == "not enough evidence: +5.00 points, 2 seeds [a verdict needs at least 3 seeds]"


def test_one_seed_is_not_enough() -> None:
    got = against_flat(9)
    assert (got.n, got.mean_diff, got.outcome) == (1, 9.0, Outcome.NOT_ENOUGH)
    assert (got.low, got.high, got.p, got.p_holm, got.seeds_needed) == (None,) * 5
    assert describe(got) == "not enough evidence: +9.00 points, 1 seed [a verdict needs at least 3 seeds]"


def test_lost_seeds_are_left_out_and_named() -> None:
    baseline = {1: 0.70, 2: 0.70, 3: 0.70, 5: 0.70}
    variants = {"v": {1: 0.71, 2: 0.72, 4: 0.9, 5: 0.73}, "whole": dict.fromkeys([1, 2, 3, 4, 5], 0.7)}
    v, whole = compare(baseline, variants, margin=0.5)
    assert (v.n, v.mean_diff) == (3, 2.0)
    assert v.note == (
        "2 of 5 seeds lost: the variant has no result for seed 3 and the baseline has no result for seed 4"
    )
    assert whole.note.startswith("1 of 5 seeds lost: the baseline has no result for seed 4")


def test_an_arm_without_results_is_not_enough_and_keeps_its_place_in_the_family() -> None:
    baseline, gain = by_seed(0.7, 0.7, 0.7), shifted(1.0, 1.1, 1.3)
    failed, v = compare(baseline, {"failed": {}, "v": gain}, margin=0.5)
    assert (failed.n, failed.mean_diff, failed.outcome) == (0, None, Outcome.NOT_ENOUGH)
    assert describe(failed).startswith("not enough evidence [no seed to compare; 3 of 3 seeds lost")
    assert v.p is not None
    assert v.p_holm == pytest.approx(2 * v.p)


def test_a_baseline_without_results_judges_nothing() -> None:
    [got] = compare({}, {"v": shifted(1, 2)}, margin=0.5)
    assert got.outcome is Outcome.NOT_ENOUGH
    assert "the baseline has no result for seeds 0, 1" in got.note


def test_no_seeds_at_all_and_no_variants_at_all() -> None:
    [got] = compare({}, {"v": {}}, margin=0.5)
    assert (got.outcome, got.note) == (Outcome.NOT_ENOUGH, "no seed to compare")
    assert compare(by_seed(0.7), {}, margin=0.5) == ()


def test_a_hopeless_difference_asks_for_no_seeds() -> None:
    got = against_flat(-1, 0.001, 1, margin=0)
    assert (got.outcome, got.seeds_needed) == (Outcome.NOT_ENOUGH, None)
    assert describe(got).endswith("1000 seeds would probably not settle it")


def test_prediction_interval_is_never_wider_than_asked() -> None:
    assert prediction_interval([0.60, 0.80], widest=3.0) == pytest.approx((0.685, 0.715))
    assert prediction_interval([0.70], widest=3.0) == pytest.approx((0.685, 0.715))
    assert prediction_interval([0.70, 0.70, 0.70]) == (0.70, 0.70)
    assert prediction_interval([0.60, 0.80], widest=3.0, repeated=0.8) == pytest.approx((0.785, 0.815))
    assert prediction_interval([0.999]) == pytest.approx((0.984, 1.0))


BAD_CALLS: Mapping[str, Callable[[float], object]] = {
    "baseline": lambda bad: compare(by_seed(0.7, bad), {}, margin=0.5),
    "variant": lambda bad: compare(by_seed(0.7), {"v": by_seed(0.7, bad)}, margin=0.5),
    "holm": lambda bad: holm([0.1, bad]),
    "interval": lambda bad: prediction_interval([0.7, bad]),
    "margin": lambda bad: compare({}, {}, margin=-abs(bad)),
    "floor": lambda bad: compare({}, {}, margin=0.5, floor=-abs(bad)),
    "alpha": lambda bad: compare({}, {}, margin=0.5, alpha=bad),
    "level": lambda bad: prediction_interval([0.7], level=bad),
    "widest": lambda bad: prediction_interval([0.7], widest=-abs(bad)),
}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1.5, -0.5])
@pytest.mark.parametrize("call", BAD_CALLS)
def test_numbers_out_of_range_are_refused(call: str, bad: float) -> None:
    with pytest.raises(ValueError, match=str(abs(bad))):
        BAD_CALLS[call](bad)


def test_a_prediction_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        prediction_interval([])


# --- properties


@given(pairs, margins)
def test_swapping_the_arms_mirrors_the_verdict(results: list[tuple[float, float]], margin: float) -> None:
    a, b = split(results)
    [there], [back] = compare(a, {"v": b}, margin), compare(b, {"v": a}, margin)
    assert back.outcome is MIRROR[there.outcome]
    assert (back.p, back.seeds_needed) == (there.p, there.seeds_needed)
    assert back.mean_diff == pytest.approx(-(there.mean_diff or 0))


@given(pairs, margins, st.lists(st.integers(-1_000, 1_000), min_size=8, max_size=8))
def test_what_a_seed_does_to_all_arms_changes_nothing(
    results: list[tuple[float, float]], margin: float, effects: list[int]
) -> None:
    moved = [(a + effect / IMAGES, b + effect / IMAGES) for (a, b), effect in zip(results, effects, strict=False)]
    (a, b), (moved_a, moved_b) = split(results), split(moved)
    assert compare(a, {"v": b}, margin) == compare(moved_a, {"v": moved_b}, margin)


@given(pairs, margins)
def test_a_verdict_is_plain_json(results: list[tuple[float, float]], margin: float) -> None:
    a, b = split(results)
    [comparison] = compare(a, {"v": b}, margin)
    assert json.loads(json.dumps(asdict(comparison), allow_nan=False))["outcome"] == comparison.outcome.value


@given(pairs, margins)
def test_a_wider_margin_turns_nothing_but_into_ties(results: list[tuple[float, float]], margin: float) -> None:
    a, b = split(results)
    [narrow], [wide] = compare(a, {"v": b}, margin), compare(a, {"v": b}, margin + 1)
    assert wide.outcome in {narrow.outcome, Outcome.TIES}


@given(p_lists)
def test_holm_only_raises_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    assert sorted(adjusted) == [adjusted[i] for i in sorted(range(len(p_values)), key=p_values.__getitem__)]


# --- words


@pytest.mark.parametrize(
    ("points", "phrase"),
    [
        (
            (1.0, 2.0, 3.0),
            "not enough evidence: +2.00 ± 2.48 points (Holm p = 0.0742, 3 seeds); about 5 seeds would probably settle",
        ),
        ((1.0, 2.0, 3.0, 2.0), "this setting beats the baseline's by 2.00 ± 1.30 points (Holm p = 0.0163, 4 seeds)"),
        (
            (-1.0, -2.0, -3.0, -2.0),
            "this setting loses to the baseline's by 2.00 ± 1.30 points (Holm p = 0.0163, 4 seeds)",
        ),
        ((-0.1, 0.0, 0.1), "this setting ties: +0.00 ± 0.25 points, margin ±0.5 (3 seeds)"),
        ((2.0, 2.0, 2.0), "not enough evidence: +2.00 points, 3 seeds [every seed gave the same difference]"),
    ],
)
def test_a_verdict_in_words(points: tuple[float, ...], phrase: str) -> None:
    assert describe(against_flat(*points)).startswith(phrase)


def test_a_repeated_run_may_differ_from_its_own_value_as_two_runs_differ() -> None:
    values = [0.700, 0.702, 0.704, 0.701]
    new, again = prediction_interval(values), prediction_interval(values, repeated=0.704)
    assert sum(again) / 2 == pytest.approx(0.704)
    assert (again[1] - again[0]) / (new[1] - new[0]) == pytest.approx(math.sqrt(2 / (1 + 1 / 4)))
