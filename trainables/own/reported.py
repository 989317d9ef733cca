"""Reads what a user's trainable reports: the numbers that may be shown, the withheld judge metric, and divergence."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from trainables.errors import CodeError, did_you_mean, nearest
from trainables.foreign_text import LONGEST, printable, raised
from trainables.own.trial import OwnTrial

MOST_NUMBERS = 1_000
"""Most numbers of a report."""
MOST_CHARACTERS = 100_000
"""Most characters of all names in a report."""
DEEPEST = 20
"""Most levels of dicts in dicts."""
_SHOWN = 12
"""Most names that a message lists."""


class MissingMetric(CodeError):
    """A report lacks a metric of the spec.

    Args:
        trainable: the trainable's name.
        metric: which metric.
        names: what was reported.
    """

    def __init__(self, trainable: str, metric: str, names: Iterable[str]) -> None:
        known = sorted(map(printable, names))
        self.metric = metric
        self.near = nearest(metric, known)
        hint = did_you_mean(metric, known)
        listed = ", ".join(known[:_SHOWN]) + (", …" if len(known) > _SHOWN else "")
        super().__init__(f"{trainable} reported no metric {metric!r}{hint} (it reported: {listed or 'no numbers'})")
        self._arguments = trainable, metric, known

    def __reduce__(self) -> tuple[type["MissingMetric"], tuple[str, str, list[str]]]:
        """An error that a worker raises is pickled."""
        return type(self), self._arguments


@dataclass(frozen=True)
class Reported:
    """The numbers of one report.

    Args:
        values: by name, without the judge metric, unless it also chooses.
        judged: the judge metric; or what is no number in its place, as text; or None if the report does not have it or
            is not of a confirm run. Only the last report's counts: see ``judged_number``.
        diverged: why the trial is given up, or None.
    """

    values: Mapping[str, float]
    judged: float | str | None
    diverged: str | None


def read_report(trial: OwnTrial, report: Mapping[str, Any], *, confirms: bool, not_theirs: Iterable[str]) -> Reported:
    """Check one report and split the judge metric off.

    Args:
        trial: the trial that reports.
        report: what the trainable reported; dicts in it are flattened, with ``/`` between the names.
        confirms: whether the trial is a confirm run, whose judge metric may be read.
        not_theirs: names that Ray adds to every report; they are dropped unless they are metrics of the spec.

    Raises:
        CodeError: the choose metric is missing or is no number, or the report is too large.
    """
    wanted = {trial.choose, trial.judge}
    dropped = set(not_theirs) - wanted
    try:
        flat = dict(_flat(trial, report))
        numbers = {name: number for name, value in flat.items() if (number := _number(value)) is not None}
    except CodeError:
        raise
    except Exception as error:  # a method of an object of the user's
        raise CodeError(raised(f"{trial.trainable}: reading its report", error)) from error
    values = {name: number for name, number in numbers.items() if name.partition("/")[0] not in dropped}
    if len(values) > MOST_NUMBERS:
        raise CodeError(
            f"{trial.trainable} reported {len(values):,} numbers at once; a report may have {MOST_NUMBERS:,}"
        )
    _require(trial.choose, trial, flat, values)
    judged: float | str | None = None
    if confirms and trial.judge in flat:
        # Before the last report there may be a placeholder.
        judged = values.get(trial.judge, _shown(flat[trial.judge]))
    chosen = values[trial.choose]
    diverged = None if math.isfinite(chosen) else f"{trial.choose} is {chosen}"
    if trial.judge != trial.choose:
        values.pop(trial.judge, None)
    return Reported(values, judged, diverged)


def judged_number(trial: OwnTrial, judged: float | str | None, names: Iterable[str]) -> float:
    """The judge metric of a confirm run's last report, which may be NaN or infinite.

    Args:
        trial: the trial.
        judged: that report's ``Reported.judged``.
        names: what the report had besides.

    Raises:
        CodeError: it is missing or is no number.
    """
    if isinstance(judged, str):
        raise CodeError(f"{trial.trainable} reported {trial.judge!r} as {judged}, which is no number")
    if judged is None:
        raise MissingMetric(trial.trainable, trial.judge, names)
    return judged


def _require(metric: str, trial: OwnTrial, flat: Mapping[str, Any], values: Mapping[str, float]) -> None:
    if metric in values:
        return
    if metric in flat:
        raise CodeError(f"{trial.trainable} reported {metric!r} as {_shown(flat[metric])}, which is no number")
    raise MissingMetric(trial.trainable, metric, values)


def _shown(value: Any) -> str:
    try:
        return " ".join(printable(repr(value))[:LONGEST].split())
    except Exception:  # an own class can have a broken __repr__, and a huge number has no text
        return f"an object of type {type(value).__name__}"


def _flat(trial: OwnTrial, report: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    characters = 0
    levels: list[tuple[str, Mapping[Any, Any], int]] = [("", report, 0)]
    while levels:
        prefix, values, depth = levels.pop(0)
        if depth > DEEPEST:
            raise CodeError(f"{trial.trainable} reported dicts in dicts, {DEEPEST} deep and more")
        for key, value in values.items():
            name = prefix + str(key)
            if not _is_utf8(name):
                raise CodeError(f"{trial.trainable} reported a number whose name is not UTF-8: {name!a:.80}")
            characters += len(name)
            if characters > MOST_CHARACTERS:
                raise CodeError(f"{trial.trainable} made too large a report: its names have {characters:,} characters")
            if isinstance(value, Mapping):
                levels.append((f"{name}/", value, depth + 1))
            else:
                yield name, value


def _number(value: Any) -> float | None:
    """A real number as a float: also numpy's, and arrays and tensors without an axis; None for everything else."""
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of more than 300 digits
        return -math.inf if value < 0 else math.inf


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
