"""A job's progress: counts per arm, time spent, and time left."""

import time
from typing import NamedTuple

from tuner.jobs.record import Record
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import Stage
from tuner.verdict.method import active_arms, next_look
from tuner.verdict.numbers import choose_name, value_text


class ArmProgress(NamedTuple):
    """An arm's counts.

    Args:
        arm: its name.
        trials, of: search trials that started, and that are planned.
        running, pruned, failed: how many of the started ones; diverged trials count as failed.
        epochs: trained in the search.
        best: the metric's best value after any epoch, or None.
        confirmed, to_confirm: confirm runs that ended, and planned.
    """

    arm: str
    trials: int
    of: int
    running: int
    pruned: int
    failed: int
    epochs: int
    best: float | None
    confirmed: int
    to_confirm: int


class Stages(NamedTuple):
    """(ended, planned) trials of each stage."""

    search: tuple[int, int]
    select: tuple[int, int]
    confirm: tuple[int, int]


class Progress:
    """Counts of a job, and its time left.

    Args:
        spec: the job's spec.
        record: its record so far. It may grow in another thread.
        concurrent: trials at once.
    """

    def __init__(self, spec: SearchSpec, record: Record, concurrent: float) -> None:
        self._spec = spec
        self._record = record
        self._concurrent = concurrent
        self._started = time.monotonic()

    @property
    def job(self) -> str:
        """The job's id."""
        return self._record.name

    @property
    def metric(self) -> str:
        """The name of the metric that selects settings."""
        return choose_name(self._spec.metric)

    def line(self) -> str:
        """One line: trials done of all, time spent and time left."""
        stages = self.stages()
        parts = [f"search {_of(stages.search)}"]
        if stages.select[1]:
            parts.append(f"select {_of(stages.select)}")
        if self._record.rounds or self._spec.searches:
            parts.append(f"confirm {_of(stages.confirm)}")
        return f"{', '.join(parts)}, {duration(time.monotonic() - self._started)} spent, {self._left()}"

    def stages(self) -> Stages:
        """(ended, planned) trials of each stage."""
        return Stages(
            (self._done(Stage.SEARCH), self._search_trials()),
            (self._done(Stage.SELECT), self._selection_runs()),
            (self._confirmed(), self._confirm_runs()),
        )

    def arms(self) -> list[ArmProgress]:
        """The counts of every arm, the baseline first."""
        return [self._arm(arm) for arm in self._record.arms]

    def left_s(self) -> float | None:
        """An estimate of the seconds left, from the trials so far; None before any has ended."""
        searched = self._record.group(Stage.SEARCH)
        every = [self._record.group(stage) for stage in Stage]
        epochs = sum(group.epochs for group in every)
        if not searched.ended or not epochs:
            return None
        # A cap may have ended the search early.
        search_left = self._search_trials() - searched.ended if self._record.searching else 0
        whole_left = self._confirm_runs() - self._confirmed()
        if self._record.searching:
            whole_left += self._selection_runs() - self._done(Stage.SELECT)
        left = search_left * searched.epochs_of_ended / searched.ended + whole_left * self._spec.budget.epochs
        return max(0.0, left) * sum(group.seconds for group in every) / epochs / self._concurrent

    def _left(self) -> str:
        seconds = self.left_s()
        if seconds is None:
            return "time left unknown yet"
        budget = self._spec.budget.max_hours
        cap = "" if budget is None or self._record.extensions else f" (search capped at {budget:g} h)"
        return f"about {duration(seconds)} left{cap}"

    def _arm(self, arm: str) -> ArmProgress:
        searched = self._record.group(Stage.SEARCH, arm)
        return ArmProgress(
            arm=arm,
            trials=len(searched.trials),
            of=self._spec.budget.trials * self._searches(arm),
            running=searched.running,
            pruned=searched.pruned,
            failed=searched.lost,
            epochs=searched.epochs,
            best=searched.best,
            confirmed=self._confirmed(arm),
            to_confirm=self._confirm_runs_of(arm),
        )

    def _done(self, stage: Stage, arm: str | None = None, round_number: int | None = None) -> int:
        return self._record.group(stage, arm, round_number=round_number).ended

    def _confirmed(self, arm: str | None = None) -> int:
        rounds = self._record.rounds
        last = self._done(Stage.CONFIRM, arm, rounds[-1].round) if rounds else 0
        return last + (self._done(Stage.CONFIRM, arm, 0) if self._spec.searches else 0)

    def _searches(self, arm: str) -> int:
        """Searches of an arm up to the next look; those that it has if it is not searched any more."""
        at = next_look(self._record, self._spec) if self._record.searching else None
        if at is not None and arm in active_arms(self._record, self._spec):
            return at
        return self._record.group(Stage.SEARCH, arm).searches or 1

    def _search_trials(self) -> int:
        return self._spec.budget.trials * sum(self._searches(arm) for arm in self._record.arms)

    def _selection_runs(self) -> int:
        confirm = self._spec.confirm
        arms = 1 if self._spec.searches else len(self._record.arms)
        return confirm.top_k * confirm.selection_seeds * arms if confirm.top_k > 1 else 0

    def _confirm_runs(self) -> int:
        runs = sum(self._confirm_runs_of(arm) for arm in self._record.arms)
        # Only the best arm's setting will be confirmed by itself, and nobody knows the arm before the round begins.
        last = self._spec.confirm.seeds if self._spec.searches and self._record.searching else 0
        return runs + last

    def _confirm_runs_of(self, arm: str) -> int:
        """Confirm runs of an arm: of its searches, and of the last round that it is in."""
        rounds, searches = self._record.rounds, self._spec.searches
        of_searches = self._searches(arm) * searches.confirm_seeds if searches else 0
        if rounds:
            return of_searches + (len(rounds[-1].seeds) if arm in rounds[-1].winners else 0)
        return of_searches if searches else self._spec.confirm.seeds


def arm_columns(metric: str) -> tuple[str, ...]:
    """The headings of ``arm_cells``."""
    return ("arm", "trials", "running", "pruned", "failed", "epochs", f"best {metric}", "confirmed")


def arm_cells(arm: ArmProgress) -> tuple[str, ...]:
    """An arm's progress as a table shows it."""
    return (
        arm.arm,
        f"{arm.trials}/{arm.of}",
        str(arm.running),
        str(arm.pruned),
        str(arm.failed),
        str(arm.epochs),
        "–" if arm.best is None else value_text(arm.best),
        f"{arm.confirmed}/{arm.to_confirm}",
    )


def duration(seconds: float) -> str:
    """Seconds in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _of(counts: tuple[int, int]) -> str:
    return f"{counts[0]}/{counts[1]}"
