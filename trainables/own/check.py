"""Checks a user's own trainable before any trial starts: it must train, and report the metrics of the spec.

It must be called in a process of its own: it changes the current folder, the environment and the random numbers.
"""

import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from trainables.errors import CodeError
from trainables.own.in_process import steps
from trainables.own.reported import MissingMetric
from trainables.own.trial import OwnTrial
from trainables.report import OwnReport, StepReport

MOST_REPORTS = 2
"""Most reports that the check waits for."""
QUICK_S = 10.0
"""If the first report takes longer, the check does not train again with another seed."""


def check_trainable(
    trial: OwnTrial, announce: Callable[[str], None] = lambda line: None, goes_on: Callable[[], None] = lambda: None
) -> None:
    """Build the trainable, take up to two reports as a confirm run does, and resume from its checkpoint.

    Args:
        trial: the trial; its config has a value for every knob.
        announce: called with one line before the training, and one for all that the user should know: the trainable
            makes no checkpoint, a metric is not there yet or is no finite number, the seed changes nothing.
        goes_on: called before each report.

    Raises:
        CodeError: the trainable cannot be loaded or fails, or its reports cannot be used; one line.
    """
    most = min(MOST_REPORTS, trial.epochs)
    announce(f"checking the trainable: {trial.trainable} makes {most} report{'s' if most > 1 else ''}")
    with tempfile.TemporaryDirectory() as folder:
        _Check(trial, announce, goes_on, Path(folder)).run()


@dataclass
class _Check:
    trial: OwnTrial
    announce: Callable[[str], None]
    goes_on: Callable[[], None]
    folder: Path
    judge_is_late: bool = False
    """Whether the judge metric comes after the reports of the check."""

    def run(self) -> None:
        name, started = self.trial.trainable, time.monotonic()
        short = replace(self.trial, epochs=min(MOST_REPORTS, self.trial.epochs))
        with tempfile.TemporaryDirectory(dir=self.folder) as checkpoints:
            reports, ended = self._judged_reports(short, checkpoints)
            quick = (time.monotonic() - started) / max(1, len(reports)) < QUICK_S
            for report in reports:
                if report.diverged:
                    self.announce(f"warning: {name}: {report.diverged} in report {report.epoch}: a trial ends there")
            if any(Path(checkpoints).iterdir()):
                self._resume(short, checkpoints)
            elif not ended and reports and not reports[0].diverged and self.trial.epochs > 1:
                text = "makes no checkpoint, so an interrupted trial starts again from its first report"
                self.announce(f"note: {name} {text}")
        if quick and reports and not reports[0].diverged:
            self._check_seed(short)

    def _judged_reports(self, trial: OwnTrial, checkpoints: str) -> tuple[list[OwnReport], bool]:
        """The reports of a confirm run, and whether it ended by itself."""
        reports: list[OwnReport] = []
        try:
            for step in self._steps(trial, checkpoints, read_test=True):
                if isinstance(step.epoch, OwnReport) and step.epoch not in reports:
                    reports.append(step.epoch)
                if step.ended:
                    return reports, True
        except MissingMetric as error:
            # A trainable may measure the judge metric only at its end. A misspelt name is an error at once.
            late = error.metric == trial.judge != trial.choose and not error.near and trial != self.trial
            if not late or self._ends_by_itself(trial):
                raise
            self.judge_is_late = True
            self.announce(
                f"warning: {trial.trainable} reported no metric {trial.judge!r} in its first {trial.epochs} reports; "
                "the last report of a confirm run must have it"
            )
        return reports, False

    def _ends_by_itself(self, trial: OwnTrial) -> bool:
        with tempfile.TemporaryDirectory(dir=self.folder) as checkpoints:
            return list(self._steps(trial, checkpoints))[-1].ended

    def _resume(self, trial: OwnTrial, checkpoints: str) -> None:
        with closing(self._steps(trial, checkpoints, attempt=2, accepted=[(1, 1)])) as resumed:
            first = next(resumed).epoch
        if first is not None and first.epoch == 1:
            text = "saves checkpoints but does not load them, so an interrupted trial starts again"
            self.announce(f"warning: {trial.trainable} {text}")

    def _check_seed(self, trial: OwnTrial) -> None:
        if self._values(trial, 0) != self._values(trial, 1):
            return
        text = "the seed changes nothing: runs with different seeds report the same numbers"
        passing = replace(trial, passed=(*trial.passed, "seed"))
        try:
            helps = "seed" not in trial.passed and self._values(passing, 0) != self._values(passing, 1)
        except CodeError:
            # It hands its config to a library that does not know the key.
            helps = False
        self.announce(f"warning: {trial.trainable}: {text}" + ("; with pass: [seed] they differ" if helps else ""))

    def _values(self, trial: OwnTrial, seed: int) -> list[str]:
        """The choose metric of all reports, and the judge metric; as text: two numbers that are NaN are equal there."""
        seeded = replace(trial, seed=trial.seed + seed)
        with tempfile.TemporaryDirectory(dir=self.folder) as checkpoints:
            answers = list(self._steps(seeded, checkpoints, read_test=not self.judge_is_late))
        chosen = [step.epoch.metric(trial.choose) for step in answers if step.epoch is not None]
        judged = [step.result.metric(trial.judge) for step in answers if step.result is not None]
        return [repr(value) for value in (*chosen, *judged)]

    def _steps(
        self,
        trial: OwnTrial,
        checkpoints: str,
        *,
        read_test: bool = False,
        attempt: int = 1,
        accepted: Sequence[tuple[int, int]] = (),
    ) -> Generator[StepReport, None, None]:
        """The answers of a worker to one attempt, to its end; it saves a checkpoint at each report."""
        return steps(
            trial,
            checkpoints,
            read_test=read_test,
            checkpoint_s=0.0,
            attempt=attempt,
            accepted=accepted,
            goes_on=self.goes_on,
        )
