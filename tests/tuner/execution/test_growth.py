"""The work per event, counted in operations and not in time: it must not grow with the trials or the workers of a job.

The search, the early stopper, the journal, the record and the lines of progress are the real ones.
"""

import sys
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from benchmarks.reports import MadeUpActor, run_workers
from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from trainables.space import Plan
from tuner.execution.dispatcher import Dispatcher
from tuner.execution.simulator import Clock, Simulation, simulate
from tuner.jobs.record import Record, Trial
from tuner.jobs.stop import StopRequest
from tuner.monitor.terminal import Lines
from tuner.search.search_trials import SearchSource, early_stopper
from tuner.search.searches import SearchesSource
from tuner.spec.arms import arms
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import Entry, EpochReported, TrialEnded
from tuner.storage.journal import Journal

AT_ONCE, WINDOW = 4, 20
GROWTH = 1.05
"""Accepted growth of the operations per event: trials differ a little from each other."""


class Counted(Lines):
    """The lines of progress, and the operations of the interpreter over the trials before each mark."""

    def __init__(self, marks: tuple[int, ...]) -> None:
        super().__init__()
        self.operations: list[int] = []
        self.events: list[int] = []
        self._starts = {mark - WINDOW for mark in marks}
        self._ends = set(marks)
        self._trials = self._events = self._operations = 0

    def announce(self, text: str) -> None:
        """Print nothing."""

    def on_event(self, entry: Entry, record: Record) -> None:
        super().on_event(entry, record)
        self._events += 1
        if not isinstance(entry.event, TrialEnded):
            return
        self._trials += 1
        if self._trials in self._starts:
            self._events = self._operations = 0
            sys.settrace(self._trace)
        elif self._trials in self._ends:
            sys.settrace(None)
            self.operations.append(self._operations)
            self.events.append(self._events)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        frame.f_trace_opcodes = True
        self._operations += event == "opcode"
        return self._trace


class Walked(dict[str, Trial]):
    """The trials of a record, which nobody may walk while the search runs."""

    def _refuse(self) -> Any:
        raise AssertionError("an event walks all trials")

    __iter__ = keys = values = items = _refuse


def searched(spec: SearchSpec, journal: Path, marks: tuple[int, ...]) -> tuple[Counted, Record]:
    """Run a simulated search, or the searches up to a look; the counts at its marks, and its record."""
    plan, view, clock, record = Plan(spec.budget.epochs, 10), Counted(marks), Clock(), Record()
    for entry in History(spec).entries:
        record.add(entry)
    record.trials = Walked()

    def on_event(entry: Entry) -> None:
        record.add(entry)
        view.on_event(entry, record)

    source: SearchSource | SearchesSource
    if spec.searches:
        source = SearchesSource(spec, arms(spec, plan), plan, record, spec.looks[-1], concurrent=AT_ONCE, clock=clock)
    else:
        source = SearchSource(spec, arms(spec, plan), plan, record, concurrent=AT_ONCE, clock=clock)
    with (
        closing(Journal(journal, on_event, durable=False, clock=clock)) as written,
        view.watching(spec, record, AT_ONCE),
    ):
        stopper = early_stopper(spec, plan, record)
        dispatcher = Dispatcher(source, written, record, spec.resources, early_stopper=stopper, clock=clock)
        simulate(dispatcher, Simulation(plan, AT_ONCE, clock), StopRequest())
    return view, record


@pytest.mark.parametrize(
    ("sampler", "scheduler", "marks"),
    [
        ("random", "none", (50, 500)),
        ("random", "{name: asha, first_rung: 2}", (100, 1000)),
        # TPE sees the best and the newest 250 trials of its arm, so its work grows up to 500 trials in two arms.
        ("tpe", "none", (600, 1000)),
    ],
)
def test_the_operations_of_an_event_do_not_grow_with_the_trials(
    tmp_path: Path, sampler: str, scheduler: str, marks: tuple[int, int]
) -> None:
    trials = f"trials: {marks[1] // 2}"
    spec = spec_of(("trials: 4", trials), ("budget", f"sampler: {sampler}\nscheduler: {scheduler}\nbudget"))
    view, record = searched(spec, tmp_path / "j", marks)
    early, late = (count / events for count, events in zip(view.operations, view.events, strict=True))
    assert len(record.trials) == marks[1]
    assert late <= GROWTH * early


def test_the_operations_of_an_event_do_not_grow_with_the_searches(tmp_path: Path) -> None:
    looks = "sampler: random\nscheduler: none\nsearches: {at: [50]}\nbudget"
    spec = spec_of(("trials: 4", "trials: 5"), ("budget", looks))
    view, _ = searched(spec, tmp_path / "j", (50, 500))
    early, late = (count / events for count, events in zip(view.operations, view.events, strict=True))
    assert late <= GROWTH * early


def test_the_operations_of_a_report_do_not_grow_with_the_workers() -> None:
    few, many = (operations_of_a_report(workers) for workers in (10, 500))
    assert many <= GROWTH * few


def operations_of_a_report(workers: int) -> float:
    """The operations per report of so many workers that report at once: from one round of reports to the next."""
    operations = reports = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal operations
        frame.f_trace_opcodes = True
        operations += event == "opcode"
        return trace

    def on_event(entry: Entry) -> None:
        nonlocal reports, operations
        if isinstance(entry.event, EpochReported):
            reports += 1
            if reports == 2 * workers:
                operations = 0
                sys.settrace(trace)
            elif reports == 4 * workers:
                sys.settrace(None)
                counted.append(operations / (2 * workers))

    counted: list[float] = []
    run_workers(workers, workers, 6, MadeUpActor, on_event)
    return counted[0]
