"""The trials and the epochs of a job as rows of plain values, for tables."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from trainables.report import OwnResult, Result
from tuner.jobs.record import Record, Trial

Row = dict[str, Any]
METRIC, KNOB = "metric.", "knob."
"""Prefixes of columns: of a metric with the name of another column, and of every knob."""
PLACE = ("trial", "stage", "arm", "search", "number", "round", "seed")
TRIAL = (*PLACE, "state", "attempts", "epochs", "seconds", "started", "ended", "reason")
"""First columns of a trial. Its metrics and knobs follow."""
EPOCH = (*PLACE, "epoch", "seconds")
"""First columns of an epoch. Its metrics follow."""


def trial_rows(record: Record) -> list[Row]:
    """One row per trial, in the order in which they began.

    The metrics are those of the last epoch and, for a confirm run, of its result. ``knob.NAME`` is the trial's value of
    every knob that some arm searches, and None if it has none. Times are ISO 8601 in UTC.
    """
    searched = list(dict.fromkeys(knob for trial in record.trials.values() for knob in trial.knobs))
    return [_trial_row(trial, searched) for trial in record.trials.values()]


def epoch_rows(record: Record) -> list[Row]:
    """One row per epoch (for the user's own trainable: per report), trial by trial, with all its metrics."""
    return [
        {**_place(trial), "epoch": report.epoch, "seconds": report.seconds} | _metrics(report.numbers(), EPOCH)
        for trial in record.trials.values()
        for report in trial.epochs
    ]


def _trial_row(trial: Trial, searched: list[str]) -> Row:
    last = trial.epochs[-1].numbers() if trial.epochs else {}
    result = {} if trial.result is None else result_numbers(trial.result)
    return {
        **_place(trial),
        "state": str(trial.state),
        "attempts": trial.attempts,
        "epochs": len(trial.epochs),
        "seconds": trial.seconds,
        "started": _time(trial.started_ms),
        "ended": None if trial.ended_ms is None else _time(trial.ended_ms),
        "reason": trial.reason,
        **_metrics({**last, **result}, TRIAL),
        **{f"{KNOB}{knob}": trial.knobs.get(knob, trial.hyper.get(knob)) for knob in searched},
    }


def result_numbers(result: Result) -> Mapping[str, float]:
    """The numbers of a confirm run's result by name."""
    if isinstance(result, OwnResult):
        return result.values
    return {"test_acc": result.test_acc, "test_loss": result.test_loss}


def _place(trial: Trial) -> Row:
    return {
        "trial": trial.key,
        "stage": str(trial.stage),
        "arm": trial.arm,
        "search": trial.search,
        "number": trial.number,
        "round": trial.round,
        "seed": trial.seed,
    }


def _metrics(values: Mapping[str, float], columns: tuple[str, ...]) -> Row:
    return {f"{METRIC}{name}" if name in columns else name: value for name, value in values.items()}


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat()
