"""The report in Markdown: the verdict first, then its evidence. MLflow shows it as the parent run's description."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from trainables.space import short_text
from tuner.report.findings import Findings
from tuner.report.sensitivity import reach
from tuner.report.wording import percent, searches_text, spent_text, test_text, tolerance_text, trials_text, val_text
from tuner.verdict.leaderboard import verdict_text
from tuner.verdict.numbers import judge_column

_TAG = re.compile(r"<(?=[a-zA-Z/!?])")


def markdown(found: Findings) -> str:
    """A job's report in Markdown. The job need not be finished."""
    parts = (
        _head(found),
        _verdicts(found),
        _searches(found),
        _warnings(found),
        _settings(found),
        _conditions(found),
        _provenance(found),
        _sensitivity(found),
        _anytime(found),
    )
    return "\n".join(itertools.chain.from_iterable(parts))


def _head(found: Findings) -> Iterator[str]:
    yield f"# {found.board.job}"
    yield ""
    yield f"**{found.statements.headline}**" if found.board.judged else found.statements.headline
    yield ""
    if found.statements.simulated:
        yield f"**{found.statements.simulated}**"
        yield ""


def _verdicts(found: Findings) -> Iterator[str]:
    board = found.board
    test = judge_column(board.measured)
    columns = ("arm", board.metric, test, "verdict", "trials", "epochs", f"{found.unit}: useful / pruned / failed")
    rows = [
        (
            arm.row.arm,
            val_text(arm.row),
            test_text(arm.row),
            verdict_text(arm.row, board),
            trials_text(arm.row),
            arm.row.epochs,
            spent_text(arm.spent, found.factor),
        )
        for arm in found.arms
    ]
    yield from _table(columns, rows)
    for text in (found.statements.reading, found.statements.evidence):
        if text:
            yield text
            yield ""


def _searches(found: Findings) -> Iterator[str]:
    rows = [
        (
            arm.row.arm,
            len(arm.row.tests),
            arm.won.text() if arm.won else "–",
            f"{arm.to_target.text()} to {arm.to_target.target:.4g}" if arm.to_target else "–",
        )
        for arm in found.arms
        if found.board.claim == "method"
    ]
    if rows:
        yield searches_text(found.board.measured)
        yield ""
        yield from _table(("arm", "searches", "won", "cost to the target"), rows)


def _warnings(found: Findings) -> Iterator[str]:
    for warning in found.board.warnings:
        yield f"- Warning: {_safe(warning)}."
    if found.board.warnings:
        yield ""


def _settings(found: Findings) -> Iterator[str]:
    yield "## Winning settings"
    yield ""
    for arm in found.arms:
        if arm.row.winner is not None:
            knobs = ", ".join(f"{knob} {_safe(short_text(value))}" for knob, value in arm.settings.items())
            yield f"- **{arm.row.arm}** (trial {arm.row.label}): {knobs}"
    yield ""


def _conditions(found: Findings) -> Iterator[str]:
    yield from _list("Search conditions", found.statements.conditions)


def _provenance(found: Findings) -> Iterator[str]:
    yield from _list("Origin of the results", found.statements.provenance)
    if found.statements.reproduce:
        yield f"Train the best settings again and compare the result: `{found.statements.reproduce}`"
        yield ""


def _sensitivity(found: Findings) -> Iterator[str]:
    within = tolerance_text(found.tolerance, found.board.measured)
    rows = [
        (
            arm.row.arm,
            near.knob,
            short_text(near.best),
            reach(near),
            near.searched,
            percent(arm.importances.get(near.knob)),
        )
        for arm in found.arms
        for near in arm.near
    ]
    if rows:
        yield "## Sensitivity of the settings"
        yield ""
        yield f"The ranges cover the trials that finished training and came within {within} of the best. All settings"
        yield "changed together: a wide range is a fact, but a narrow one may be chance. Importance: PED-ANOVA over all"
        yield "trials that finished training."
        yield ""
        yield from _table(("arm", "setting", "best", f"within {within}", "searched", "importance"), rows)


def _anytime(found: Findings) -> Iterator[str]:
    curves = [(arm.row.arm, arm.after_trials) for arm in found.arms if arm.after_trials is not None]
    if not curves:
        return
    counts = [cost for cost in max((curve.cost for _, curve in curves), key=len) if (int(cost) & int(cost) - 1) == 0]
    rows = []
    for arm, curve in curves:
        at = dict(zip(curve.cost, zip(curve.mean, curve.low, curve.high, strict=True), strict=True))
        cells = ("{:.4g} [{:.4g}, {:.4g}]".format(*at[count]) if count in at else "–" for count in counts)
        rows.append((arm, *cells))
    yield f"## Expected best {found.measure} by number of trials"
    yield ""
    order = "The mean over the searches." if found.board.claim == "method" else "The trials are put in random order."
    yield f"{order} The brackets contain the middle 90 % of a bootstrap."
    yield ""
    yield from _table(("arm", *(f"{count:g}" for count in counts)), rows)


def _list(heading: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"## {heading}"
    yield ""
    yield from (f"- {_safe(line)}" for line in lines)
    yield ""


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield f"| {' | '.join(_safe(cell) for cell in row)} |"
    yield ""


def _safe(value: Any) -> str:
    """Text that neither closes a table cell nor starts an HTML tag."""
    return _TAG.sub("&lt;", str(value)).replace("|", "\\|")
