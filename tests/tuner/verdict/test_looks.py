"""Legend: J jobs, V variants, U units."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy import stats

from tuner.storage.events import Outcome
from tuner.verdict.levels import SHRINK, Floats, levels, smallest_margin
from tuner.verdict.looks import LookPlan, Simulated, Standing, chances, judge_alone, judge_look, simulate

SHORT, LONG = (4, 6, 8, 12), (5, 8, 12, 18, 25)
PLAN = LookPlan(SHORT, margin=0.5, variants=2)
JOBS = 5_000
VERDICTS = (Outcome.BEATS, Outcome.LOSES, Outcome.TIES)
MIRROR = {Outcome.BEATS: Outcome.LOSES, Outcome.LOSES: Outcome.BEATS}
FLAT = (-1.0, 1.0, -1.0, 1.0)
"""Four differences whose mean is 0."""


def drawn(gains: Sequence[float], units: int, jobs: int = JOBS) -> Floats:
    """Differences with sd 1 to a shared baseline, one variant per gain."""
    results_JAU = np.random.default_rng(20261127).standard_normal((jobs, 1 + len(gains), units)) / math.sqrt(2)
    return np.asarray(results_JAU[:, 1:] - results_JAU[:, :1] + np.array(gains)[:, None])


def with_t(t: float, units: int = 4, mean: float = 1.0) -> list[float]:
    """Differences with this mean whose one-sample t is ``t``."""
    shape = stats.zscore(np.arange(units), ddof=1)
    return list(mean + shape * mean * math.sqrt(units) / t)


def with_p(p: float, units: int = 4) -> list[float]:
    """Differences with a mean of 1 point whose two-sided p is ``p``."""
    return with_t(float(stats.t.isf(p / 2, units - 1)), units)


def judged(plan: LookPlan, *units: Sequence[float], look: int = 1, **settled: Outcome) -> list[Standing]:
    return list(judge_look(plan, look, {f"v{i}": list(row) for i, row in enumerate(units)}, settled))


def outcomes(standings: Sequence[Standing]) -> list[Outcome]:
    return [standing.outcome for standing in standings]


def close(hits: int, draws: int, chance: float, rounding: float) -> bool:
    """Whether a 99.9 % interval of the chance (Clopper-Pearson) holds a value that was rounded to ``chance``."""
    interval = stats.binomtest(hits, draws).proportion_ci(0.999)
    return bool(interval.low - rounding <= chance <= interval.high + rounding)


# --- the level of each look


def test_nominal_levels_with_four_variants_left() -> None:
    # These figures come from an integration on a coarse grid. The first is 0.00625 * 0.2 ** 1.5 = 0.00056, so 5 %.
    want = (0.00054, 0.00069, 0.00121, 0.00226, 0.00358)
    assert levels(LONG, 0.05 / 2 / 4) == pytest.approx([SHRINK * level for level in want], rel=0.05)


@pytest.mark.parametrize("at", [SHORT, LONG, (3, 30, 31)])
@pytest.mark.parametrize("alpha", [0.05, 0.00625])
def test_the_looks_up_to_each_share_spend_their_part_of_alpha(at: tuple[int, ...], alpha: float) -> None:
    bounds = stats.norm.isf(np.array(levels(at, alpha)) / SHRINK)
    share = np.array(at) / at[-1]
    correlation = np.sqrt(np.minimum.outer(share, share) / np.maximum.outer(share, share))
    for look in range(1, len(at) + 1):
        normal = stats.multivariate_normal(np.zeros(look), correlation[:look, :look], abseps=1e-5, seed=1)
        assert 1 - normal.cdf(bounds[:look]) == pytest.approx(alpha * share[look - 1] ** 1.5, abs=3e-5)


def test_the_first_level_and_the_level_of_a_single_look_by_hand() -> None:
    assert levels((5, 20), 0.025)[0] == pytest.approx(SHRINK * 0.025 / 8)
    assert levels((9,), 0.025) == pytest.approx((SHRINK * 0.025,))


# --- rates, against the published table (20,000 jobs a cell)


@cache
def table_cell(at: tuple[int, ...], margin: float, gain: float) -> Simulated:
    return simulate(LookPlan(at, margin, 4), drawn([gain, 0, 0, 0], at[-1]))


@pytest.mark.parametrize(
    ("at", "margin", "gain", "power", "searches"),
    [
        (SHORT, 0.5, 0.5, 0.12, None),
        (SHORT, 0.5, 1.0, 0.58, 41),
        (SHORT, 0.5, 2.0, 0.999, 38),
        (LONG, 0.5, 0.5, 0.37, None),
        (LONG, 0.5, 1.0, 0.97, 104),
        (LONG, 1.0, 0.5, 0.30, None),
        (LONG, 1.0, 1.0, 0.96, 78),
    ],
)
def test_power_and_cost_are_those_of_the_table(
    at: tuple[int, ...], margin: float, gain: float, power: float, searches: float | None
) -> None:
    found = table_cell(at, margin, gain)
    assert close(int((found.outcomes[:, 0] == Outcome.BEATS).sum()), JOBS, power, rounding=0.005)
    if searches is not None:
        assert (found.units.sum(1) + found.units.max(1)).mean() == pytest.approx(searches, abs=1.5)


@pytest.mark.parametrize(("at", "margin", "rate"), [(SHORT, 0.5, 0.024), (LONG, 0.5, 0.025), (LONG, 1.0, 0.017)])
def test_false_beats_are_as_rare_as_in_the_table(at: tuple[int, ...], margin: float, rate: float) -> None:
    beaten = (table_cell(at, margin, 0.0).outcomes == Outcome.BEATS).any(axis=1)
    assert close(int(beaten.sum()), JOBS, rate, rounding=0.001)


def test_with_a_margin_of_one_sd_nearly_every_variant_is_settled() -> None:
    assert np.isin(table_cell(LONG, 1.0, 0.0).outcomes, VERDICTS).mean() > 0.99


@pytest.mark.parametrize("at", [SHORT, LONG])
def test_any_wrong_direction_in_a_job_stays_under_the_level(at: tuple[int, ...]) -> None:
    # A margin of 0 and no futility, so that no false verdict hides behind an early stop.
    found = simulate(LookPlan(at, 0.0, 4, futile=0.0), drawn([0, 0, 0, 0], at[-1])).outcomes
    wrong = int((found != Outcome.NOT_ENOUGH).any(axis=1).sum())
    assert 0.03 < stats.binomtest(wrong, JOBS).proportion_ci(0.9).low < 0.05


def test_a_true_difference_equal_to_the_margin_ties_in_five_percent() -> None:
    found = simulate(LookPlan(LONG, 1.0, 1, futile=0.0, alpha=1e-6), drawn([1.0], LONG[-1])).outcomes
    assert close(int((found == Outcome.TIES).sum()), JOBS, 0.05, rounding=0.002)


def test_a_placebo_warns_in_about_five_percent_of_sound_jobs() -> None:
    differences_JVU = drawn([0.0], SHORT[-1])
    warns = simulate(LookPlan(SHORT, 0.0, 1, futile=0.0), differences_JVU).outcomes[:, 0] != Outcome.NOT_ENOUGH
    assert close(int(warns.sum()), JOBS, 0.05, rounding=0.002)
    for row, warned in zip(differences_JVU[:200, 0].tolist(), warns, strict=False):
        found = outcomes([judge_alone(PLAN, look, row[:at]) for look, at in enumerate(SHORT, 1)])
        assert (set(found) != {Outcome.NOT_ENOUGH}) == warned


# --- the order of the decisions


def test_a_rejection_releases_its_alpha_to_the_others_at_the_same_look() -> None:
    shared, alone = 2 * levels(SHORT, 0.05 / 4)[0], 2 * levels(SHORT, 0.05 / 2)[0]
    weak = with_p((shared + alone) / 2)
    strong, second = judged(PLAN, with_p(shared / 2), weak)
    assert outcomes([strong, second]) == [Outcome.BEATS] * 2
    assert [strong.level, second.level] == pytest.approx([shared, alone])
    assert outcomes(judged(PLAN, weak, weak)) == [Outcome.NOT_ENOUGH] * 2


@pytest.mark.parametrize(
    ("earlier", "outcome"),
    [
        (Outcome.BEATS, Outcome.BEATS),
        (Outcome.LOSES, Outcome.BEATS),
        (Outcome.TIES, Outcome.NOT_ENOUGH),
        (Outcome.FUTILE, Outcome.NOT_ENOUGH),
    ],
)
def test_of_earlier_outcomes_only_a_rejection_releases_alpha(earlier: Outcome, outcome: Outcome) -> None:
    weak = with_p(levels(SHORT, 0.05 / 4)[0] + levels(SHORT, 0.05 / 2)[0])
    [standing] = judge_look(PLAN, 1, {"old": [0.0], "v": weak}, {"old": earlier})
    assert (standing.arm, standing.outcome) == ("v", outcome)


def test_a_variant_without_results_keeps_its_place_in_the_family() -> None:
    one = judge_look(PLAN, 1, {"v": with_t(4.0)}, {})[0]
    assert one.level == pytest.approx(2 * levels(SHORT, 0.05 / 4)[0])


def test_a_small_but_certain_gain_beats_rather_than_ties() -> None:
    certain = with_t(100.0, mean=0.2)
    assert outcomes(judged(PLAN, certain, FLAT))[0] is Outcome.BEATS


def test_a_tie_comes_before_futility() -> None:
    small = [0.01 * unit for unit in FLAT]
    assert outcomes(judged(replace(PLAN, futile=0.999), small, FLAT)) == [Outcome.TIES, Outcome.FUTILE]


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_equal_arms_never_tie_with_a_margin_of_zero(margin: float) -> None:
    found = simulate(LookPlan(SHORT, margin, 1), 0.1 * drawn([0.0], 12)).outcomes
    assert (found == Outcome.TIES).any() == (margin > 0)


def test_futility_stops_before_the_last_look_and_never_at_it() -> None:
    stopped, last = judged(PLAN, FLAT), judged(PLAN, FLAT * 3, look=4)
    assert outcomes(stopped) == [Outcome.FUTILE]
    assert outcomes(last) == [Outcome.NOT_ENOUGH]
    assert outcomes(judged(replace(PLAN, futile=0.0), FLAT)) == [Outcome.NOT_ENOUGH]


@pytest.mark.parametrize("margin", [0.5, 0.8])
@pytest.mark.parametrize("mean", [0.3, -0.6])
def test_futility_is_a_small_chance_of_a_verdict_at_the_cap(margin: float, mean: float) -> None:
    rng = np.random.default_rng(5)
    units = list(mean + stats.zscore([0.0, 1.0, 2.0, 3.0, 4.0], ddof=1))
    truth = rng.normal(mean, 1 / math.sqrt(5), 100_000)
    at_cap = (5 * mean + 20 * rng.normal(truth, 1 / math.sqrt(20))) / 25
    rejects = np.abs(at_cap) * 5 > stats.t.isf(levels(LONG, 0.05 / 4)[-1], 24)
    ties = np.abs(at_cap) < margin - stats.t.isf(levels(LONG, 0.05)[-1], 24) / 5
    chance = float((rejects | ties).mean())
    plans = [LookPlan(LONG, margin, 2, futile=chance + change) for change in (-0.01, 0.01)]
    assert [outcomes(judged(plan, units))[0] for plan in plans] == [Outcome.NOT_ENOUGH, Outcome.FUTILE]


# --- one variant


def test_p_and_interval_are_those_of_the_t_test_at_the_level_of_the_look() -> None:
    units = [1.3, -0.4, 0.9, 2.0, 0.1, 0.7]
    [standing] = judged(PLAN, units, look=2)
    want = stats.ttest_1samp(units, 0)
    interval = want.confidence_interval(1 - 2 * levels(SHORT, 0.05 / 4)[1])
    assert (standing.n, standing.look) == (6, 2)
    assert standing.p == pytest.approx(want.pvalue)
    assert (standing.low, standing.high) == pytest.approx(tuple(interval))


def test_a_lost_unit_costs_a_degree_of_freedom_and_not_a_level() -> None:
    whole, lost = judged(PLAN, [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0])
    assert (whole.n, lost.n, whole.level) == (4, 3, lost.level)
    assert lost.p == pytest.approx(stats.ttest_1samp([1.0, 2.0, 4.0], 0).pvalue)


@pytest.mark.parametrize(("units", "mean"), [((), None), ((9.0,), 9.0), ((9.0, 9.1), 9.05)])
def test_fewer_than_three_units_are_never_enough(units: tuple[float, ...], mean: float | None) -> None:
    [standing] = judged(replace(PLAN, floor=0.01), units)
    assert standing.mean_diff == pytest.approx(mean)
    assert (standing.p, standing.low, standing.high, standing.outcome) == (None, None, None, Outcome.NOT_ENOUGH)


def test_without_spread_only_a_floor_makes_a_test() -> None:
    # 0.3 - 0.1 and 0.2 differ in the 17th digit; the floor of 0.1 makes t = 0.2 / 0.1 * sqrt(4) = 4.
    same = [0.2, 0.3 - 0.1, 0.2, 0.3 - 0.1]
    [unknown], [floored] = judged(PLAN, same), judged(replace(PLAN, floor=0.1), same)
    assert (unknown.p, unknown.low, unknown.outcome) == (None, None, Outcome.NOT_ENOUGH)
    assert floored.p == pytest.approx(2 * stats.t.sf(4, 3))


def test_a_floor_below_the_spread_changes_nothing() -> None:
    units = with_t(3.0)
    assert judged(PLAN, units) == judged(replace(PLAN, floor=0.01), units)
    assert judged(PLAN, units) != judged(replace(PLAN, floor=10.0), units)


def test_a_placebo_is_tested_alone_and_neither_ties_nor_stops() -> None:
    level = 2 * levels(SHORT, 0.05 / 2)[0]
    found = [judge_alone(PLAN, 1, units) for units in (with_p(0.99 * level), with_p(1.01 * level), FLAT, [0.0] * 4)]
    assert outcomes(found) == [Outcome.BEATS, *[Outcome.NOT_ENOUGH] * 3]
    assert [standing.level for standing in found] == pytest.approx([level] * 4)
    assert found[0].arm == "placebo"


# --- one rule


def test_look_by_look_and_simulated_a_job_ends_alike() -> None:
    plan = LookPlan(SHORT, margin=0.8, variants=4)
    differences_JVU = drawn([1.5, -1.0, 0.5, 0.0], 12, jobs=200)
    simulated = simulate(plan, differences_JVU)
    seen = set()
    for job, rows in enumerate(differences_JVU.tolist()):
        settled: dict[str, Outcome] = {}
        units = dict.fromkeys("abcd", 0)
        for look, at in enumerate(SHORT, 1):
            running = {arm: row[:at] for arm, row in zip("abcd", rows, strict=True) if arm not in settled}
            units |= dict.fromkeys(running, at)
            standings = judge_look(plan, look, running, settled)
            for standing in standings:
                assert standing.p is not None
                assert standing.low is not None
                assert standing.high is not None
                rejected = standing.outcome in (Outcome.BEATS, Outcome.LOSES)
                assert rejected == (standing.p <= standing.level) == (not standing.low <= 0 <= standing.high)
            settled |= {s.arm: s.outcome for s in standings if s.outcome is not Outcome.NOT_ENOUGH}
        ends = [settled.get(arm, Outcome.NOT_ENOUGH) for arm in "abcd"]
        assert simulated.outcomes[job].tolist() == ends
        assert simulated.units[job].tolist() == list(units.values())
        seen |= set(ends)
    assert seen == set(Outcome)


def test_mirrored_differences_mirror_the_verdicts() -> None:
    plan, differences_JVU = LookPlan(SHORT, margin=0.8, variants=3), drawn([1.5, -1.0, 0.0], 12, jobs=300)
    there, back = simulate(plan, differences_JVU), simulate(plan, -differences_JVU)
    assert [MIRROR.get(Outcome(o), o) for o in there.outcomes.ravel()] == back.outcomes.ravel().tolist()
    assert (there.units == back.units).all()


# --- planning


def test_the_smallest_margin_is_the_first_that_ties_at_the_cap() -> None:
    margin = smallest_margin(SHORT, sd=2.0)
    units = list(2.0 * stats.zscore(np.arange(12), ddof=1))
    plans = [LookPlan(SHORT, margin * factor, 1) for factor in (0.999, 1.001)]
    assert [outcomes(judged(plan, units, look=4)) for plan in plans] == [[Outcome.NOT_ENOUGH], [Outcome.TIES]]


def test_chances_are_shares_of_simulated_jobs() -> None:
    plan = LookPlan(SHORT, margin=1.0, variants=4)
    none, gain, loss = chances(plan, sd=2.0, gains=(0, 2, -4))
    found = table_cell(SHORT, 0.5, 1.0)
    assert close(round(2000 * gain.beats), 2000, float((found.outcomes[:, 0] == Outcome.BEATS).mean()), rounding=0.02)
    assert gain.searches == pytest.approx((found.units.sum(1) + found.units.max(1)).mean(), abs=1.5)
    assert (none.gain, gain.gain, loss.gain) == (0, 2, -4)
    assert loss.loses > 0.99
    assert none.settled == none.beats + none.ties + none.loses < gain.settled < loss.settled


def test_chances_depend_on_the_seed_alone() -> None:
    first, again, other = (chances(PLAN, 1.0, [0.7], jobs=100, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


# --- bad values


BAD_CALLS: Mapping[str, Callable[[], object]] = {
    "the first at least 3, not": lambda: LookPlan((2, 5), 0.5, 1),
    "increasing numbers": lambda: LookPlan((5, 5), 0.5, 1),
    "increasing numbers of units, the first at least 3, not ()": lambda: levels((), 0.05),
    "variants must be at least 1, not 0": lambda: LookPlan(SHORT, 0.5, 0),
    "margin must be a finite number of points, at least 0, not -1": lambda: LookPlan(SHORT, -1, 1),
    "floor must be a finite number of points, at least 0, not nan": lambda: replace(PLAN, floor=math.nan),
    "tie_alpha must be above 0 and below 1, not 1": lambda: replace(PLAN, tie_alpha=1),
    "alpha must be above 0 and below 1, not 0": lambda: levels(SHORT, 0),
    "futile must be at least 0 and below 1, not 1": lambda: replace(PLAN, futile=1),
    "sd must be a finite number of points, at least 0, not inf": lambda: smallest_margin(SHORT, math.inf),
    "sd must be a finite number of points above 0, not 0": lambda: chances(PLAN, 0, [1]),
    "jobs must be at least 1, not 0": lambda: chances(PLAN, 1, [1], jobs=0),
    "look must be from 1 to 4, not 5": lambda: judge_look(PLAN, 5, {}, {}),
    "2 variants, not 3 (a, b, c)": lambda: judge_look(PLAN, 1, {"c": [], "a": []}, {"b": Outcome.TIES}),
    "a is not settled": lambda: judge_look(PLAN, 1, {}, {"a": Outcome.NOT_ENOUGH}),
    "a has 5 units; look 1 is at 4": lambda: judge_look(PLAN, 1, {"a": [0.0] * 5}, {}),
    "differences of a must be finite": lambda: judge_look(PLAN, 1, {"a": [math.nan]}, {}),
    "differences must be finite": lambda: simulate(PLAN, np.full((1, 2, 12), np.inf)),
    "(jobs, 2, at least 12), not (1, 2, 11)": lambda: simulate(PLAN, np.zeros((1, 2, 11))),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_values_out_of_range_are_refused(message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        BAD_CALLS[message]()
