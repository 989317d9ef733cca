"""The report as one self-contained HTML file. It includes Plotly, and its policy forbids requests to other hosts."""

import base64
import hashlib
import io
import json
import sys
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from ruamel.yaml import YAML

from trainables.space import short_text
from tuner.report.figures.all_arms import comparing
from tuner.report.figures.one_arm import searching
from tuner.report.figures.style import looks
from tuner.report.findings import Findings
from tuner.report.sensitivity import reach
from tuner.report.wording import percent, searches_text, spent_text, test_text, tolerance_text, trials_text, val_text
from tuner.verdict.leaderboard import verdict_text
from tuner.verdict.numbers import judge_column


def html(found: Findings) -> str:
    """The HTML page of a job's findings."""
    page = files("tuner.report") / "page"
    arms = list(zip(found.arms, looks(len(found.arms)), strict=True))
    compared = list(comparing(found, arms))
    searched = {arm.row.arm: list(searching(found, arm, look)) for arm, look in arms}
    figures = [figure for group in (*(made for _, made in compared), *searched.values()) for figure in group]
    library, script = get_plotlyjs(), (page / "page.js").read_text(encoding="utf-8")
    template = _environment().from_string((page / "page.html").read_text(encoding="utf-8"))
    return template.render(
        board=found.board,
        statements=found.statements,
        searches_text=searches_text(found.board.measured),
        judged=judge_column(found.board.measured),
        arms=arms,
        comparing=compared,
        searching=searched,
        tolerance=tolerance_text(found.tolerance, found.board.measured),
        unit=found.unit,
        factor=found.factor,
        spec=_yaml(_given(found.origin.spec)),
        plots=_inline({figure.name: figure.plot for figure in figures}),
        # These are files of this package and of Plotly. They contain nothing from a job, so they need no escaping.
        css=Markup((page / "page.css").read_text(encoding="utf-8")),
        library=Markup(library),
        script=Markup(script),
        hashes=Markup(f"{_hash(library)} {_hash(script)}"),
    )


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    environment.filters |= {
        "val_text": val_text,
        "test_text": test_text,
        "trials_text": trials_text,
        "verdict_text": verdict_text,
        "spent_text": spent_text,
        "short": short_text,
        "reach": reach,
        "percent": percent,
    }
    return environment


def _given(values: Any) -> Any:
    """A spec's values without the keys that its user left out."""
    if isinstance(values, Mapping):
        return {key: _given(part) for key, part in values.items() if part not in (None, {}, [])}
    return [_given(part) for part in values] if isinstance(values, list) else values


def _yaml(values: Any) -> str:
    """``values`` as YAML 1.2, the version that specs have, with their keys in the same order."""
    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = False
    yaml.representer.sort_base_mapping_type_on_output = False
    # A long path stays on one line.
    yaml.width = sys.maxsize
    yaml.dump(values, text)
    return text.getvalue()


def _inline(values: Any) -> Markup:
    """JSON for a script element. Its text cannot close the element."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _hash(script: str) -> str:
    """The hash that lets a script run under the page's policy. No other script runs."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
