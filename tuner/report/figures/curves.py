"""Figures by epoch: the metrics that the trials reported, and the schedules that the winners used."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from trainables.space import short_text
from tuner.report.figures.style import Arms, Figure, Look, axis, band, drawn, line, safe, tall
from tuner.report.findings import MOST_DRAWN, ArmFindings, Band, Findings

_Confirmed = tuple[ArmFindings, Look, Band]
"""An arm with a number over its confirm runs."""

MOST_MARKS = 20
LOG_FROM = 10
"""Factor between the ends of the values of a user's metric from which their axis is logarithmic."""


def learning(found: Findings, arms: Arms) -> Figure | None:
    """The objective by epoch: every trial of the search, and the mean of each winner's confirm runs."""
    if not any(trial.curve for arm, _ in arms for trial in arm.trials):
        return None
    traces = [_all_trials(arm, look) for arm, look in arms]
    for arm, look in arms:
        if arm.val is not None:
            traces += _banded(arm, arm.val, look)
        elif arm.row.winner is not None:
            best = next(trial.curve for trial in arm.drawn if trial.label == arm.row.label)
            traces.append(line(_epochs(best), best, look, arm.row.arm, "epoch", 1.5))
    ended = (f"{arm.row.arm} {arm.val.mean[-1]:.4g} ± {arm.val.sd[-1]:.2g}" for arm, _ in arms if arm.val)
    return Figure(
        "learning",
        f"{_big(found)} by epoch",
        f"{_big(found)} by epoch. At the end: {'; '.join(ended) or 'no confirm run has finished'}.",
        "Thick line: mean ± sd over an arm's confirm runs. Thin line: best trial of an arm without "
        f"confirm runs. Faint lines: {_drawn(arms)} of the search.",
        drawn(traces, tall(arms), xaxis=axis("epoch"), yaxis=_measure_axis(found)),
    )


def _big(found: Findings) -> str:
    """The name of the objective at the beginning of a text; the user's own names stay as they are."""
    return found.measure if found.board.measured.own else found.measure.capitalize()


def _drawn(arms: Arms) -> str:
    whole = all(len(arm.drawn) == len(arm.trials) for arm, _ in arms)
    return "all trials" if whole else f"about {MOST_DRAWN:,} trials per arm, at equal steps,"


def _measure_axis(found: Findings) -> dict[str, Any]:
    values = [value for arm in found.arms for trial in arm.drawn for value in trial.curve if value is not None]
    is_log = not found.maximize and min(values, default=0.0) > 0
    if found.board.measured.own:
        is_log = is_log and max(values) >= LOG_FROM * min(values)
    return axis(found.board.metric, "log", min(values), max(values)) if is_log else axis(found.board.metric)


def _all_trials(arm: ArmFindings, look: Look) -> go.Scatter:
    x: list[int | None] = []
    y: list[float | None] = []
    for trial in arm.drawn:
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


def train_loss(found: Findings, arms: Arms) -> Figure | None:
    """The training loss of the confirm runs."""
    confirmed = [(arm, look, arm.train_loss) for arm, look in arms if arm.train_loss is not None]
    if not confirmed:
        return None
    positive = all(mean > sd for _, _, over in confirmed for mean, sd in zip(over.mean, over.sd, strict=True))
    ended = (f"{arm.row.arm} {over.mean[-1]:.3g}" for arm, _, over in confirmed)
    rows = axis("training loss", "log" if positive else "linear", *_span(confirmed))
    return _of_winners("train-loss", "Training loss", "; ".join(ended), confirmed, tall(arms), rows)


def _of_winners(
    key: str, name: str, ended: str, confirmed: Sequence[_Confirmed], height: int, rows: dict[str, Any]
) -> Figure:
    """A number of the confirm runs by epoch, as a band for each arm; ``rows`` is its axis."""
    return Figure(
        key,
        f"{name} of the winners",
        f"{name} of the confirm runs by epoch. At the end: {ended}.",
        "Mean ± sd over the confirm runs.",
        drawn(
            [trace for arm, look, over in confirmed for trace in _banded(arm, over, look)],
            height,
            xaxis=axis("epoch"),
            yaxis=rows,
        ),
    )


def _span(confirmed: Sequence[_Confirmed]) -> tuple[float, float]:
    values = [mean for _, _, over in confirmed for mean in over.mean]
    return min(values), max(values)


def numbers(found: Findings, arms: Arms) -> list[Figure]:
    """The other numbers that the user's trainables reported in their confirm runs, one figure each."""
    names = dict.fromkeys(name for arm, _ in arms for name in arm.numbers)
    figures = []
    for number, name in enumerate(names):
        known = [(arm, look, arm.numbers[name]) for arm, look in arms if name in arm.numbers]
        ended = (f"{arm.row.arm} {over.mean[-1]:.4g}" for arm, _, over in known)
        figures.append(_of_winners(f"reported-{number}", name, "; ".join(ended), known, tall(arms), axis(name)))
    return figures


def lr(found: Findings, arms: Arms) -> Figure | None:
    """The winners' learning rate at every update."""
    return _rates(found, arms, "lr", "learning rate")


def decay(found: Findings, arms: Arms) -> Figure | None:
    """The winners' weight decay at every update."""
    return _rates(found, arms, "weight_decay", "weight decay")


def _rates(found: Findings, arms: Arms, which: str, title: str) -> Figure | None:
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
    ranges = (
        f"{arm.row.arm} starts at {short_text(getattr(r, which)[0])}, has a maximum of "
        f"{short_text(max(getattr(r, which)))} and ends at {short_text(getattr(r, which)[-1])}"
        for arm, _, r in used
    )
    note = "" if which == "lr" else " (torch multiplies it by the learning rate)"
    return Figure(
        f"schedule-{which}",
        f"{title.capitalize()} of the winners",
        f"{title.capitalize()} by epoch: {'; '.join(ranges)}.",
        f"Lines: the schedule at every update{note}. Marks: the values that the trial reported after an epoch.",
        drawn(
            traces,
            tall(arms),
            xaxis=axis("epoch"),
            yaxis={**axis(title), "rangemode": "tozero", "exponentformat": "e"},
        ),
    )
