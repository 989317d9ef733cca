"""The verdict: whether a variant's winner beats the baseline's winner, and how strong the evidence is.

The winners of all arms are trained on the same fresh seeds. So the verdict uses the seed-wise differences between a
variant and the baseline. It is a paired t-test, Holm-adjusted over the variants, with a margin: a difference within
the margin does not matter. The number of seeds is fixed before; ``tuner.verdict.looks`` is for numbers that grow.
Accuracies are given as fractions (0 to 1), and differences are returned in points (percent). For a metric of the
user's, differences are in the metric's own unit. They are always gains: positive is better.
"""

import math
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from scipy.special import nctdtr, stdtr, stdtrit

from tuner.spec.experiment import MetricSpec
from tuner.storage.events import Outcome
from tuner.verdict.numbers import ACCURACY, gain_text

MOST_SEEDS = 1000
"""Largest number of seeds that a verdict suggests."""

POWER = 0.8
"""Chance of a verdict with the number of seeds that a verdict suggests."""

LEAST_PAIRS = 3
"""Fewest pairs that give a verdict.

On a small test set, two pairs can have equal differences by chance. Their spread is then 0, which looks certain.
"""

POINTS = 100.0
"""The fraction 1 in points."""

NO_SPREAD = "every seed gave the same difference"

OWN_DIGITS = 11
"""Digits of the largest value that a difference in a user's metric keeps: the others are errors of rounding."""

MOST_GAIN = 1e100
"""Largest difference in a user's metric; a larger one counts as this, so that sums of squares stay finite."""


class Diverged(NamedTuple):
    """On how many units a value stands in for that of a run of the user's that diverged, because it has none.

    Such a value is that of another run, maybe of the baseline's. So nothing but "loses" may rest on it, and only where
    it is the variant's.

    Attributes:
        variant: number of such units of the variant.
        of: number of its units.
        baseline: number of such units of the baseline.
        baseline_of: number of its units.
    """

    variant: int = 0
    of: int = 0
    baseline: int = 0
    baseline_of: int = 0

    @property
    def any(self) -> bool:
        """Whether the variant can neither beat nor tie."""
        return bool(self.variant or self.baseline)

    def text(self, unit: str) -> str:
        """The same in words, if there are any; ``unit`` is a ``seed`` or a ``search``."""
        plural = "searches" if unit == "search" else f"{unit}s"
        return _join(
            f"diverged on {self.variant} of {self.of} {plural}" if self.variant else "",
            f"the baseline diverged on {self.baseline} of {self.baseline_of} {plural}" if self.baseline else "",
        )


NONE_DIVERGED = Diverged()


@dataclass(frozen=True)
class Comparison:
    """The comparison of one variant with the baseline. A number is None if there are too few results for it.

    Attributes:
        arm: the variant's name.
        n: number of seeds on which both the variant and the baseline have a result.
        mean_diff: mean of the seed-wise gains of the variant over the baseline, in the unit of the verdict: points, or
            the unit of the user's metric.
        low: lower end of the simultaneous confidence interval of this mean, in that unit. The intervals of all variants
            together hold with a chance of at least ``1 - alpha`` (Bonferroni: each has the level ``alpha`` divided by
            the number of variants). Holm's test is a little sharper: it may reject although the interval includes 0.
        high: upper end of the same interval, in points.
        p: two-sided p-value of the paired t-test.
        p_holm: this p-value, Holm-adjusted over all variants of the job.
        margin: gain within which a difference does not matter.
        outcome: the verdict.
        seeds_needed: number of seeds that would settle the verdict with a chance of 80 %, if the true mean and spread
            of the differences are those observed; None if it is settled, or if ``MOST_SEEDS`` seeds are too few.
        note: a fact that the reader needs besides the numbers, such as lost seeds or no spread; else "".
    """

    arm: str
    n: int
    mean_diff: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    margin: float
    outcome: Outcome
    seeds_needed: int | None
    note: str


