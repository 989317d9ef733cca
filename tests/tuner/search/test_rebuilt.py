"""What is rebuilt from a journal equals what grew with it: the record with its counts, and the early stopper."""

from contextlib import closing
from itertools import product
from pathlib import Path

import pytest

from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from trainables.space import Plan
from tuner.execution.dispatcher import Attempt, Dispatcher
from tuner.execution.simulator import Clock, Simulation, simulate
from tuner.jobs.record import Group, Record, Trial, load_record
from tuner.jobs.stop import StopRequest
from tuner.search.asha import EarlyStopper, JudgedEpochs
from tuner.search.search_trials import SearchSource, early_stopper
from tuner.spec.arms import arms
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import LOST, Stage, State
from tuner.storage.journal import Journal

ASHA = "sampler: random\nscheduler: {name: asha, first_rung: 2, reduction_factor: 2}\n"
WIDE = "parameters: {lr: {min: 0.001, max: 2, scale: log}}\n"
"""A peak learning rate above 0.3 diverges in its second epoch."""


def fails_often(attempt: Attempt, epoch: int) -> str | None:
    """Every fifth trial fails in each of its attempts, and every third in its first."""
    number = attempt.request.number
    return "it broke" if number % 5 == 4 or (number % 3 == 2 and attempt.number == 1 and epoch == 2) else None


@pytest.fixture(scope="module")
def spec() -> SearchSpec:
    return spec_of(("trials: 4", "trials: 30"), ("budget", f"{ASHA}{WIDE}budget"))


@pytest.fixture(scope="module")
def grown(spec: SearchSpec, tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, EarlyStopper, Path]:
    """The record and the stopper of a search, and its journal."""
    path, clock, record, plan = tmp_path_factory.mktemp("grown") / "j", Clock(), Record(), Plan(spec.budget.epochs, 10)
    with closing(Journal(path, record.add, durable=False, clock=clock)) as journal:
        journal.append(History(spec).record().job)
        source = SearchSource(spec, arms(spec, plan), plan, record, concurrent=4, clock=clock)
        stopper = early_stopper(spec, plan, record)
        assert stopper is not None
        dispatcher = Dispatcher(source, journal, record, spec.resources, early_stopper=stopper, clock=clock)
        simulate(dispatcher, Simulation(plan, 4, clock, fails_often), StopRequest())
    assert {trial.state for trial in record.trials.values()} >= {
        State.COMPLETE,
        State.PRUNED,
        State.DIVERGED,
        State.FAILED,
    }
    return record, stopper, path


def test_a_rebuilt_record_equals_the_one_that_grew(grown: tuple[Record, EarlyStopper, Path]) -> None:
    record, _, path = grown
    rebuilt = load_record(path)
    for key, trial in record.trials.items():
        again = rebuilt.trials[key]
        assert (again.state, again.seconds, again.reported_n, again.reporters, again.attempts) == (
            trial.state,
            trial.seconds,
            trial.reported_n,
            trial.reporters,
            trial.attempts,
        )
    for place in product(Stage, (None, *record.arms), (None, 0), (None, 0)):
        stage, arm, number, search = place
        ours, theirs = (one.group(stage, arm, round_number=number, search=search) for one in (record, rebuilt))
        assert counts(ours) == counts(theirs)


def test_the_counts_of_a_group_are_those_of_its_trials(grown: tuple[Record, EarlyStopper, Path]) -> None:
    record, _, _ = grown
    for arm in (None, *record.arms):
        trials = [trial for trial in record.trials.values() if arm in (None, trial.arm)]
        found = record.group(Stage.SEARCH, arm)
        assert [trial.key for trial in found.trials] == [trial.key for trial in trials]
        assert counts(found) == walked(trials)
        assert found.seconds == pytest.approx(sum(trial.seconds for trial in trials))


def counts(group: Group) -> tuple[object, ...]:
    return (
        len(group.trials),
        group.running,
        group.pruned,
        group.lost,
        group.epochs,
        group.epochs_of_ended,
        group.best,
    )


def walked(trials: list[Trial]) -> tuple[object, ...]:
    epochs = [epoch for trial in trials for epoch in trial.epochs]
    return (
        len(trials),
        sum(trial.state == State.RUNNING for trial in trials),
        sum(trial.state == State.PRUNED for trial in trials),
        sum(trial.state in LOST for trial in trials),
        len(epochs),
        sum(len(trial.epochs) for trial in trials if trial.end is not None),
        max(epoch.metric("val_acc") for epoch in epochs),
    )


def test_a_rebuilt_stopper_decides_as_the_one_that_grew(
    spec: SearchSpec, grown: tuple[Record, EarlyStopper, Path]
) -> None:
    _, stopper, path = grown
    rebuilt = early_stopper(spec, Plan(spec.budget.epochs, 10), load_record(path))
    assert rebuilt is not None
    for arm, epoch in product(("adam_l2", "noam"), (2, 4)):
        for number in range(60):
            probe = JudgedEpochs(f"probe-{arm}-{epoch}-{number}", f"{arm}/0", 0, (2, 4), (2, 4))
            value = (7 * number % 60) / 80
            assert stopper.stops(probe, epoch, value) == rebuilt.stops(probe, epoch, value), (arm, epoch, number)
