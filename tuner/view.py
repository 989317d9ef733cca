"""What a person sees while a job runs: a live table on a terminal, plain lines elsewhere. Talk goes to stderr."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from tuner.journal import Event
from tuner.record import LOST, Record, Stage, State, Trial
from tuner.spec import SearchSpec

if TYPE_CHECKING:
    from rich.table import Table

REFRESH_PER_S = 2


class View(Protocol):
    """Shows a job's progress."""

    def say(self, text: str) -> None:
        """A line of talk."""

    def heard(self, event: Event, record: Record) -> None:
        """An event was written; ``record`` has taken it."""

    def watching(self, spec: SearchSpec, record: Record, concurrent: int) -> AbstractContextManager[None]:
        """A context in which progress is shown."""


class Quiet:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def heard(self, event: Event, record: Record) -> None:
        """Nothing."""

    @contextmanager
    def watching(self, spec: SearchSpec, record: Record, concurrent: int) -> Iterator[None]:
        """Nothing."""
        yield


class Lines:
    """A line whenever a trial ends, with what remains."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def say(self, text: str) -> None:
        """Print it."""
        print(text, file=sys.stderr, flush=True)

    def heard(self, event: Event, record: Record) -> None:
        """Print a line for a trial that ended."""
        if event["kind"] == "end" and self._progress is not None:
            self.say(f"{trial_line(record.trials[event['trial']])}; {self._progress.line()}")

    @contextmanager
    def watching(self, spec: SearchSpec, record: Record, concurrent: int) -> Iterator[None]:
        """Count progress for the lines."""
        self._progress = Progress(spec, record, concurrent)
        yield
        self._progress = None


class Live:
    """A table of arms that is redrawn in place."""

    def say(self, text: str) -> None:
        """Print it."""
        print(text, file=sys.stderr, flush=True)

    def heard(self, event: Event, record: Record) -> None:
        """The table redraws itself."""

    @contextmanager
    def watching(self, spec: SearchSpec, record: Record, concurrent: int) -> Iterator[None]:
        """Show the table."""
        from rich.console import Console
        from rich.live import Live as RichLive

        progress = Progress(spec, record, concurrent)
        with RichLive(get_renderable=progress.table, console=Console(stderr=True), refresh_per_second=REFRESH_PER_S):
            yield


class Progress:
    """Counts of a running job, and when it will be done."""

    def __init__(self, spec: SearchSpec, record: Record, concurrent: int) -> None:
        self._spec = spec
        self._record = record
        self._concurrent = concurrent
        self._started = time.monotonic()

    def line(self) -> str:
        """Trials done of all, time spent and left."""
        parts = [f"search {self._done(Stage.SEARCH)}/{self._search_trials()}"]
        if self._selection_runs():
            parts.append(f"select {self._done(Stage.SELECT)}/{self._selection_runs()}")
        if self._record.rounds:
            parts.append(f"confirm {self._confirmed()}/{self._confirm_runs()}")
        return f"{', '.join(parts)}, {_duration(time.monotonic() - self._started)} spent, {self._eta()}"

    def table(self) -> "Table":
        """One row an arm."""
        from rich.table import Table

        table = Table(title=f"{self._record.name}: {self.line()}", title_justify="left")
        for column in (
            "arm",
            "trials",
            "running",
            "pruned",
            "failed",
            "epochs",
            f"best {self._spec.metric.name}",
            "confirmed",
        ):
            table.add_column(column, justify="left" if column == "arm" else "right")
        for arm in self._record.arms:
            table.add_row(arm, *self._cells(arm))
        return table

    def _cells(self, arm: str) -> list[str]:
        trials = self._trials(Stage.SEARCH, arm)
        states = [trial.state for trial in trials]
        best = self._best(trials)
        return [
            f"{len(trials)}/{self._spec.budget.trials}",
            str(states.count(State.RUNNING)),
            str(states.count(State.PRUNED)),
            str(sum(state in LOST for state in states)),
            str(sum(len(trial.epochs) for trial in trials)),
            "–" if best is None else f"{best:.4f}",
            f"{self._confirmed(arm)}/{len(self._seeds())}",
        ]

    def _best(self, trials: list[Trial]) -> float | None:
        values: list[float] = [epoch[self._spec.metric.key] for trial in trials for epoch in list(trial.epochs)]
        if not values:
            return None
        return max(values) if self._spec.metric.goal == "maximize" else min(values)

    def _trials(self, stage: Stage, arm: str | None = None, round_number: int | None = None) -> list[Trial]:
        # The record grows in another thread, and a dictionary must not grow while it is walked through.
        trials = list(self._record.trials.values())
        return [t for t in trials if t.stage == stage and arm in (None, t.arm) and round_number in (None, t.round)]

    def _done(self, stage: Stage, arm: str | None = None, round_number: int | None = None) -> int:
        return sum(trial.state != State.RUNNING for trial in self._trials(stage, arm, round_number))

    def _confirmed(self, arm: str | None = None) -> int:
        rounds = self._record.rounds
        return self._done(Stage.CONFIRM, arm, rounds[-1].number) if rounds else 0

    def _search_trials(self) -> int:
        return self._spec.budget.trials * len(self._record.arms)

    def _selection_runs(self) -> int:
        confirm = self._spec.confirm
        return confirm.top_k * confirm.selection_seeds * len(self._record.arms) if confirm.top_k > 1 else 0

    def _seeds(self) -> Sequence[int]:
        rounds = self._record.rounds
        return rounds[-1].seeds if rounds else range(self._spec.confirm.seeds)

    def _confirm_runs(self) -> int:
        rounds = self._record.rounds
        return len(self._seeds()) * len(rounds[-1].winners if rounds else self._record.arms)

    def _eta(self) -> str:
        searched = [trial for trial in self._trials(Stage.SEARCH) if trial.state != State.RUNNING]
        epochs = [epoch["seconds"] for trial in list(self._record.trials.values()) for epoch in list(trial.epochs)]
        if not searched or not epochs:
            return "time left unknown yet"
        # Once confirm runs have begun, the search is over, also one that a cap ended early.
        search_left = 0 if self._record.rounds else self._search_trials() - len(searched)
        whole_left = self._confirm_runs() - self._confirmed()
        if not self._record.rounds:
            whole_left += self._selection_runs() - self._done(Stage.SELECT)
        mean_epochs = sum(len(trial.epochs) for trial in searched) / len(searched)
        left = search_left * mean_epochs + whole_left * self._spec.budget.epochs
        seconds = max(0.0, left) * sum(epochs) / len(epochs) / self._concurrent
        budget = self._spec.budget.max_hours
        cap = "" if budget is None else f" (search capped at {budget:g} h)"
        return f"about {_duration(seconds)} left{cap}"


def trial_line(trial: Trial) -> str:
    """How a trial ended."""
    last = trial.epochs[-1] if trial.epochs else None
    what = f"{trial.key} {trial.state} after {len(trial.epochs)} epochs"
    if trial.result:
        return f"{what}, test/acc {trial.result['test_acc']:.4f}"
    if trial.state in (State.FAILED, State.OOM):
        return f"{what}: {(trial.reason or 'no reason given').strip().splitlines()[-1]}"
    return what if last is None else f"{what}, val/acc {last['val_acc']:.4f}"


def choose_view(quiet: bool) -> View:
    """A live table if stderr is a terminal, else lines; nothing if quiet."""
    if quiet:
        return Quiet()
    return Live() if sys.stderr.isatty() else Lines()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