def compare(
    baseline: Mapping[int, float],
    arms: Mapping[str, Mapping[int, float]],
    margin: float,
    alpha: float = 0.05,
    floor: float = 0.0,
    metric: MetricSpec = ACCURACY,
    diverged: Mapping[str, frozenset[int]] | None = None,
) -> tuple[Comparison, ...]:
    """Judge every variant against the baseline.

    The rules apply in this order:

    1. The variant *ties* if its own ``1 - alpha`` interval, not adjusted over the variants, lies strictly inside
       ``±margin``. So a margin of 0 never gives a tie. This interval is narrower than the one in ``Comparison``.
    2. The variant *beats* or *loses to* the baseline if its Holm-adjusted p is below ``alpha``. The sign of the mean
       difference decides which.
    3. Otherwise there is *not enough evidence*.

    A variant without a p-value still counts in Holm's family, with a p of 1. So a failed arm cannot make the other
    arms significant.

    A few seeds can have equal differences by chance, because accuracies are rounded to whole test images. So the
    standard deviation of the differences counts as at least ``floor``. If the floor is 0 and there is no spread, the
    t-test is undefined, and there is not enough evidence.

    Args:
        baseline: test accuracy (0 to 1) of the baseline's winner, by seed; or its value of the user's judge metric.
        arms: for every variant, the same for its winner, by seed. A failed seed is missing.
        margin: gain within which a difference does not matter, at least 0, in the unit of the verdict.
        alpha: significance level, between 0 and 1.
        floor: smallest standard deviation of a difference that is believed, in points, at least 0. For accuracies on N
            test images it is ``100 / N / sqrt(6)``: the standard deviation of the difference of two rounded values.
            How a user's metric is rounded is not known.
        metric: the metrics of the job.
        diverged: by arm, and by "" for the baseline, the seeds whose value stands in for that of a run that diverged.
            With one of the variant's, the variant can only lose; with one of the baseline's, there is no verdict.

    Returns:
        One comparison per variant, in the order of ``arms``.

    Raises:
        ValueError: an accuracy is not in 0 to 1, a value is not finite, or the margin, alpha or the floor is out of
            range.
    """
    _check(baseline, arms, metric)
    rule = _Rule(margin, alpha, len(arms), floor)
    _check_rule(rule)
    planned = frozenset(baseline).union(*arms.values())
    samples = {arm: _sample(paired_differences(baseline, results, metric)) for arm, results in arms.items()}
    lost_to = {arm: _diverged(baseline, results, diverged or {}, arm) for arm, results in arms.items()}
    p_values = {
        arm: None if sample is not None and no_verdict(sample.mean, lost_to[arm]) else _p_value(sample, floor)
        for arm, sample in samples.items()
    }
    adjusted = holm([1.0 if p is None else p for p in p_values.values()])
    return tuple(
        _judge(arm, samples[arm], p_values[arm], p_holm, _lost(planned, baseline, results), rule, lost_to[arm])
        for (arm, results), p_holm in zip(arms.items(), adjusted, strict=True)
    )


