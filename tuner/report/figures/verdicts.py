"""Figures of the verdict: each variant compared with the baseline, and the confirm runs behind the verdict."""

import statistics
from collections.abc import Sequence

import plotly.graph_objects as go

from tuner.report.figures.style import SMALL, Arms, Figure, Look, arm_axis, axis, drawn, safe
from tuner.report.findings import ArmFindings, Findings
from tuner.report.wording import test_text
from tuner.spec.experiment import MetricSpec
from tuner.verdict.looks import Standing
from tuner.verdict.numbers import gain_number, judge_column, margin_text, mean_text, unit_text
from tuner.verdict.paired_test import Comparison

ROW = 56


def forest(found: Findings, arms: Arms) -> Figure | None:
    """Each variant's difference to the baseline, with the interval of the verdict."""
    judged = [(arm, look, c) for arm, look in arms if (c := arm.row.comparison) and c.mean_diff is not None]
    if not judged:
        return None
    # Small figures have no room for long names of arms.
    height = max(SMALL + 1, 90 + ROW * len(judged))
    margin, metric = found.board.margin, found.board.measured
    shapes = [{"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"width": 1}}]
    if margin:
        shade = {"fillcolor": "rgba(128,128,128,0.18)", "line": {"width": 0}, "layer": "below"}
        shapes.append({"type": "rect", "x0": -margin, "x1": margin, "y0": 0, "y1": 1, "yref": "paper", **shade})
    plot = drawn(
        [_interval(metric, arm, look, c) for arm, look, c in judged],
        height,
        showlegend=False,
        shapes=shapes,
        xaxis={**axis(_gain_axis(metric)), "range": _wide_range(judged, margin)},
        yaxis={**arm_axis([arm.row.arm for arm, _, _ in judged]), "range": [len(judged) - 0.4, -0.75]},
    )
    return Figure(
        "forest",
        f"Difference to {found.board.baseline}",
        "Forest plot. " + "; ".join(f"{arm.row.arm} {_difference(metric, c)}" for arm, _, c in judged) + ".",
        f"Mean of the {found.board.unit}-wise differences with its interval. Right of the line, the variant is better. "
        f"In the shaded range of {margin_text(metric, margin)}, a difference is too small to matter.",
        plot,
    )


def _wide_range(judged: Sequence[tuple[ArmFindings, Look, Comparison | Standing]], margin: float) -> list[float]:
    """The range of the axis: every interval, the margin, and space at both ends for the text above a mark."""
    ends = [-margin, margin, 0.0]
    for _, _, c in judged:
        ends += [end for end in (c.low, c.high, c.mean_diff) if end is not None]
    space = 0.22 * ((max(ends) - min(ends)) or 1.0)
    return [min(ends) - space, max(ends) + space]


def _gain_axis(metric: MetricSpec) -> str:
    if not metric.own:
        return "difference in test accuracy, points"
    lower = "" if metric.judge_maximize else " (positive: lower)"
    return f"gain in {metric.judged}{', points' if metric.in_points else ''}{lower}"


def _interval(metric: MetricSpec, arm: ArmFindings, look: Look, c: Comparison | Standing) -> go.Scatter:
    mean = c.mean_diff or 0.0
    ends = (c.high or 0.0) - mean if c.low is not None else 0.0
    return go.Scatter(
        x=[mean],
        y=[safe(arm.row.arm)],
        error_x={"array": [ends], "color": look.colour, "thickness": 2.5, "width": 6},
        mode="markers+text",
        marker={"color": look.colour, "size": 12, "symbol": look.symbol},
        text=[_difference(metric, c)],
        textposition="top center",
        cliponaxis=False,
        hovertext=[safe(f"{arm.row.arm}: {_difference(metric, c)} {unit_text(metric)}, n = {c.n}: {c.outcome}")],
        hoverinfo="text",
    )


def _difference(metric: MetricSpec, c: Comparison | Standing) -> str:
    if c.mean_diff is None:
        return "nothing to compare"
    if c.low is None or c.high is None:
        return gain_number(metric, c.mean_diff).replace("-", "−")
    half = (c.high - c.low) / 2
    mean, low, high = (gain_number(metric, gain, half) for gain in (c.mean_diff, c.low, c.high))
    return f"{mean} [{low}, {high}]".replace("-", "−")


def seeds(found: Findings, arms: Arms) -> Figure | None:
    """The judged values that the verdict rests on."""
    unit, metric = found.board.unit, found.board.measured
    percent = " %" if metric.in_points else ""
    tested = [(arm, look) for arm, look in arms if arm.row.tests]
    if not tested:
        return None
    traces = []
    for arm, look in tested:
        name, tests = safe(arm.row.arm), arm.row.tests
        traces.append(
            go.Scatter(
                x=[name] * len(tests),
                y=[metric.factor * value for value in tests.values()],
                mode="markers",
                marker={"color": look.faint(0.6), "size": 9, "symbol": look.symbol},
                hovertext=[
                    f"{name}, {unit} {number}: {safe(mean_text(metric, [value]))}{percent}"
                    for number, value in tests.items()
                ],
                hoverinfo="text",
            )
        )
        traces.append(
            go.Scatter(
                x=[name],
                y=[metric.factor * statistics.fmean(tests.values())],
                mode="markers",
                marker={"symbol": "line-ew", "size": 30, "line": {"color": look.colour, "width": 3}},
                hovertext=[f"{name}: mean {safe(mean_text(metric, [statistics.fmean(tests.values())]))}{percent}"],
                hoverinfo="text",
            )
        )
    label = metric.judged if metric.own else "Test accuracy"
    means = (f"{arm.row.arm} {test_text(arm.row)} (n = {len(arm.row.tests)})" for arm, _ in tested)
    return Figure(
        "seeds",
        f"{label} of each {unit}",
        f"{label}{' in percent' if percent else ''} by arm, one mark per {unit}: {'; '.join(means)}.",
        f"Each mark is a {unit}. All arms share what it depends on besides the setting. The bar is the mean.",
        drawn(
            traces,
            showlegend=False,
            yaxis=axis(judge_column(metric) if metric.own else "test accuracy, %"),
            xaxis=arm_axis([arm.row.arm for arm, _ in tested]),
        ),
    )
