"""Figures of one arm's search: its trials by all knobs and by each knob, and the importance of each knob."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import plotly.graph_objects as go

from trainables.space import short_text
from tuner.report.figures.style import SMALL, Figure, Look, axis, drawn, safe
from tuner.report.findings import ArmFindings, Findings, Tried
from tuner.report.knob import Knob
from tuner.storage.events import State

CLASSES = (
    ("best quarter", 0.25, 0.95, 1.8),
    ("second", 0.5, 0.55, 1.2),
    ("third", 0.75, 0.32, 1.0),
    ("worst quarter", 1.0, 0.18, 1.0),
)
"""Classes of trials, best first: name, end of the class as a share of all trials, opacity and width of its lines."""
MOST_NAMED = 8
"""If a choice has more values than this, its axis names only the first and the last one."""


def searching(found: Findings, arm: ArmFindings, look: Look) -> Iterator[Figure]:
    """All figures of an arm's search."""
    valued = [trial for trial in arm.drawn if trial.value is not None]
    if not valued:
        return
    yield _parallel(found, arm, look, valued)
    if arm.importances:
        yield _importances(arm, look)
    for knob in arm.knobs:
        if any(knob.name in trial.knobs for trial in arm.drawn):
            yield _slice(found, arm, look, knob)


def _parallel(found: Findings, arm: ArmFindings, look: Look, valued: Sequence[Tried]) -> Figure:
    ranked = sorted(valued, key=lambda trial: trial.value or 0.0, reverse=found.maximize)
    values = [trial.value or 0.0 for trial in valued]
    low, high = min(values), max(values)
    columns = [*arm.knobs, None]
    traces, begun = [], 0
    for name, share, opacity, width in CLASSES:
        ended = round(share * len(ranked))
        lines = {"color": look.faint(opacity), "width": width}
        traces.append(_lines(arm, ranked[begun:ended], (low, high), lines, name))
        begun = ended
    traces.reverse()  # the best are drawn last, over the others
    best = [trial for trial in valued if trial.label == arm.row.label]
    traces.append(_lines(arm, best, (low, high), {"color": look.colour, "width": 4}, "winner"))
    places = [note for x, knob in enumerate(columns) for note in _places(x, knob, (low, high))]
    plot = drawn(
        [trace for trace in traces if trace.x],
        330,
        xaxis={
            "tickvals": list(range(len(columns))),
            "ticktext": [*(safe(knob.name) for knob in arm.knobs), safe(found.board.metric)],
            "range": [-0.25, len(columns) - 0.55],
            "showgrid": False,
            "showline": False,
        },
        yaxis={"visible": False, "range": [-0.06, 1.06]},
        shapes=[
            {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": {"width": 1}} for x in range(len(columns))
        ],
        annotations=places,
    )
    settings = ", ".join(f"{knob} {short_text(value)}" for knob, value in arm.settings.items())
    return Figure(
        f"parallel-{arm.row.arm}",
        "All trials, all knobs",
        f"Parallel coordinates of {len(valued)} trials of {arm.row.arm}, {found.board.metric} {low:.4g} to {high:.4g}; "
        f"winner: {settings or 'none yet'}.",
        "Each line is a trial with a result. Better trials have stronger lines. Each axis has the scale of the search."
        + ("" if len(arm.drawn) == len(arm.trials) else f" The figures show {len(arm.drawn):,} of the trials."),
        plot,
    )


def _lines(
    arm: ArmFindings, trials: Sequence[Tried], ends: tuple[float, float], lines: dict[str, Any], name: str
) -> go.Scatter:
    low, high = ends
    x: list[int | None] = []
    y: list[float | None] = []
    for trial in trials:
        # The line of a trial has a gap where a knob does not apply to it.
        shares = [knob.share(trial.knobs[knob.name]) if knob.name in trial.knobs else None for knob in arm.knobs]
        shares.append(((trial.value or 0.0) - low) / (high - low) if high > low else 0.5)
        x += [*range(len(shares)), None]
        y += [*(None if share is None else round(share, 4) for share in shares), None]
    return go.Scatter(x=x, y=y, mode="lines", line=lines, name=name, hoverinfo="skip")


def _places(x: int, knob: Knob | None, ends: tuple[float, float]) -> Iterator[dict[str, Any]]:
    """The labels of an axis: the values at its ends, or all values of a short choice."""
    if knob is None:
        named = [(0.0, f"{ends[0]:.3g}"), (1.0, f"{ends[1]:.3g}")]
    elif knob.low is None or knob.high is None:
        shown = knob.values if len(knob.values) <= MOST_NAMED else (knob.values[0], knob.values[-1])
        named = [(knob.share(value), str(value)) for value in shown]
    else:
        named = [(0.0, f"{knob.low:g}"), (1.0, f"{knob.high:g}")]
    for y, text in named:
        yield {
            "x": x,
            "y": y,
            "text": safe(text),
            "showarrow": False,
            "xanchor": "left",
            "xshift": 3,
            "font": {"size": 11},
        }


def _importances(arm: ArmFindings, look: Look) -> Figure:
    ordered = sorted(arm.importances.items(), key=lambda item: item[1], reverse=True)
    bar = go.Bar(
        x=[share for _, share in ordered],
        y=[safe(knob) for knob, _ in ordered],
        orientation="h",
        marker={"color": look.colour},
        text=[f"{100 * share:.0f} %" for _, share in ordered],
        textposition="outside",
        textangle=0,
        cliponaxis=False,
        hoverinfo="skip",
    )
    return Figure(
        f"importances-{arm.row.arm}",
        "Importance of each knob",
        f"Importance of the knobs of {arm.row.arm}: {', '.join(f'{k} {100 * s:.0f} %' for k, s in ordered)}.",
        f"PED-ANOVA over the {arm.row.complete} trials that finished training. With few trials it is only a hint.",
        drawn(
            [bar],
            SMALL,
            xaxis={**axis("share"), "range": [0, 1.15], "tickvals": [0, 0.5, 1], "tickformat": ".0%"},
            yaxis={"autorange": "reversed", "type": "category", "automargin": True},
        ),
    )


def _slice(found: Findings, arm: ArmFindings, look: Look, knob: Knob) -> Figure:
    having = [trial for trial in arm.drawn if knob.name in trial.knobs]
    values = [trial.value for trial in arm.drawn if trial.value is not None]
    floor = min(values) if found.maximize else max(values)
    marks: dict[str, tuple[list[Tried], dict[str, Any]]] = {
        "finished": ([], {"symbol": "circle", "size": 8, "color": look.faint(0.75)}),
        "pruned": ([], {"symbol": "triangle-down-open", "size": 8, "color": look.faint(0.7)}),
        "no result": ([], {"symbol": "x-thin", "size": 9, "line": {"color": look.colour, "width": 2}}),
        "winner": ([], {"symbol": "star", "size": 16, "color": look.colour, "line": {"width": 1.5}}),
    }
    for trial in having:
        marks[_kind(arm, trial)][0].append(trial)
    traces = [_marked(arm, knob, trials, floor, name, mark) for name, (trials, mark) in marks.items() if trials]
    without = "without it" if arm.settings else "none yet"
    winner = short_text(arm.settings[knob.name]) if knob.name in arm.settings else without
    return Figure(
        f"slice-{arm.row.arm}-{knob.name}",
        knob.name,
        f"{found.board.metric} by {knob.name} over {len(having)} trials of {arm.row.arm}; searched "
        f"{knob.searched}; winner: {winner}.",
        "",
        drawn(traces, SMALL, showlegend=False, xaxis=_knob_axis(knob), yaxis=axis(found.board.metric)),
    )


def _kind(arm: ArmFindings, trial: Tried) -> str:
    if trial.label == arm.row.label:
        return "winner"
    if trial.value is None:
        return "no result"
    return "finished" if trial.state == State.COMPLETE else "pruned"


def _marked(
    arm: ArmFindings, knob: Knob, trials: Sequence[Tried], floor: float, name: str, mark: dict[str, Any]
) -> go.Scatter:
    return go.Scatter(
        x=[_shown(knob, trial) for trial in trials],
        y=[floor if trial.value is None else trial.value for trial in trials],
        mode="markers",
        marker=mark,
        name=name,
        hovertext=[safe(_hover(trial, knob)) for trial in trials],
        hoverinfo="text",
    )


def _shown(knob: Knob, trial: Tried) -> Any:
    value = trial.knobs[knob.name]
    if knob.scale == "choice":
        return safe(value)
    return float(f"{1 - float(value):.6g}") if knob.scale == "one-minus-log" else value


def _hover(trial: Tried, knob: Knob) -> str:
    value = "no result" if trial.value is None else short_text(trial.value)
    return f"trial {trial.label} ({trial.state}), {knob.name} {short_text(trial.knobs[knob.name])}: {value}"


def _knob_axis(knob: Knob) -> dict[str, Any]:
    if knob.low is None or knob.high is None:
        return {**axis(knob.name), "type": "category", "categoryarray": [safe(value) for value in knob.values]}
    if knob.scale == "one-minus-log":
        ends = (1 - knob.low, 1 - knob.high)
        return {**axis(f"1 − {knob.name}", "log", min(ends), max(ends)), "range": _wider(*map(math.log10, ends))}
    ends = (math.log10(knob.low), math.log10(knob.high)) if knob.scale == "log" else (knob.low, knob.high)
    return {**axis(knob.name, knob.scale, knob.low, knob.high), "range": _wider(*ends)}


def _wider(begin: float, end: float) -> list[float]:
    """The whole searched range with some space at both ends, so that values at the ends are visible."""
    space = 0.06 * (end - begin)
    return [begin - space, end + space]
