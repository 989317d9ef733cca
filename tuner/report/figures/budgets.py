"""Figures of the search's cost, and of the best result to expect by budget."""

from collections.abc import Sequence

import plotly.graph_objects as go

from tuner.report.anytime import Curve
from tuner.report.figures.style import Arms, Figure, arm_axis, axis, band, drawn, line, safe, tall
from tuner.report.findings import Findings


def by_trials(found: Findings, arms: Arms) -> Figure | None:
    """The anytime curves by trials."""
    return _anytime(found, arms, "trials", [arm.after_trials for arm, _ in arms])


def by_epochs(found: Findings, arms: Arms) -> Figure | None:
    """The anytime curves by epochs."""
    return _anytime(found, arms, "epochs", [arm.after_epochs for arm, _ in arms])


def _anytime(found: Findings, arms: Arms, unit: str, curves: Sequence[Curve | None]) -> Figure | None:
    known = [(arm, look, curve) for (arm, look), curve in zip(arms, curves, strict=True) if curve is not None]
    if not known:
        return None
    traces = []
    for arm, look, curve in known:
        traces.append(band(curve.cost, curve.low, curve.high, look, arm.row.arm))
        traces.append(line(curve.cost, curve.mean, look, arm.row.arm, unit))
    ends = (
        f"{arm.row.arm} {c.mean[0]:.4g} after {c.cost[0]:g} and {c.mean[-1]:.4g} after {c.cost[-1]:g}"
        for arm, _, c in known
    )
    return Figure(
        f"anytime-{unit}",
        f"Expected best {found.measure} by number of {unit}",
        f"Expected best {found.measure} by {unit} of the search: {'; '.join(ends)}.",
        (
            "The best value so far, as the mean over the searches of an arm. The band contains 90 % of 200 bootstrap "
            "samples of searches. "
            if found.board.claim == "method"
            else "The trials are put in random order, as if a random search "
            "had drawn them. The band contains 90 % of 200 bootstrap samples. "
        )
        + "A trial without a result counts as the worst trial of its arm.",
        drawn(
            traces,
            tall(arms),
            xaxis=axis(f"{unit} of the search"),
            yaxis=axis(f"expected best {found.board.metric}"),
        ),
    )


def cost(found: Findings, arms: Arms) -> Figure | None:
    """Seconds of training by outcome: useful, pruned, failed or confirm run."""
    kinds = (("useful", 1.0, ""), ("pruned", 0.5, "/"), ("failed", 0.5, "x"), ("confirm", 0.5, "."))
    names, height = [safe(arm.row.arm) for arm, _ in arms], 110 + 34 * len(arms)
    factor, unit = found.factor, found.unit if found.gpus else "seconds of training"
    traces = [
        go.Bar(
            y=names,
            x=[factor * getattr(arm.spent, kind) for arm, _ in arms],
            name=kind,
            orientation="h",
            marker={
                "color": [look.faint(opacity) for _, look in arms],
                "pattern": {"shape": shape, "fgcolor": [look.colour for _, look in arms], "size": 5},
                "line": {"color": [look.colour for _, look in arms], "width": 1},
            },
            hovertemplate=f"%{{y}}, {kind}: %{{x:.4~g}} {unit}<extra></extra>",
        )
        for kind, opacity, shape in kinds
        if any(getattr(arm.spent, kind) for arm, _ in arms)
    ]
    if not traces:
        return None
    totals = (
        f"{arm.row.arm} " + ", ".join(f"{kind} {factor * getattr(arm.spent, kind):.0f}" for kind, _, _ in kinds)
        for arm, _ in arms
    )
    return Figure(
        "cost",
        "Training time by outcome",
        f"{unit.capitalize() if not found.gpus else unit} by arm: {'; '.join(totals)}.",
        "Useful: trials that finished training. Pruned: trials ended by early stopping. Failed: trials that diverged "
        "or gave no result. Confirm: confirm runs on fresh seeds.",
        drawn(
            traces,
            height,
            barmode="stack",
            legend_traceorder="normal",
            xaxis=axis(unit),
            yaxis={**arm_axis([arm.row.arm for arm, _ in arms]), "autorange": "reversed"},
        ),
    )
