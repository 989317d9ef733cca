"""Figures that hold the arms against each other."""

from collections.abc import Callable, Iterator, Sequence

import plotly.graph_objects as go

from tuner.report.anytime import Curve
from tuner.report.drawing import Figure, Look, axis, band, drawn, line, looks, safe
from tuner.report.findings import ArmFindings, Band, Findings
from tuner.report.statements import short, test_text
from tuner.verdict import Comparison

ROW = 56
MOST_MARKS = 20
Drawn = Sequence[tuple[ArmFindings, Look]]


def comparing(found: Findings) -> Iterator[tuple[str, list[Figure]]]:
    """Headings and the figures under them, without those for which there is nothing to show yet."""
    arms: Drawn = list(zip(found.arms, looks(len(found.arms)), strict=True))
    parts: dict[str, tuple[Callable[[Findings, Drawn], Figure | None], ...]] = {
        "Verdict": (_forest, _seeds),
        "Learning curves": (_learning, _train_loss),
        "What a budget buys": (_after_trials, _after_epochs, _cost),
        "Schedules that the winners used": (_lr, _decay),
    }
    for heading, makers in parts.items():
        yield heading, [figure for make in makers if (figure := make(found, arms)) is not None]


def _forest(found: Findings, arms: Drawn) -> Figure | None:
    judged = [(arm, look, c) for arm, look in arms if (c := arm.row.comparison) and c.mean_diff is not None]
    if not judged:
        return None
    height = 90 + ROW * len(judged)
    margin = found.board.margin
    shapes = [{"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"width": 1}}]
    if margin:
        shade = {"fillcolor": "rgba(128,128,128,0.18)", "line": {"width": 0}, "layer": "below"}
        shapes.append({"type": "rect", "x0": -margin, "x1": margin, "y0": 0, "y1": 1, "yref": "paper", **shade})
    plot = drawn(
        [_interval(arm, look, c) for arm, look, c in judged],
        height,
        showlegend=False,
        shapes=shapes,
        xaxis={**axis("difference in test accuracy, points"), "range": _room(judged, margin)},
        yaxis={"type": "category", "range": [len(judged) - 0.4, -0.75]},
    )
    return Figure(
        "forest",
        f"Difference to {found.board.baseline}",
        "Forest plot. " + "; ".join(f"{arm.row.arm} {_difference(c)}" for arm, _, c in judged) + ".",
        f"Mean seed-wise difference and its 95 % interval; right of the line is better. Shaded: within ±{margin:g} "
        "points, where a difference does not matter.",
        plot,
        height,
    )


def _room(judged: Sequence[tuple[ArmFindings, Look, Comparison]], margin: float) -> list[float]:
    """What the axis shows: every interval, the margin, and room at both ends for the text above a mark."""
    ends = [-margin, margin, 0.0]
    for _, _, c in judged:
        ends += [end for end in (c.low, c.high, c.mean_diff) if end is not None]
    room = 0.22 * ((max(ends) - min(ends)) or 1.0)
    return [min(ends) - room, max(ends) + room]


def _interval(arm: ArmFindings, look: Look, c: Comparison) -> go.Scatter:
    mean = c.mean_diff or 0.0
    ends = (c.high or 0.0) - mean if c.low is not None else 0.0
    return go.Scatter(
        x=[mean],
        y=[safe(arm.row.arm)],
        error_x={"array": [ends], "color": look.colour, "thickness": 2.5, "width": 6},
        mode="markers+text",
        marker={"color": look.colour, "size": 12, "symbol": look.symbol},
        text=[_difference(c)],
        textposition="top center",
        cliponaxis=False,
        hovertext=[safe(f"{arm.row.arm}: {_difference(c)} points, {c.n} seeds: {c.outcome}")],
        hoverinfo="text",
    )


def _difference(c: Comparison) -> str:
    if c.mean_diff is None:
        return "no seed to compare"
    interval = "" if c.low is None else f" [{c.low:+.2f}, {c.high:+.2f}]"
    return f"{c.mean_diff:+.2f}{interval}".replace("-", "−")


def _seeds(found: Findings, arms: Drawn) -> Figure | None:
    tested = [(arm, look) for arm, look in arms if arm.row.tests]
    if not tested:
        return None
    traces = []
    for arm, look in tested:
        name, tests = safe(arm.row.arm), arm.row.tests
        traces.append(
            go.Scatter(
                x=[name] * len(tests),
                y=[100 * value for value in tests.values()],
                mode="markers",
                marker={"color": look.faint(0.6), "size": 9, "symbol": look.symbol},
                hovertext=[f"{name}, seed {seed}: {100 * value:.2f} %" for seed, value in tests.items()],
                hoverinfo="text",
            )
        )
        traces.append(
            go.Scatter(
                x=[name],
                y=[arm.row.test_mean],
                mode="markers",
                marker={"symbol": "line-ew", "size": 30, "line": {"color": look.colour, "width": 3}},
                hovertext=[f"{name}: mean {arm.row.test_mean:.2f} %"],
                hoverinfo="text",
            )
        )
    told = (f"{arm.row.arm} {test_text(arm.row)} ({len(arm.row.tests)} seeds)" for arm, _ in tested)
    return Figure(
        "seeds",
        "Test accuracy, seed by seed",
        f"Test accuracy in percent by arm, a dot a confirm run: {'; '.join(told)}.",
        "A dot is a confirm run on a seed that all arms share, the bar their mean.",
        drawn(traces, showlegend=False, yaxis=axis("test accuracy, %"), xaxis={"type": "category"}),
    )


def _learning(found: Findings, arms: Drawn) -> Figure | None:
    if not any(trial.curve for arm, _ in arms for trial in arm.trials):
        return None
    traces = [_all_trials(arm, look) for arm, look in arms]
    for arm, look in arms:
        if arm.val is not None:
            traces += _banded(arm, arm.val, look)
        elif arm.row.winner is not None:
            best = next(trial.curve for trial in arm.trials if trial.number == arm.row.winner)
            traces.append(line(_epochs(best), best, look, arm.row.arm, "epoch", 1.5))
    ended = (f"{arm.row.arm} {arm.val.mean[-1]:.4g} ± {arm.val.sd[-1]:.2g}" for arm, _ in arms if arm.val)
    return Figure(
        "learning",
        f"{found.measure.capitalize()} by epoch",
        f"{found.measure.capitalize()} by epoch. At the end: {'; '.join(ended) or 'no confirm run has finished'}.",
        "Thick: the winners' confirm runs, mean ± sd over seeds (before them, the best trial, thin). Faint: all trials "
        "of the search.",
        drawn(traces, xaxis=axis("epoch"), yaxis=axis(found.measure, "linear" if found.maximize else "log")),
    )


def _all_trials(arm: ArmFindings, look: Look) -> go.Scatter:
    x: list[int | None] = []
    y: list[float | None] = []
    for trial in arm.trials:
        x += [*_epochs(trial.curve), None]
        y += [*trial.curve, None]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": look.faint(0.35), "width": 1},
        hoverinfo="skip",
        legendgroup=safe(arm.row.arm),
        showlegend=False,
    )


def _banded(arm: ArmFindings, over: Band, look: Look) -> list[go.Scatter]:
    x = _epochs(over.mean)
    low = [mean - sd for mean, sd in zip(over.mean, over.sd, strict=True)]
    high = [mean + sd for mean, sd in zip(over.mean, over.sd, strict=True)]
    return [band(x, low, high, look, arm.row.arm), line(x, over.mean, look, arm.row.arm, "epoch")]


def _epochs(curve: Sequence[object]) -> list[int]:
    return list(range(1, len(curve) + 1))


def _train_loss(found: Findings, arms: Drawn) -> Figure | None:
    confirmed = [(arm, look, arm.train_loss) for arm, look in arms if arm.train_loss is not None]
    if not confirmed:
        return None
    positive = all(mean > sd for _, _, over in confirmed for mean, sd in zip(over.mean, over.sd, strict=True))
    told = (f"{arm.row.arm} {over.mean[-1]:.3g}" for arm, _, over in confirmed)
    return Figure(
        "train-loss",
        "Training loss of the winners",
        f"Training loss of the confirm runs by epoch. At the end: {'; '.join(told)}.",
        "Mean ± sd over seeds of the confirm runs.",
        drawn(
            [trace for arm, look, over in confirmed for trace in _banded(arm, over, look)],
            xaxis=axis("epoch"),
            yaxis=axis("training loss", "log" if positive else "linear", *_span(confirmed)),
        ),
    )


def _span(confirmed: Sequence[tuple[ArmFindings, Look, Band]]) -> tuple[float, float]:
    values = [mean for _, _, over in confirmed for mean in over.mean]
    return min(values), max(values)


def _after_trials(found: Findings, arms: Drawn) -> Figure | None:
    return _anytime(found, arms, "trials", [arm.after_trials for arm, _ in arms])


def _after_epochs(found: Findings, arms: Drawn) -> Figure | None:
    return _anytime(found, arms, "epochs", [arm.after_epochs for arm, _ in arms])


def _anytime(found: Findings, arms: Drawn, unit: str, curves: Sequence[Curve | None]) -> Figure | None:
    known = [(arm, look, curve) for (arm, look), curve in zip(arms, curves, strict=True) if curve is not None]
    if not known:
        return None
    traces = []
    for arm, look, curve in known:
        traces.append(band(curve.cost, curve.low, curve.high, look, arm.row.arm))
        traces.append(line(curve.cost, curve.mean, look, arm.row.arm, unit))
    told = (
        f"{arm.row.arm} {c.mean[0]:.4g} after {c.cost[0]:g} and {c.mean[-1]:.4g} after {c.cost[-1]:g}"
        for arm, _, c in known
    )
    return Figure(
        f"anytime-{unit}",
        f"Best {found.measure} to expect after so many {unit}",
        f"Expected best {found.measure} by {unit} of search: {'; '.join(told)}.",
        "Trials in random order, as if a random search had drawn them; the band holds 90 % of 200 bootstrap samples. A "
        "trial without a result counts as the worst of its arm.",
        drawn(traces, xaxis=axis(f"{unit} of the search"), yaxis=axis(f"expected best {found.measure}")),
    )


def _cost(found: Findings, arms: Drawn) -> Figure | None:
    kinds = (("useful", 1.0, ""), ("pruned", 0.5, "/"), ("failed", 0.5, "x"), ("confirm", 0.5, "."))
    names, height = [safe(arm.row.arm) for arm, _ in arms], 110 + 34 * len(arms)
    factor, unit = (found.gpus, "GPU-seconds") if found.gpus else (1.0, "seconds of training")
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
    told = (
        f"{arm.row.arm} " + ", ".join(f"{kind} {factor * getattr(arm.spent, kind):.0f}" for kind, _, _ in kinds)
        for arm, _ in arms
    )
    return Figure(
        "cost",
        "Where the time went",
        f"{unit.capitalize() if not found.gpus else unit} by arm: {'; '.join(told)}.",
        "Useful: trials that trained to their end. Pruned: stopped early. Failed: diverged or gave no result. Confirm: "
        "runs on fresh seeds.",
        drawn(
            traces,
            height,
            barmode="stack",
            legend_traceorder="normal",
            xaxis=axis(unit),
            yaxis={"autorange": "reversed", "type": "category"},
        ),
        height,
    )


def _lr(found: Findings, arms: Drawn) -> Figure | None:
    return _rates(found, arms, "lr", "learning rate")


def _decay(found: Findings, arms: Drawn) -> Figure | None:
    return _rates(found, arms, "weight_decay", "decay")


def _rates(found: Findings, arms: Drawn, which: str, title: str) -> Figure | None:
    used = [(arm, look, arm.rates) for arm, look in arms if arm.rates is not None and any(getattr(arm.rates, which))]
    if not used:
        return None
    traces = []
    for arm, look, rates in used:
        traces.append(line(rates.epoch, getattr(rates, which), look, arm.row.arm, "epoch", 2))
        every = 1 + len(rates.reported_epoch) // MOST_MARKS
        reported = {"size": 5, "color": look.colour, "symbol": f"{look.symbol}-open"}
        traces.append(
            go.Scatter(
                x=rates.reported_epoch[::every],
                y=getattr(rates, f"reported_{which}")[::every],
                mode="markers",
                marker=reported,
                legendgroup=safe(arm.row.arm),
                showlegend=False,
                hovertemplate=f"{safe(arm.row.arm)} reported %{{y:.4~g}}<extra></extra>",
            )
        )
    told = (
        f"{arm.row.arm} from {short(getattr(r, which)[0])} over at most {short(max(getattr(r, which)))} to "
        f"{short(getattr(r, which)[-1])}"
        for arm, _, r in used
    )
    times = "" if which == "lr" else ", as torch takes it: times the learning rate an update"
    return Figure(
        f"schedule-{which}",
        f"{title.capitalize()} of the winners",
        f"{title.capitalize()} by epoch: {'; '.join(told)}.",
        f"Lines: the schedule at every update{times}. Marks: what the trial reported after epochs.",
        drawn(traces, xaxis=axis("epoch"), yaxis={**axis(title), "rangemode": "tozero", "exponentformat": "e"}),
    )
