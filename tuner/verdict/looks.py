"""The verdict on arms whose evidence grows: it is looked at after planned numbers of units, until it is settled.

A unit is one search per arm. The verdict uses the unit-wise differences between a variant and the baseline, in points.
For a metric of the user's, "points" below stands for the metric's own unit, and a difference is a gain: positive is
better.
Legend: J jobs, V variants, U units, L looks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr, stdtrit

from tuner.storage.events import Outcome
from tuner.verdict.levels import Floats, check_looks, levels
from tuner.verdict.paired_test import LEAST_PAIRS, NONE_DIVERGED, Diverged, no_verdict

DIGITS = 9
"""Digits to which a difference in points is rounded. Equal differences must not show a spread of 1e-15."""

OUTCOMES = (Outcome.NOT_ENOUGH, Outcome.BEATS, Outcome.LOSES, Outcome.TIES, Outcome.FUTILE)
OPEN, BEATS, LOSES, TIES, FUTILE = range(len(OUTCOMES))
"""The outcomes as numbers, for arrays."""


@dataclass(frozen=True)
class LookPlan:
    """When a job is looked at, and by which rule. It is fixed before the first look.

    Attributes:
        at: number of units at each look, increasing; the first is at least 3, the last is the cap.
        margin: points within which a difference does not matter, at least 0.
        variants: number of variants that are compared with the baseline (Holm's family), at least 1.
        alpha: two-sided chance that any variant is wrongly said to beat or to lose, between 0 and 1.
        tie_alpha: chance that one variant is wrongly said to tie, between 0 and 1. It holds for each variant alone.
        futile: a variant stops if its chance of a verdict at the cap is below this; from 0 (never) to below 1.
        floor: smallest standard deviation of the differences that is believed, in points, at least 0.
        digits: decimals to which differences are rounded; None if the caller has rounded them.

    Raises:
        ValueError: a value is out of range.
    """

    at: tuple[int, ...]
    margin: float
    variants: int
    alpha: float = 0.05
    tie_alpha: float = 0.05
    futile: float = 0.10
    floor: float = 0.0
    digits: int | None = DIGITS

    def __post_init__(self) -> None:
        check_looks(self.at)
        if self.variants < 1:
            raise ValueError(f"variants must be at least 1, not {self.variants}")
        for what, points in (("margin", self.margin), ("floor", self.floor)):
            if not 0 <= points < math.inf:
                raise ValueError(f"{what} must be a finite number of points, at least 0, not {points}")
        for what, level in (("alpha", self.alpha), ("tie_alpha", self.tie_alpha)):
            if not 0 < level < 1:
                raise ValueError(f"{what} must be above 0 and below 1, not {level}")
        if not 0 <= self.futile < 1:
            raise ValueError(f"futile must be at least 0 and below 1, not {self.futile}")


@dataclass(frozen=True)
class Standing:
    """How one variant stands after a look. A number is None if there are too few units for it.

    Attributes:
        arm: the variant's name.
        n: number of units on which both the variant and the baseline have a result.
        mean_diff: mean of the unit-wise differences, variant minus baseline, in points.
        low: lower end of the repeated confidence interval of this mean, in points (Jennison & Turnbull 1989, J. R.
            Stat. Soc. B 51:305-361). It is the t interval at ``level``: it excludes 0 if and only if the variant
            beats or loses. It is simultaneous over looks and variants: in simulated jobs of four variants, all
            intervals of all looks held in 95 to 99 % of the jobs. A rejection raises ``level`` for the others.
        high: upper end of the same interval, in points.
        p: two-sided p-value of the paired t-test at this look.
        level: two-sided level of this look; the variant beats or loses if p is at most this level.
        outcome: the verdict so far. ``NOT_ENOUGH`` before the last look means that the arm continues.
        look: number of the look, from 1.
        note: a fact that the reader needs besides the numbers; else "".
    """

    arm: str
    n: int
    mean_diff: float | None
    low: float | None
    high: float | None
    p: float | None
    level: float
    outcome: Outcome
    look: int
    note: str = ""


class Simulated(NamedTuple):
    """The verdicts of simulated jobs.

    Attributes:
        outcomes: values of ``Outcome``, of shape (jobs, variants).
        units: number of units at which the variant stopped, of shape (jobs, variants). The baseline runs as long as
            any variant does, so a job costs ``units.sum(1) + units.max(1)`` searches.
    """

    outcomes: NDArray[np.str_]
    units: NDArray[np.int64]


@dataclass(frozen=True)
class Chances:
    """What a plan will probably find on a variant with a true gain, if the other variants have none.

    Attributes:
        gain: true difference to the baseline, in points.
        beats: chance that the variant is said to beat the baseline, 0 to 1.
        ties: chance of a tie.
        loses: chance that it is said to lose.
        settled: chance of any of the three.
        searches: mean number of units of all arms together, the baseline included.
    """

    gain: float
    beats: float
    ties: float
    loses: float
    settled: float
    searches: float


def judge_look(
    plan: LookPlan,
    look: int,
    differences: Mapping[str, Sequence[float]],
    settled: Mapping[str, Outcome],
    diverged: Mapping[str, Diverged] | None = None,
) -> tuple[Standing, ...]:
    """Judge the variants that are not settled yet, with all units up to this look.

    The rules apply in this order:

    1. The variant *beats* or *loses to* the baseline if the p of its paired t-test is at most the level of this look.
       The level belongs to ``alpha`` divided by the number of variants not yet rejected (Holm's procedure as a graph
       with looks: Maurer & Bretz 2013, Stat. Biopharm. Res. 5:311-320). A rejection raises the level of the others,
       so the rule repeats until it rejects no more.
    2. The variant *ties* if two one-sided t-tests show that the difference is inside ``±margin``, both with a p of at
       most the look's level of ``tie_alpha``. This is not adjusted over the variants.
    3. The variant is *futile* if its chance of a verdict at the cap is below ``plan.futile``, given the results so
       far. This rule stops runs; it is not a verdict, and it does not apply at the last look.
    4. Otherwise there is *not enough evidence* yet; after the last look, for good.

    A variant with units that diverged (``diverged``) can only lose, and none can if the baseline has such units. So it
    is futile if the chance of that is small.

    A variant with fewer than 3 units is not judged. The same holds for differences without any spread if the floor
    is 0: they leave the t-test undefined.

    Args:
        plan: the looks and the rule.
        look: number of this look, from 1.
        differences: for every variant, its unit-wise differences to the baseline in points. A lost unit is missing, so
            a variant may have fewer units than planned. The test then has the degrees of freedom of the units it has.
        settled: outcomes of earlier looks. Variants that beat or lose release their part of alpha to the others; those
            that tie or are futile keep it.
        diverged: for every variant, its units and those of the baseline that stand in for runs of the user's that
            diverged; default: none.

    Returns:
        One standing for each variant that is in ``differences`` and not in ``settled``, in the order of
        ``differences``.

    Raises:
        ValueError: the look is not in the plan, there are more variants or units than planned, a difference is not
            finite, or an outcome in ``settled`` is ``NOT_ENOUGH``.
    """
    _check_look(plan, look, differences, settled)
    arms = [arm for arm in differences if arm not in settled]
    codes = [OUTCOMES.index(outcome) for outcome in settled.values()] + [OPEN] * (plan.variants - len(settled))
    # The order of the family: settled arms, arms to judge, arms without results. All are one job of V variants.
    rows: list[Sequence[float]] = [()] * len(settled) + [differences[arm] for arm in arms]
    rows += [()] * (plan.variants - len(rows))
    samples = [_sample(np.array([row], dtype=np.float64), plan) for row in rows]
    sample_JV = _Sample(*(np.stack(values, axis=1) for values in zip(*samples, strict=True)))
    first = len(settled)
    lost = [(diverged or {}).get(arm, NONE_DIVERGED) for arm in arms]
    bars_JV = np.zeros((1, plan.variants), np.int8)
    bars_JV[0, first : first + len(arms)] = [2 if one.baseline else int(one.any) for one in lost]
    verdict = _decide(plan, look - 1, sample_JV, np.array([codes], dtype=np.int8), bars_JV)
    return tuple(_standing(arm, look, first + i, sample_JV, verdict, lost[i]) for i, arm in enumerate(arms))


def judge_alone(
    plan: LookPlan,
    look: int,
    differences: Sequence[float],
    arm: str = "placebo",
    diverged: Diverged = NONE_DIVERGED,
) -> Standing:
    """Judge a placebo: an arm that repeats the baseline under another name.

    A placebo is not in Holm's family. It is tested alone, at the two-sided ``plan.alpha`` spent over the looks. So it
    beats or loses at some look in about 5 % of sound jobs. It never ties and is never futile, because it runs as long
    as any arm does. Its first rejection counts: the caller keeps it.

    Args:
        plan: the looks and the rule of the job.
        look: number of this look, from 1.
        differences: unit-wise differences of the placebo to the baseline, in points.
        arm: name of the placebo.
        diverged: as in ``judge_look``.

    Returns:
        Its standing, with the outcome ``BEATS``, ``LOSES`` or ``NOT_ENOUGH``.

    Raises:
        ValueError: as in ``judge_look``.
    """
    alone = replace(plan, variants=1, margin=0.0, futile=0.0)
    [standing] = judge_look(alone, look, {arm: differences}, {}, {arm: diverged})
    return standing


def simulate(plan: LookPlan, differences: Floats) -> Simulated:
    """Judge many jobs from the first look to the last, by the rule of ``judge_look``.

    Args:
        plan: the looks and the rule.
        differences: unit-wise differences in points, of shape (jobs, variants, units); at least as many units as the
            cap. Units beyond the cap are ignored.

    Returns:
        The final outcome of every variant, and the units that it took.

    Raises:
        ValueError: the shape does not fit the plan, or a difference is not finite.
    """
    if differences.ndim != 3 or differences.shape[1] != plan.variants or differences.shape[2] < plan.at[-1]:
        wanted = f"(jobs, {plan.variants}, at least {plan.at[-1]})"
        raise ValueError(f"differences must have the shape {wanted}, not {differences.shape}")
    if not np.isfinite(differences).all():
        raise ValueError("differences must be finite")
    codes_JV = np.full(differences.shape[:2], OPEN, np.int8)
    units_JV = np.zeros(differences.shape[:2], np.int64)
    no_bars_JV = np.zeros(differences.shape[:2], np.int8)
    for look, units in enumerate(plan.at):
        units_JV[codes_JV == OPEN] = units
        codes_JV = _decide(plan, look, _sample(differences[:, :, :units], plan), codes_JV, no_bars_JV).codes
    return Simulated(np.array([outcome.value for outcome in OUTCOMES])[codes_JV], units_JV)


def chances(plan: LookPlan, sd: float, gains: Sequence[float], jobs: int = 2000, seed: int = 0) -> tuple[Chances, ...]:
    """The chance of each outcome for one variant with a true gain while the other variants have none.

    Simulated with normal results. All arms have the same spread and share the baseline, so the differences of two
    variants correlate 0.5.

    Args:
        plan: the looks and the rule.
        sd: standard deviation of the unit-wise differences, in points, above 0.
        gains: true differences of the variant to the baseline, in points.
        jobs: number of simulated jobs, at least 1. The standard error of a chance is at most 0.5 / sqrt(jobs).
        seed: seed of the simulation. The same draws serve every gain.

    Returns:
        The chances for each gain.

    Raises:
        ValueError: ``sd``, ``jobs`` or a gain is out of range.
    """
    if not 0 < sd < math.inf:
        raise ValueError(f"sd must be a finite number of points above 0, not {sd}")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {jobs}")
    results_JAU = np.random.default_rng(seed).standard_normal((jobs, 1 + plan.variants, plan.at[-1]))
    noise_JVU = sd / math.sqrt(2) * (results_JAU[:, 1:] - results_JAU[:, :1])
    return tuple(_chances_of(plan, noise_JVU, float(gain)) for gain in gains)


def _chances_of(plan: LookPlan, noise_JVU: Floats, gain: float) -> Chances:
    differences_JVU = noise_JVU.copy()
    differences_JVU[:, 0] += gain
    outcomes_JV, units_JV = simulate(plan, differences_JVU)
    beats, ties, loses = (
        float(np.mean(outcomes_JV[:, 0] == outcome.value)) for outcome in (Outcome.BEATS, Outcome.TIES, Outcome.LOSES)
    )
    searches = float(np.mean(units_JV.sum(axis=1) + units_JV.max(axis=1)))
    return Chances(gain, beats, ties, loses, beats + ties + loses, searches)


class _Sample(NamedTuple):
    """Number, mean and standard deviation of differences: arrays of one shape."""

    n: NDArray[np.int64]
    mean: Floats
    sd: Floats


class _Verdict(NamedTuple):
    """Outcomes as numbers, and one-sided levels, both of shape (jobs, variants)."""

    codes: NDArray[np.int8]
    level: Floats


def _sample(differences: Floats, plan: LookPlan) -> _Sample:
    """The sample along the last axis. Without any unit the mean is 0; below two units the sd is the floor."""
    shape, units = differences.shape[:-1], differences.shape[-1]
    n = np.full(shape, units)
    if units == 0:
        return _Sample(n, np.zeros(shape), np.full(shape, plan.floor))
    rounded = differences if plan.digits is None else np.round(differences, plan.digits)
    # Deviations from the first value: so equal differences have exactly their own mean and no spread.
    first = rounded[..., :1]
    offset = (rounded - first).mean(axis=-1, keepdims=True)
    squares = np.square(rounded - first - offset).sum(axis=-1)
    return _Sample(n, (first + offset)[..., 0], np.maximum(np.sqrt(squares / max(units - 1, 1)), plan.floor))


def _decide(
    plan: LookPlan, look: int, sample: _Sample, codes_JV: NDArray[np.int8], bars_JV: NDArray[np.int8]
) -> _Verdict:
    """The rule, for a look counted from 0. ``codes_JV`` are the outcomes before it, and the open ones are judged.

    ``bars_JV`` is 1 where a variant can only lose, 2 where there is no verdict on it, else 0.
    """
    testable = (sample.n >= LEAST_PAIRS) & (sample.sd > 0)
    # Untestable entries get harmless numbers and are masked.
    safe = _Sample(np.where(testable, sample.n, LEAST_PAIRS), sample.mean, np.where(testable, sample.sd, 1.0))
    verdict = _reject(plan, look, safe, testable & ((bars_JV == 0) | ((bars_JV == 1) & (safe.mean < 0))), codes_JV)
    ties = testable & (bars_JV == 0) & (verdict.codes == OPEN) & _inside_margin(plan, look, safe)
    codes_JV = np.where(ties, TIES, verdict.codes).astype(np.int8)
    if look < len(plan.at) - 1:
        stops = testable & (codes_JV == OPEN) & (_predictive_chance(plan, safe, codes_JV, bars_JV) < plan.futile)
        codes_JV = np.where(stops, FUTILE, codes_JV).astype(np.int8)
    return _Verdict(codes_JV, verdict.level)


def _reject(
    plan: LookPlan, look: int, sample: _Sample, testable: NDArray[np.bool_], codes_JV: NDArray[np.int8]
) -> _Verdict:
    p_JV = stdtr(sample.n - 1, -np.abs(sample.mean) / _standard_error(sample))
    direction_JV = np.where(sample.mean > 0, BEATS, LOSES)
    level_JV = np.zeros(codes_JV.shape)
    while True:
        level_JV = np.where(codes_JV == OPEN, _levels_now(plan, codes_JV)[:, look, None], level_JV)
        new = testable & (codes_JV == OPEN) & (p_JV <= level_JV)
        if not new.any():
            return _Verdict(codes_JV, level_JV)
        codes_JV = np.where(new, direction_JV, codes_JV).astype(np.int8)


def _inside_margin(plan: LookPlan, look: int, sample: _Sample) -> NDArray[np.bool_]:
    """Whether both one-sided tests against the margin reject: the one with the larger p decides."""
    room = plan.margin - np.abs(sample.mean)
    p_JV = stdtr(sample.n - 1, -room / _standard_error(sample))
    return np.asarray((room > 0) & (p_JV <= levels(plan.at, plan.tie_alpha)[look]))


def _predictive_chance(
    plan: LookPlan, sample: _Sample, codes_JV: NDArray[np.int8], bars_JV: NDArray[np.int8]
) -> Floats:
    """The chance of a verdict at the cap, given the units so far.

    The mean at the cap is normal around the mean so far, with a flat prior on the true mean and the sd so far taken as
    the true one (Spiegelhalter, Freedman & Blackburn 1986, Control. Clin. Trials 7:8-17).
    """
    cap = plan.at[-1]
    error_at_cap = sample.sd / math.sqrt(cap)
    spread = sample.sd * np.sqrt(1 / sample.n - 1 / cap)
    needed = -stdtrit(cap - 1, _levels_now(plan, codes_JV)[:, -1])[:, None] * error_at_cap
    beat, lose = ndtr((sample.mean - needed) / spread), ndtr((-needed - sample.mean) / spread)
    room = np.maximum(0, plan.margin + stdtrit(cap - 1, levels(plan.at, plan.tie_alpha)[-1]) * error_at_cap)
    tie = ndtr((room - sample.mean) / spread) - ndtr((-room - sample.mean) / spread)
    # If a mean can do both, every mean does one of them, and the sum is at least 1.
    return np.asarray(np.select([bars_JV == 0, bars_JV == 1], [beat + lose + tie, lose], 0.0))


def _standard_error(sample: _Sample) -> Floats:
    return np.asarray(sample.sd / np.sqrt(sample.n))


def _levels_now(plan: LookPlan, codes_JV: NDArray[np.int8]) -> Floats:
    """One-sided levels of all looks, of shape (jobs, looks), for the variants that are not rejected yet."""
    rest_J = plan.variants - np.isin(codes_JV, (BEATS, LOSES)).sum(axis=1)
    return np.asarray(_levels_by_rest(plan.at, plan.alpha, plan.variants)[np.maximum(rest_J, 1) - 1])


@lru_cache(maxsize=64)
def _levels_by_rest(at: tuple[int, ...], alpha: float, variants: int) -> Floats:
    """One-sided levels, of shape (variants, looks): row r is for r + 1 variants not yet rejected."""
    return np.array([levels(at, alpha / 2 / rest) for rest in range(1, variants + 1)])


def _standing(arm: str, look: int, column: int, sample: _Sample, verdict: _Verdict, diverged: Diverged) -> Standing:
    n, mean, sd = int(sample.n[0, column]), float(sample.mean[0, column]), float(sample.sd[0, column])
    level, outcome = float(verdict.level[0, column]), OUTCOMES[verdict.codes[0, column]]
    note = diverged.text("search")
    if n < LEAST_PAIRS or sd == 0 or no_verdict(mean, diverged):
        return Standing(arm, n, mean if n else None, None, None, None, 2 * level, outcome, look, note)
    error = sd / math.sqrt(n)
    half = -float(stdtrit(n - 1, level)) * error
    p = 2 * float(stdtr(n - 1, -abs(mean) / error))
    return Standing(arm, n, mean, mean - half, mean + half, p, 2 * level, outcome, look, note)


def _check_look(
    plan: LookPlan, look: int, differences: Mapping[str, Sequence[float]], settled: Mapping[str, Outcome]
) -> None:
    if not 1 <= look <= len(plan.at):
        raise ValueError(f"look must be from 1 to {len(plan.at)}, not {look}")
    if len(arms := differences.keys() | settled.keys()) > plan.variants:
        raise ValueError(f"the plan has {plan.variants} variants, not {len(arms)} ({', '.join(sorted(arms))})")
    for arm, outcome in settled.items():
        if outcome is Outcome.NOT_ENOUGH:
            raise ValueError(f"{arm} is not settled: its outcome is {outcome!r}")
    for arm in differences.keys() - settled.keys():
        values = differences[arm]
        if len(values) > plan.at[look - 1]:
            raise ValueError(f"{arm} has {len(values)} units; look {look} is at {plan.at[look - 1]}")
        if not all(map(math.isfinite, values)):
            raise ValueError(f"differences of {arm} must be finite, not {list(values)}")
