"""Replays whole searches over a table, with our own search and our own dispatcher, but without training.

A setting that was not recorded has the learning curve of the nearest recorded setting in the unit cube of the search
space.
"""

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from benchmarks.tables.table import Row, Table
from benchmarks.tables.unit import setting
from trainables.config import TrialConfig, derive_seed
from trainables.hyper import Hyper
from trainables.report import ConfirmResult, EpochReport
from trainables.space import Plan, Scalar
from tuner.execution.dispatcher import Dispatcher
from tuner.execution.simulator import Clock, Simulation, simulate
from tuner.jobs.record import Record
from tuner.jobs.stop import StopRequest
from tuner.search import distributions
from tuner.search.search_trials import SearchSource, early_stopper
from tuner.search.trial_request import TrialOutcome, TrialRequest
from tuner.spec.search_spec import SearchSpec
from tuner.spec.settings import SamplerSpec, SchedulerSpec
from tuner.storage.events import State
from tuner.storage.journal import Journal

MOST = 250
"""A search is lost after the epochs of this many whole trainings."""
ENDLESS = 100_000
"""More trials than any search here has."""


class Search(NamedTuple):
    """Options of a search: sampler, scheduler, trials at once, and the distance that TPE keeps."""

    sampler: SamplerSpec = SamplerSpec()
    scheduler: SchedulerSpec = SchedulerSpec()
    concurrent: int = 4
    spacing: float = distributions.SPACING


RANDOM = Search(SamplerSpec(name="random"), SchedulerSpec(name="none"))
"""Random search, without early stopping."""


@dataclass(frozen=True)
class Reached:
    """Epochs and trials that a search spent until a trial of full length reached the target."""

    epochs: int
    trials: int
    target: bool
    """Whether a trial reached the target. If not, the search is lost, and would have needed more epochs."""


def replay(table: Table, target: float, search: Search, seed: int, most: int = MOST) -> Reached:
    """Search until a trial of full length reaches the target, or until the epochs of ``most`` trainings are spent.

    The first setting is random: with few recorded settings, the luck of a fixed one would decide a table.
    """
    budget = table.spec.budget.model_copy(update={"trials": ENDLESS})
    spec = table.spec.model_copy(
        update={"seed": seed, "budget": budget, "sampler": search.sampler, "scheduler": search.scheduler}
    )
    spent, reached = 0, False

    def ends(outcome: TrialOutcome) -> bool:
        nonlocal spent, reached
        spent += len(outcome.epochs)
        reached = reached or (outcome.state == State.COMPLETE and outcome.epochs[-1].metric(spec.metric.key) >= target)
        return reached or spent >= most * table.plan.epochs

    arm = replace(table.arm, default=first_setting(table, seed))
    with mock.patch.object(distributions, "SPACING", search.spacing):
        record = run(replace(table, arm=arm), spec, search.concurrent, ends)
    trials = record.trials.values()
    return Reached(sum(len(trial.epochs) for trial in trials), len(trials), reached)


def first_setting(table: Table, seed: int) -> dict[str, Scalar]:
    """The random setting with which the search of this seed begins, whoever searches."""
    rng = random.Random(derive_seed(seed, "first"))
    return setting(table.arm.space, [rng.random() for _ in table.arm.space])


def run(
    table: Table, spec: SearchSpec, concurrent: int, ends: Callable[[TrialOutcome], bool] = lambda outcome: False
) -> Record:
    """Run one search of the table's arm in made-up time.

    Args:
        table: the recorded settings.
        spec: its seed, trials, sampler and scheduler.
        concurrent: trials at once.
        ends: hears how each trial ended, and says whether the search ends there.
    """
    record, clock, stop, rows = Record(), Clock(), StopRequest(), dict[Hyper, Row]()

    def training(config: TrialConfig, plan: Plan) -> RecordedTraining:
        return RecordedTraining(rows[config.hyper], config)

    with tempfile.TemporaryDirectory(prefix="tuner-replay-") as folder:
        journal = Journal(Path(folder, "journal"), record.add, durable=False)
        source = SearchSource(spec, [table.arm], table.plan, record, concurrent=concurrent, clock=clock)
        dispatcher = Dispatcher(
            _Watched(source, table, rows, ends, stop),
            journal,
            record,
            spec.resources,
            early_stopper=early_stopper(spec, table.plan, record),
            clock=clock,
        )
        simulate(dispatcher, Simulation(table.plan, concurrent, clock, training=training), stop)
        journal.close()
    return record


class _Watched:
    """A source that looks up the recorded setting of each trial, and asks to stop where ``ends`` says so.

    A trial's config shows only the knobs that our training has. The request has all knobs of the table.
    """

    def __init__(
        self,
        source: SearchSource,
        table: Table,
        rows: dict[Hyper, Row],
        ends: Callable[[TrialOutcome], bool],
        stop: StopRequest,
    ) -> None:
        self._source = source
        self._table = table
        self._rows = rows
        self._ends = ends
        self._stop = stop

    def next(self) -> TrialRequest | None:
        request = self._source.next()
        if request is not None:
            self._rows[request.image_trial.hyper] = self._table.nearest(request.knobs)
        return request

    def ended(self, work: TrialRequest, ended: TrialOutcome) -> None:
        self._source.ended(work, ended)
        if self._ends(ended):
            self._stop.ask()


class RecordedTraining:
    """A training with the recorded curve of a setting.

    The duration of an epoch varies around a second, so that trials do not run in step.
    """

    def __init__(self, row: Row, config: TrialConfig) -> None:
        self._row = row
        self._seed = derive_seed(config.seed, "seconds", str(config.hyper))
        self._diverges = len(self._row.curve) < config.epochs

    def report(self, epoch: int) -> EpochReport:
        """A report with its validation accuracy. The search does not read the other fields."""
        lost = self._diverges and epoch == len(self._row.curve)
        return EpochReport(
            epoch=epoch,
            train_loss=0.0,
            train_acc=0.0,
            val_loss=0.0,
            val_acc=self._row.curve[epoch - 1],
            lr=0.0,
            weight_decay=0.0,
            seconds=1 + 0.2 * random.Random(derive_seed(self._seed, epoch)).random(),
            diverged="as recorded" if lost else None,
        )

    def test(self) -> ConfirmResult:
        raise NotImplementedError("a table has no test accuracies, and a search needs none")
