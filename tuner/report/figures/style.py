"""The style of the figures: one colour, dash and symbol per arm, and the layout that all figures share."""

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import plotly.graph_objects as go

from tuner.report.findings import ArmFindings
from tuner.tracking.colours import VARIANTS, colour

DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "cross", "pentagon", "hexagon", "star-triangle-up")
HEIGHT = 360
SMALL = 240
LONGEST = 24
"""Longest name that fits next to a figure, in characters."""


class Look(NamedTuple):
    """One arm's colour, dash and symbol, the same in all figures."""

    colour: str
    dash: str
    symbol: str

    def faint(self, opacity: float) -> str:
        """The colour with this opacity, from 0 to 1."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},{opacity:g})"


Arms = Sequence[tuple[ArmFindings, Look]]
"""Arms with their styles."""


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    Args:
        name: the figure's id on the page.
        title: the heading above the figure.
        alt: the content with its numbers, for readers who cannot see the figure.
        caption: how to read the figure.
        plot: data and layout for Plotly.
    """

    name: str
    title: str
    alt: str
    caption: str
    plot: dict[str, Any]

    @property
    def height(self) -> int:
        """The figure's height in pixels."""
        return int(self.plot["layout"]["height"])


def looks(count: int) -> list[Look]:
    """The styles of ``count`` arms, the baseline first. Arms that share a colour have different dashes."""
    dashes = [DASHES[max(0, number - 1) // len(VARIANTS) % len(DASHES)] for number in range(count)]
    return [Look(colour(number), dash, SYMBOLS[number % len(SYMBOLS)]) for number, dash in enumerate(dashes)]


def tall(arms: Arms) -> int:
    """The height of a figure whose legend lists these arms, in pixels."""
    return HEIGHT + 12 * max(0, len(arms) - 5)


def drawn(traces: Sequence[Any], height: int = HEIGHT, **layout: Any) -> dict[str, Any]:
    """A plot as plain values. The page adds the colours of the theme."""
    # In a small figure an automatic margin may never settle: it depends on the labels, and they depend on the margin.
    common = {"automargin": height > SMALL, "zeroline": False}
    figure = go.Figure(
        data=list(traces),
        layout={
            "template": None,
            "height": height,
            "margin": {"l": 8, "r": 12, "t": 8, "b": 8} if height > SMALL else {"l": 64, "r": 12, "t": 8, "b": 44},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"},
            "hovermode": "closest",
        },
    )
    figure.update_layout(**layout | {name: common | layout.get(name, {}) for name in ("xaxis", "yaxis")})
    plain: dict[str, Any] = json.loads(figure.to_json())
    # Without this, each figure would contain Plotly's default template.
    plain["layout"].pop("template", None)
    return plain


def axis(title: str, scale: str = "linear", low: float | None = None, high: float | None = None) -> dict[str, Any]:
    """An axis. A logarithmic axis has ticks at powers of ten; on a short range also at 2 and 5 times a power."""
    if scale != "log":
        return {"title": {"text": safe(title), "standoff": 8}}
    decades = math.log10(high / low) if low and high else 3.0
    ticks = {"dtick": 1} if decades >= 1.5 else {"dtick": "D2", "minorloglabels": "complete"}
    return {"title": {"text": safe(title), "standoff": 8}, "type": "log", "exponentformat": "e", **ticks}


def safe(value: Any) -> str:
    """Text with escaped tags, because Plotly interprets some HTML tags."""
    return html.escape(str(value))


def label(name: str) -> str:
    """A name for a legend or an axis. A long name is shortened to its two ends."""
    return safe(name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}…{name[-8:]}")


def arm_axis(names: Sequence[str]) -> dict[str, Any]:
    """An axis with one tick per arm, in the given order."""
    return {"type": "category", "tickvals": [safe(name) for name in names], "ticktext": [label(name) for name in names]}


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float], look: Look, group: str) -> Any:
    """The area between two lines."""
    return go.Scatter(
        x=[*x, *reversed(x)],
        y=[*high, *reversed(low)],
        fill="toself",
        fillcolor=look.faint(0.18),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        legendgroup=safe(group),
        showlegend=False,
    )


def line(x: Sequence[float], y: Sequence[float | None], look: Look, name: str, unit: str, width: float = 2.5) -> Any:
    """An arm's line, with its name in the legend."""
    return go.Scatter(
        x=list(x),
        y=list(y),
        name=label(name),
        legendgroup=safe(name),
        mode="lines",
        line={"color": look.colour, "dash": look.dash, "width": width},
        hovertemplate=f"%{{fullData.name}}<br>{unit} %{{x:.4~g}}: %{{y:.4~g}}<extra></extra>",
    )
