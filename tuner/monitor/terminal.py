"""Shows a running job: a live table on a terminal, plain lines elsewhere. All of it goes to stderr."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from trainables.foreign_text import printable
from tuner.jobs.record import Record, Trial
from tuner.monitor.progress import Progress, arm_cells, arm_columns
from tuner.spec.experiment import MetricSpec
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import Entry, LookTaken, State, TrialEnded
from tuner.verdict.numbers import ACCURACY, value_text

if TYPE_CHECKING:
    from rich.table import Table

REFRESH_PER_S = 2


class View(Protocol):
    """Shows a job's progress."""

    def announce(self, text: str) -> None:
        """Print a message."""

    def on_event(self, entry: Entry, record: Record) -> None:
        """Handle an event that was written. ``record`` already contains it."""

    def watching(self, spec: SearchSpec, record: Record, concurrent: int) -> AbstractContextManager[None]:
        """A context in which progress is shown."""


class Quiet:
    """Shows nothing."""

    def announce(self, text: str) -> None:
        """Do nothing."""

    def on_event(self, entry: Entry, record: Record) -> None:
        """Do nothing."""

    @contextmanager
    def watching(self, spec: SearchSpec, record: Record, concurrent: int) -> Iterator[None]:
        """Do nothing."""
        yield


class Lines:
    """Prints a line whenever a trial ends, with the time left."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def announce(self, text: str) -> None:
        """Print a message."""
        print(printable(text), file=sys.stderr, flush=True)

    def on_event(self, entry: Entry, record: Record) -> None:
        """Print a line for a trial that ended."""
        if isinstance(entry.event, TrialEnded) and self._progress is not None:
            self.announce(f"{trial_line(record.trials[entry.event.trial], record.metric)}; {self._progress.line()}")

    @contextmanager
    def watching(self, spec: SearchSpec, record: Record, concurrent: int) -> Iterator[None]:
        """Count progress for the lines."""
        self._progress = Progress(spec, record, concurrent)
        yield
        self._progress = None


class Live:
    """A table of arms that is redrawn in place."""

    def announce(self, text: str) -> None:
        """Print a message."""
        print(printable(text), file=sys.stderr, flush=True)

    def on_event(self, entry: Entry, record: Record) -> None:
        """Do nothing: the table redraws itself."""

    @contextmanager
    def watching(self, spec: SearchSpec, record: Record, concurrent: int) -> Iterator[None]:
        """Show the table."""
        from rich.console import Console
        from rich.live import Live as RichLive

        progress = Progress(spec, record, concurrent)
        with RichLive(
            get_renderable=lambda: progress_table(progress),
            console=Console(stderr=True),
            refresh_per_second=REFRESH_PER_S,
        ):
            yield


def progress_table(progress: Progress) -> "Table":
    """A table with one row per arm."""
    from rich.table import Table

    table = Table(title=f"{progress.job}: {progress.line()}", title_justify="left")
    for column in arm_columns(progress.metric):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm in progress.arms():
        table.add_row(*arm_cells(arm))
    return table


def look_line(look: LookTaken) -> str:
    """A look in one line: how every arm stands that was not settled before."""
    outcomes = ", ".join(f"{arm} {outcome}" for arm, outcome in look.outcomes.items())
    return f"look {look.look}, after {look.searches} searches per arm: {outcomes}"


def trial_line(trial: Trial, metric: MetricSpec = ACCURACY) -> str:
    """One line about the end of a trial of a job with these metrics."""
    chosen, judged = (metric.key, metric.judged) if metric.own else ("val/acc", "test/acc")
    last = trial.epochs[-1] if trial.epochs else None
    what = f"{trial.key} {trial.state} after {len(trial.epochs)} {'reports' if metric.own else 'epochs'}"
    if trial.result:
        return f"{what}, {judged} {value_text(trial.result.metric(metric.judged))}"
    if trial.state in (State.FAILED, State.OOM):
        return f"{what}: {(trial.reason or 'no reason given').strip().splitlines()[-1]}"
    if last is None:
        return what
    return f"{what}, {chosen} {value_text(last.metric(metric.key if metric.own else 'val_acc'))}"


def choose_view(quiet: bool) -> View:
    """A live table if stderr is a terminal, otherwise lines; nothing if ``quiet``."""
    if quiet:
        return Quiet()
    return Live() if sys.stderr.isatty() else Lines()