def no_verdict(mean: float, diverged: Diverged) -> bool:
    """Whether runs that diverged leave nothing to say about a variant with this mean difference."""
    return bool(diverged.baseline) or (diverged.any and mean > 0)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjusted p-values (Holm 1979, Scand. J. Statist. 6:65-70).

    Args:
        p_values: one p-value per hypothesis, from 0 to 1.

    Returns:
        The adjusted p-values, in the order of ``p_values``. If a caller rejects the hypotheses with an adjusted p
        below a level, the chance of any false rejection is at most this level.

    Raises:
        ValueError: a p-value is not in 0 to 1.
    """
    _check_fractions("p-value", p_values)
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * float(p_values[i])))
        adjusted[i] = running
    return tuple(adjusted)


def prediction_interval(
    values: Sequence[float],
    level: float = 0.99,
    widest: float = 3.0,
    repeated: float | None = None,
    metric: MetricSpec = ACCURACY,
) -> tuple[float, float]:
    """The interval in which one more run of the same setting should fall: a two-sided t prediction interval.

    A run that is repeated elsewhere has an interval around its own value. At worst, other rounding makes it another
    independent run, so the interval is that of the difference of two runs.

    The interval is at most ``widest`` points wide, because two or three seeds alone would accept almost any value.
    It also stays within 0 and 1. One value shows no spread, so its interval has the full width ``widest``.
    For a metric of the user's there are no such limits, and one value has an interval without any width.

    Args:
        values: accuracies (0 to 1) of the known runs, or their values of the user's judge metric; at least one.
        level: chance that the new value lies inside the interval, between 0 and 1.
        widest: largest width of the interval in points, at least 0.
        repeated: the known value of the run that is repeated; None for a run with a new seed.
        metric: the metrics of the job.

    Returns:
        The lower and the upper end, as fractions or in the unit of the user's metric.

    Raises:
        ValueError: no values, an accuracy not in 0 to 1, or a level or width out of range.
    """
    if not metric.own:
        _check_fractions("accuracy", values)
    _check_open_fraction("level", level)
    _check_points("widest", widest)
    sample = _sample(values)
    if sample is None:
        raise ValueError("a prediction interval needs at least one value")
    half = 0.0 if metric.own and sample.n == 1 else math.inf if metric.own else widest / 2 / POINTS
    if sample.n > 1:
        runs = 2.0 if repeated is not None else 1 + 1 / sample.n
        half = min(half, _critical(sample.n - 1, 1 - level) * sample.sd * math.sqrt(runs))
    centre = sample.mean if repeated is None else repeated
    if metric.own:
        return centre - half, centre + half
    return max(0.0, centre - half), min(1.0, centre + half)


def describe(comparison: Comparison, metric: MetricSpec = ACCURACY) -> str:
    """The verdict as one phrase that follows the variant's name."""
    text = _phrase(comparison, metric)
    return f"{text} [{comparison.note}]" if comparison.note else text


class _Rule(NamedTuple):
    margin: float
    alpha: float
    variants: int
    floor: float


class _Sample(NamedTuple):
    n: int
    mean: float
    sd: float


def _check_rule(rule: _Rule) -> None:
    _check_points("margin", rule.margin)
    _check_points("floor", rule.floor)
    _check_open_fraction("alpha", rule.alpha)


def _check(baseline: Mapping[int, float], arms: Mapping[str, Mapping[int, float]], metric: MetricSpec) -> None:
    for arm, results in [("baseline", baseline), *arms.items()]:
        if not metric.own:
            _check_fractions(f"test accuracy of {arm}", results.values())
        elif not all(map(math.isfinite, results.values())):
            raise ValueError(f"{metric.judged} of {arm} must be finite, not {list(results.values())}")


# NaN fails every comparison. So the checks below ask "not inside", which rejects NaN; "outside" would accept it.
def _check_fractions(what: str, values: Iterable[float]) -> None:
    for value in values:
        if not 0 <= value <= 1:
            raise ValueError(f"{what} must be between 0 and 1, not {value}")


