"""Replays whole searches over a table, with our own search and our own dispatcher, but without training.

A setting that was not recorded has the learning curve of the nearest recorded setting in the unit cube of the search
space.
"""

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.tables.table import Row, Table
from trainables.config import TrialConfig, derive_seed
from trainables.report import ConfirmResult, EpochReport
from tuner.execution.dispatcher import Dispatcher
from tuner.execution.simulator import Clock, Simulation, simulate
from tuner.jobs.record import Record
from tuner.jobs.stop import StopRequest
from tuner.search.search_trials import SearchSource, early_stopper
from tuner.search.trial_request import TrialOutcome, TrialRequest
from tuner.spec.settings import SamplerSpec, SchedulerSpec
from tuner.storage.events import State
from tuner.storage.journal import Journal

MOST_TRIALS = 500
"""The longest search."""


class Search(NamedTuple):
    """Options of a search: the sampler, the scheduler, and the number of trials at once."""

    sampler: SamplerSpec = SamplerSpec()
    scheduler: SchedulerSpec = SchedulerSpec()
    concurrent: int = 4


RANDOM = Search(SamplerSpec(name="random"), SchedulerSpec(name="none"))
"""Random search, without early stopping."""


@dataclass(frozen=True)
class Reached:
    """Epochs and trials that a search spent until a trial of full length reached the target."""

    epochs: int
    trials: int
    target: bool
    """Whether a trial reached the target."""


def replay(table: Table, target: float, search: Search, seed: int) -> Reached:
    """Search until a trial of full length reaches the target."""
    budget = table.spec.budget.model_copy(update={"trials": MOST_TRIALS})
    spec = table.spec.model_copy(
        update={"seed": seed, "budget": budget, "sampler": search.sampler, "scheduler": search.scheduler}
    )
    record, clock, stop = Record(), Clock(), StopRequest()
    with tempfile.TemporaryDirectory(prefix="tuner-replay-") as folder:
        journal = Journal(Path(folder, "journal"), record.add, durable=False)
        source = _Watched(
            SearchSource(spec, [table.arm], table.plan, record, concurrent=search.concurrent, clock=clock),
            target,
            spec.metric.key,
            stop,
        )
        dispatcher = Dispatcher(
            source,
            journal,
            record,
            spec.resources,
            early_stopper=early_stopper(spec, table.plan, record),
            clock=clock,
        )
        simulation = Simulation(
            table.plan,
            search.concurrent,
            clock,
            training=lambda config, plan: RecordedTraining(_row(table, config), config),
        )
        simulate(dispatcher, simulation, stop)
        journal.close()
    trials = record.trials.values()
    return Reached(sum(len(trial.epochs) for trial in trials), len(trials), bool(stop))


class _Watched:
    """A source of trials that asks to stop when a trial of full length has reached the target."""

    def __init__(self, source: SearchSource, target: float, metric: str, stop: StopRequest) -> None:
        self._source = source
        self._target = target
        self._metric = metric
        self._stop = stop

    def next(self) -> TrialRequest | None:
        return self._source.next()

    def ended(self, work: TrialRequest, ended: TrialOutcome) -> None:
        self._source.ended(work, ended)
        if ended.state == State.COMPLETE and getattr(ended.epochs[-1], self._metric) >= self._target:
            self._stop.ask()


def _row(table: Table, config: TrialConfig) -> Row:
    return table.nearest({knob: getattr(config.hyper, knob) for knob in table.arm.space})


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
