"""How numbers of the metrics are written: values, means with their spread, and gains in the unit of the verdict.

Accuracies have two decimals, in points. A metric of the user's can be of any size, so its numbers have as many digits
as their spread makes sense of.
"""

import math
import statistics
from collections.abc import Sequence

from tuner.spec.experiment import MetricSpec

ACCURACY = MetricSpec()
"""The metric of the built-in trainer."""

MOST_DECIMALS = 6
"""Numbers that need more decimals are written with an exponent."""


def gain_text(metric: MetricSpec, gain: float, half: float | None = None, signed: bool = True) -> str:
    """A gain with its unit, such as ``+0.51 ± 0.20 points`` or ``+0.012 ± 0.004 in test_loss``.

    Args:
        metric: the metrics of the job.
        gain: difference in the unit of the verdict; positive is better.
        half: half the width of its interval, if it has one.
        signed: whether a positive gain has a sign.
    """
    spread = "" if half is None else f" ± {_number(metric, half, half)}"
    return f"{gain_number(metric, gain, half, signed)}{spread} {unit_text(metric)}"


def gain_number(metric: MetricSpec, gain: float, half: float | None = None, signed: bool = True) -> str:
    """A gain without its unit, with the digits that an interval of this half width makes sense of."""
    return _number(metric, gain, half, "+" if signed else "")


def interval_text(metric: MetricSpec, gain: float, low: float | None, high: float | None) -> str:
    """A gain with half the width of its interval, if it has one, without the unit."""
    if low is None or high is None:
        return gain_number(metric, gain)
    half = (high - low) / 2
    return f"{gain_number(metric, gain, half)} ± {_number(metric, half, half)}"


def margin_text(metric: MetricSpec, margin: float) -> str:
    """The margin with its unit, such as ``±0.5 points`` or ``±0.01 in test_loss``."""
    return f"±{margin:g} {unit_text(metric)}"


def unit_text(metric: MetricSpec) -> str:
    """The unit of gains, to be put behind a number: ``points``, or ``in test_loss``."""
    return "points" if metric.in_points else f"in {metric.judged}"


def mean_text(metric: MetricSpec, values: Sequence[float]) -> str:
    """Mean ± standard deviation of judged values, as they are shown; without a sd if there is only one."""
    mean = metric.factor * statistics.fmean(values)
    if len(values) < 2:
        return _number(metric, mean, None)
    sd = metric.factor * statistics.stdev(values)
    return f"{_number(metric, mean, sd)} ± {_number(metric, sd, sd)}"


def value_text(value: float) -> str:
    """A value of the metric that chooses: four decimals, or four digits if it is very small or large."""
    return f"{value:.4f}" if value == 0 or not math.isfinite(value) or 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"


def judge_column(metric: MetricSpec) -> str:
    """The heading of a column of judged values."""
    if not metric.own:
        return "test %"
    return f"{metric.judged} %" if metric.in_points else metric.judged


def choose_name(metric: MetricSpec) -> str:
    """The short name of the metric that chooses: ``val/acc``, or the user's."""
    return metric.key if metric.own else metric.name


def _number(metric: MetricSpec, value: float, spread: float | None, sign: str = "") -> str:
    if metric.in_points:
        return f"{value:{sign}z.2f}"
    if not spread or not math.isfinite(spread):
        return f"{value:{sign}z.4g}"
    decimals = max(0, 1 - math.floor(math.log10(spread)))
    if decimals > MOST_DECIMALS or abs(value) >= 10**MOST_DECIMALS:
        return f"{value:{sign}z.4g}"
    return f"{value:{sign}z.{decimals}f}"