def _check_open_fraction(what: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{what} must be above 0 and below 1, not {value}")


def _check_points(what: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{what} must be a finite number of points, at least 0, not {value}")


def paired_differences(
    baseline: Mapping[int, float], results: Mapping[int, float], metric: MetricSpec = ACCURACY
) -> list[float]:
    """The gains of results over the baseline, for the units (seeds or searches) that both have.

    Accuracies are fractions, and their gains are in points.
    """
    # 0.73 - 0.72 and 0.72 - 0.71 differ in the 17th digit. Without rounding, equal differences would have a spread of
    # 1e-15 and a meaningless t. The rounding step, a billionth of a point, is far below the effect of one test image.
    shared = sorted(baseline.keys() & results.keys())
    gains = [metric.gain(float(results[unit]), float(baseline[unit])) for unit in shared]
    if not metric.own:
        return [round(gain, 9) for gain in gains]
    largest = max((abs(metric.factor * values[unit]) for values in (baseline, results) for unit in shared), default=0.0)
    digits = OWN_DIGITS - math.ceil(math.log10(min(largest, MOST_GAIN))) if largest else 0
    return [round(max(-MOST_GAIN, min(MOST_GAIN, gain)), digits) for gain in gains]


def _sample(values: Sequence[float]) -> _Sample | None:
    if not values:
        return None
    n, first = len(values), float(values[0])
    # The sums use differences from the first value, so that equal values have exactly their own mean and no spread.
    offset = math.fsum(value - first for value in values) / n
    squares = math.fsum((value - first - offset) ** 2 for value in values)
    return _Sample(n, first + offset, math.sqrt(squares / (n - 1)) if n > 1 else math.inf)


@lru_cache(maxsize=4096)
def _critical(degrees: int, tails: float) -> float:
    return float(-stdtrit(degrees, tails / 2))


def _half_width(sample: _Sample, alpha: float) -> float:
    return _critical(sample.n - 1, alpha) * sample.sd / math.sqrt(sample.n)


def _p_value(sample: _Sample | None, floor: float) -> float | None:
    if sample is None or sample.n < LEAST_PAIRS or max(sample.sd, floor) == 0:
        return None
    t = sample.mean * math.sqrt(sample.n) / max(sample.sd, floor)
    return min(1.0, float(2 * stdtr(sample.n - 1, -abs(t))))


def _diverged(
    baseline: Mapping[int, float], results: Mapping[int, float], seeds: Mapping[str, frozenset[int]], arm: str
) -> Diverged:
    theirs, ours = (seeds.get(name, frozenset()) & values.keys() for name, values in (("", baseline), (arm, results)))
    return Diverged(len(ours), len(results), len(theirs), len(baseline))


def _judge(
    arm: str, sample: _Sample | None, p: float | None, p_holm: float, lost: str, rule: _Rule, diverged: Diverged
) -> Comparison:
    if sample is None or p is None:
        return _unjudged(arm, sample, lost, rule.margin, diverged.text("seed"))
    believed = sample._replace(sd=max(sample.sd, rule.floor))
    half = _half_width(believed, rule.alpha / rule.variants)
    # A variant that diverged can only lose.
    outcome = _outcome(believed, p_holm, rule._replace(margin=0.0) if diverged.any else rule)
    return Comparison(
        arm=arm,
        n=sample.n,
        mean_diff=sample.mean,
        low=sample.mean - half,
        high=sample.mean + half,
        p=p,
        p_holm=p_holm,
        margin=rule.margin,
        outcome=outcome,
        seeds_needed=_seeds_needed(believed, rule) if outcome is Outcome.NOT_ENOUGH else None,
        note=_join(lost, diverged.text("seed"), NO_SPREAD if sample.sd == 0 else ""),
    )


def _unjudged(arm: str, sample: _Sample | None, lost: str, margin: float, diverged: str) -> Comparison:
    n, mean = (0, None) if sample is None else (sample.n, sample.mean)
    reason = "no seed to compare" if sample is None else f"a verdict needs at least {LEAST_PAIRS} seeds"
    note = _join(lost, diverged or NO_SPREAD) if n >= LEAST_PAIRS else _join(reason, lost, diverged)
    return Comparison(arm, n, mean, None, None, None, None, margin, Outcome.NOT_ENOUGH, None, note)


def _outcome(sample: _Sample, p_holm: float, rule: _Rule) -> Outcome:
    if abs(sample.mean) + _half_width(sample, rule.alpha) < rule.margin:
        return Outcome.TIES
    if p_holm < rule.alpha:
        return Outcome.BEATS if sample.mean > 0 else Outcome.LOSES
    return Outcome.NOT_ENOUGH


def _seeds_needed(sample: _Sample, rule: _Rule) -> int | None:
    # The power grows with the number of seeds. So if one number is enough, every larger number is enough too.
    counts = range(sample.n + 1, MOST_SEEDS + 1)
    i = bisect_left(counts, True, key=lambda n: _power(sample._replace(n=n), rule) >= POWER)
    return counts[i] if i < len(counts) else None


def _power(sample: _Sample, rule: _Rule) -> float:
    """Chance that as many fresh seeds as in ``sample`` settle the verdict, if its mean and sd are the true ones.

    This is the better of the chance to beat or lose, at the level of Holm's first step, and the chance to tie. Both
    come from the noncentral t distribution (for the tie: Phillips 1990, J. Pharmacokinet. Biopharm. 18:137-144).
    """
    beyond = _exceeds(sample, abs(sample.mean), rule.alpha / rule.variants)
    if abs(sample.mean) >= rule.margin:
        return beyond
    near, far = rule.margin - abs(sample.mean), rule.margin + abs(sample.mean)
    return max(beyond, _exceeds(sample, near, rule.alpha) + _exceeds(sample, far, rule.alpha) - 1)


def _exceeds(sample: _Sample, effect: float, tails: float) -> float:
    """Chance that the t of a true ``effect`` in points exceeds the two-sided critical value of ``tails``."""
    t = effect * math.sqrt(sample.n) / sample.sd
    return 1 - float(nctdtr(sample.n - 1, t, _critical(sample.n - 1, tails)))


def _lost(planned: Collection[int], baseline: Mapping[int, float], results: Mapping[int, float]) -> str:
    paired = baseline.keys() & results.keys()
    if len(paired) == len(planned):
        return ""
    missing = {
        "the variant": sorted(set(planned) - results.keys()),
        "the baseline": sorted(set(planned) - baseline.keys()),
    }
    whose = " and ".join(f"{who} has no result for {_listed(seeds)}" for who, seeds in missing.items() if seeds)
    return f"{len(planned) - len(paired)} of {len(planned)} seeds lost: {whose}"


def _listed(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _phrase(c: Comparison, metric: MetricSpec) -> str:
    if c.mean_diff is None:
        return c.outcome.value
    if c.low is None or c.high is None or c.p_holm is None:
        return f"{c.outcome.value}: {gain_text(metric, c.mean_diff)}, {c.n} seed{'s' if c.n > 1 else ''}"
    half = (c.high - c.low) / 2
    signed = gain_text(metric, c.mean_diff, half)
    evidence = f"{_p_text(c.p_holm)}, {c.n} seeds"
    match c.outcome:
        case Outcome.BEATS:
            by = gain_text(metric, c.mean_diff, half, signed=False)
            return f"this setting beats the baseline's by {by} ({evidence})"
        case Outcome.LOSES:
            by = gain_text(metric, -c.mean_diff, half, signed=False)
            return f"this setting loses to the baseline's by {by} ({evidence})"
        case Outcome.TIES:
            # Not "within": this interval is simultaneous, and so it may be wider than the margin.
            return f"this setting ties: {signed}, margin ±{c.margin:g} ({c.n} seeds)"
        case Outcome.NOT_ENOUGH | Outcome.FUTILE:
            return f"{c.outcome.value}: {signed} ({evidence}); {_wanted(c)}"


def _wanted(c: Comparison) -> str:
    if c.seeds_needed is None:
        return f"{MOST_SEEDS} seeds would probably not settle it"
    # Probably: with a chance of ``POWER``.
    return f"about {c.seeds_needed} seeds would probably settle it"


def _p_text(p: float) -> str:
    return "Holm p < 0.001" if p < 0.001 else f"Holm p = {p:.3g}"
