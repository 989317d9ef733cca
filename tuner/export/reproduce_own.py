"""Runs an exported winner of the user's own trainable again, and compares the judge metric with the recorded one."""

import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from trainables.own.in_process import steps
from trainables.own.trial import OwnTrial
from trainables.report import Report, Result
from tuner.errors import IntegrityError, SpecError
from tuner.export.export_file import Export, OwnMetric
from tuner.verdict.paired_test import prediction_interval


@dataclass(frozen=True)
class OwnReproduction:
    """The result of running a trainable again.

    Args:
        seed: the seed.
        metric: name of the judge metric.
        value: its value now.
        recorded: the recorded value of that seed; None for a fresh seed.
        low, high: the 99 % prediction interval in which the value should lie.
        same_bits: whether the value equals the recorded one to the last bit; None for a fresh seed.
    """

    seed: int
    metric: str
    value: float
    recorded: float | None
    low: float
    high: float
    same_bits: bool | None

    @property
    def ok(self) -> bool:
        """Whether the result was reproduced."""
        return bool(self.same_bits) or self.low <= self.value <= self.high

    def text(self) -> str:
        """The result as a sentence."""
        came_to = f"seed {self.seed}: {self.metric} {self.value!r}"
        if self.same_bits:
            return f"{came_to}, equal to the recorded value to the last bit"
        was = "" if self.recorded is None else f" (recorded {self.recorded!r})"
        inside = "inside" if self.ok else "outside"
        return f"{came_to}{was}; {inside} {self.low:.6g} to {self.high:.6g}, the 99 % prediction interval"


def run_again(
    export: Export, metric: OwnMetric, trial: OwnTrial, on_report: Callable[[Report], None]
) -> OwnReproduction:
    """Run a trial of the user's trainable to its end in this process, and compare.

    The value must equal the recorded one to the last bit, or lie in a 99 % prediction interval: around the recorded
    value of this seed, or around the mean of the recorded seeds if the seed is fresh. How far the runs of one setting
    lie apart is known from two recorded seeds on.

    Args:
        export: the winner.
        metric: its metrics.
        trial: the trial with the wanted seed.
        on_report: called with each report.

    Raises:
        SpecError: the seed is fresh, and one recorded seed shows no spread.
        IntegrityError: the trial diverged.
        CodeError: the user's code raises an exception, or reports what cannot be used.
    """
    known = next((run.judged for run in export.own_runs if run.seed == trial.seed), None)
    values = [run.judged for run in export.own_runs]
    if known is None and len(values) == 1:
        raise SpecError("a fresh seed cannot be compared: the export has one confirm run, which shows no spread")
    low, high = prediction_interval(values, repeated=known, metric=metric.spec)
    value = _train(trial, on_report).metric(metric.judge)
    return OwnReproduction(
        seed=trial.seed,
        metric=metric.judge,
        value=value,
        recorded=known,
        low=low,
        high=high,
        same_bits=None if known is None else value == known,
    )


def _train(trial: OwnTrial, on_report: Callable[[Report], None]) -> Result:
    trial = replace(trial, gpu=trial.gpu and torch.cuda.is_available())
    # A worker changes the environment of its process, to lead the trainable's own mlflow away from real stores.
    environment = dict(os.environ)
    done = 0
    with tempfile.TemporaryDirectory(prefix="tuner-") as checkpoints:
        answers = steps(trial, checkpoints, read_test=True, checkpoint_s=math.inf)
        try:
            for step in answers:
                report = step.epoch
                if report is not None and report.epoch > done:
                    done = report.epoch
                    on_report(report)
                # A trial that ended by itself may tell it of a report that it has given.
                if report is not None and report.diverged:
                    raise IntegrityError(f"not reproduced: {report.diverged} at report {report.epoch}")
                if step.result is not None:
                    return step.result
        finally:
            answers.close()
            os.environ.clear()
            os.environ.update(environment)
    raise AssertionError("the last answer of a trial that has not diverged has its result")
