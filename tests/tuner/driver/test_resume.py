"""A search whose driver may die at any write of its journal, and is run to its end by the next driver."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from tests.tuner.events import History
from tests.tuner.search.test_study_database import empty_database
from tests.tuner.spec_texts import more, spec_of
from trainables.report import StepReport
from trainables.simulated import SimulatedTraining
from trainables.space import Plan
from tuner.execution.dispatcher import Attempt, Dispatcher
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.reading import read_and_recover
from tuner.jobs.record import Trial, load_record
from tuner.search.distributions import from_search
from tuner.search.search_trials import SearchSource, early_stopper
from tuner.search.study import OPTUNA_STATES, study_name
from tuner.search.study_database import StudyWriter, open_storage
from tuner.spec.arms import Arm, arms
from tuner.spec.search_spec import SearchSpec
from tuner.spec.settings import ResourcesSpec
from tuner.storage.events import Stage, State, TrialEnded
from tuner.storage.journal import Journal, read

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

EPOCHS = 4
PLAN = Plan(EPOCHS, 10)
TRIALS = 3
CONCURRENT = 3


def spec_with(scheduler: str = "none", sampler: str = "random", trials: int = TRIALS) -> SearchSpec:
    """Two arms, few and short trials."""
    return spec_of(
        ("trials: 4", f"trials: {trials}"),
        more(f"scheduler: {scheduler}\nsampler: {sampler}\n"),
        ("epochs: 8", f"epochs: {EPOCHS}"),
    )


ASHA = "{name: asha, first_rung: 1, reduction_factor: 2}"


class Crash(BaseException):
    """Here the driver dies: no handler of errors may see it."""


@dataclass
class Fuse:
    """Lets the driver die at a write.

    Args:
        left: so many writes come before; None: it never dies.
        share: how much of that write is done, from 0 to 1; a study's is done whole or not at all.
        burnt: writes so far.
    """

    left: int | None = None
    share: float = 0.0
    burnt: int = 0

    def burns_out(self) -> bool:
        """One more write comes; whether it is the last."""
        self.burnt += 1
        return self.left is not None and self.burnt > self.left


class MortalJournal(Journal):
    """A journal of a driver that may die in the middle of a line."""

    fuse: Fuse

    def _write(self, line: bytes, at_once: bool) -> None:
        if self.fuse.burns_out():
            self._file.write(line[: math.ceil(self.fuse.share * len(line))])
            raise Crash
        super()._write(line, at_once)


@dataclass
class World:
    """What outlasts a driver: the journal's file. The studies' tables follow it, and are written when a search ends."""

    folder: Path
    spec: SearchSpec
    fuse: Fuse = field(default_factory=Fuse)

    @property
    def job(self) -> JobFolder:
        return JobFolder(self.folder)

    @property
    def journal(self) -> Path:
        return self.job.journal

    @property
    def arms(self) -> tuple[Arm, ...]:
        return arms(self.spec, PLAN)

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder / 'studies.db'}"

    def trials(self, arm: str) -> list[FrozenTrial]:
        """An arm's trials in Optuna's tables, once these have followed the journal."""
        database = self.folder / "studies.db"
        if not database.exists():
            database.write_bytes(empty_database())
        writer = StudyWriter(self.job, self.url, durable=False)
        writer.send()
        storage = open_storage(self.url, durable=False)
        try:
            return optuna.load_study(study_name=study_name(self.job.id, arm), storage=storage).trials
        finally:
            storage.engine.dispose()
            assert writer._storage is not None
            writer._storage.engine.dispose()

    def knobs(self) -> dict[str, list[dict[str, Any]]]:
        """Each arm's settings, by their number, as the journal has them."""
        record = load_record(self.journal)
        return {
            arm.name: [dict(trial.knobs) for trial in sorted(record.of(Stage.SEARCH, arm.name), key=_number)]
            for arm in self.arms
        }


def _number(trial: Trial) -> int:
    return trial.number


class Driver:
    """One driver of the search, from opening its journal to its death; trains made-up curves."""

    def __init__(self, world: World) -> None:
        self.spec = world.spec
        reading = read_and_recover(world.journal)
        self.record = reading.record
        self.journal = MortalJournal(world.journal, self.record.add, end=reading.end, durable=False)
        self.journal.fuse = world.fuse
        self.dispatcher: Dispatcher
        self.running: dict[str, tuple[Attempt, int]] = {}
        self.fenced_off: list[tuple[str, Attempt]] = []
        self.given = 0

    def open(self, world: World) -> None:
        spec = self.spec
        if not self.record.begun:
            self.journal.append(History(spec, world.job.id).record().job)
        self.early_stopper = early_stopper(spec, PLAN, self.record)
        self.source = SearchSource(spec, world.arms, PLAN, self.record, concurrent=CONCURRENT, clock=lambda: 0.0)
        limits = ResourcesSpec(retries=1)
        self.dispatcher = Dispatcher(
            self.source,
            self.journal,
            self.record,
            limits,
            early_stopper=self.early_stopper,
            clock=lambda: 0.0,
        )

    def close(self) -> None:
        self.journal.close()

    def start(self, which: int = 0) -> bool:
        """Start an attempt; ``which`` of the accepted checkpoints is whole, none if there are not so many."""
        if len(self.running) == CONCURRENT:
            return False
        name = str(self.given)
        attempt = self.dispatcher.start(name)
        if attempt is None:
            return False
        self.given += 1
        epoch = attempt.accepted[which][0] if which < len(attempt.accepted) else 0
        self.running[name] = attempt, epoch
        return True

    def train(self, which: int = 0) -> None:
        """One of the attempts trains an epoch."""
        if not self.running:
            return
        name = self._pick(which)
        attempt, epoch = self.running[name]
        step = self._step(attempt, epoch + 1)
        if self.dispatcher.report(name, step):
            self.running[name] = attempt, epoch + 1
        else:
            del self.running[name]
            self.dispatcher.end(name, step)

    def fail(self, which: int = 0, oom: bool = False) -> None:
        """One of the attempts dies; its worker may live on, cut off."""
        if self.running:
            name = self._pick(which)
            attempt, _ = self.running.pop(name)
            self.fenced_off.append((name, attempt))
            self.dispatcher.fail(name, "it broke", oom)

    def oom(self, which: int = 0) -> None:
        """One of the attempts is killed for memory."""
        self.fail(which, oom=True)

    def stale(self, which: int = 0) -> None:
        """A worker that was cut off speaks, under its own name and under that of one that runs."""
        if self.fenced_off:
            name, attempt = self.fenced_off[which % len(self.fenced_off)]
            others = [other for other, (now, _) in self.running.items() if now.number != attempt.number]
            for speaks_as in (name, *others[:1]):
                step = self._step(attempt, EPOCHS)
                assert not self.dispatcher.report(speaks_as, step)
                self.dispatcher.end(speaks_as, step)

    def finish(self) -> None:
        """Run what is left, in turn."""
        while True:
            while self.start():
                pass
            if not self.running:
                return
            self.train(1)

    def _pick(self, which: int) -> str:
        return list(self.running)[which % len(self.running)]

    def _step(self, attempt: Attempt, epoch: int) -> StepReport:
        return StepReport(attempt.number, SimulatedTraining(attempt.request.image_trial, PLAN).report(epoch))


@contextmanager
def driving(world: World) -> Iterator[Driver]:
    driver = Driver(world)
    try:
        driver.open(world)
        yield driver
        assert driver.dispatcher.failure is None
    finally:
        driver.close()


Step = tuple[str, int]


def run(world: World, steps: Sequence[Step] = (), crashes: Sequence[tuple[int, float]] = ()) -> None:
    """Run a search to its end: these steps first, with a driver's death after so many writes each."""
    left = list(steps)
    for fuse in (*(Fuse(*crash) for crash in crashes), Fuse()):
        world.fuse = fuse
        if _finishes(world, left):
            return


def _finishes(world: World, left: list[Step]) -> bool:
    """Whether the driver lives to the end of the search."""
    try:
        with driving(world) as driver:
            while left:
                action, which = left.pop(0)
                getattr(driver, action)(which)
                if driver.dispatcher.failure is not None:
                    raise driver.dispatcher.failure
            driver.finish()
        return True
    except Crash:
        return False


def check(world: World) -> None:
    """Nothing is lost, nothing is there twice, and the journal and the studies say the same."""
    events = [entry.to_json() for entry in read(world.journal)]
    record = load_record(world.journal)
    begun = Counter(event["trial"] for event in events if event["kind"] == "trial")
    ended = Counter(event["trial"] for event in events if event["kind"] == "end")
    assert begun == ended == Counter(record.trials.keys())
    for trial in record.trials.values():
        _check_trial(trial, [event for event in events if event.get("trial") == trial.key])
    for arm in world.arms:
        known = sorted(record.of(Stage.SEARCH, arm.name), key=_number)
        told = world.trials(arm.name)
        numbers = list(range(world.spec.budget.trials))
        assert [trial.number for trial in known] == [trial.number for trial in told] == numbers
        for ours, theirs in zip(known, told, strict=True):
            # 1 - (1 - x) may differ from x in the last bit.
            assert from_search(arm.space, theirs.params) == pytest.approx(dict(ours.knobs), rel=1e-15)
            assert theirs.state == OPTUNA_STATES[ours.state]
            result = theirs.state in (TrialState.COMPLETE, TrialState.PRUNED)
            values = {epoch.epoch: epoch.metric("val_acc") for epoch in ours.epochs}
            assert theirs.intermediate_values == (values if result else {})
            assert theirs.value == (values[max(values)] if result else None)


def _check_trial(trial: Trial, events: Sequence[dict[str, Any]]) -> None:
    assert trial.state != State.RUNNING
    assert events[0]["kind"] == "trial"
    assert events[-1]["kind"] == "end"
    attempts = [event["attempt"] for event in events if event["kind"] == "attempt"]
    assert attempts == list(range(1, len(attempts) + 1))
    epochs = [event["epoch"] for event in events if event["kind"] == "epoch"]
    assert epochs == list(range(1, len(epochs) + 1))
    if trial.state == State.COMPLETE:
        assert len(epochs) == EPOCHS
    # What is reported comes from the attempt that was the last to begin.
    now = 0
    for event_ in events:
        now = event_["attempt"] if event_["kind"] == "attempt" else now
        assert event_.get("attempt", now) == now


@pytest.fixture(autouse=True)
def no_search_is_hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches here may lose all their trials."""
    monkeypatch.setattr("tuner.search.search_trials.HOPELESS", 10**6)


@pytest.fixture
def world(tmp_path: Path) -> Callable[[SearchSpec], World]:
    """Makes worlds, one after the other."""
    made: list[World] = []

    def make(spec: SearchSpec) -> World:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(World(folder, spec))
        return made[-1]

    return make


Make = Callable[[SearchSpec], World]


def settings_of(world: World) -> dict[str, list[dict[str, Any]]]:
    """The settings of a search that nothing befalls."""
    run(world)
    check(world)
    return world.knobs()


@pytest.mark.parametrize("scheduler", ["none", ASHA])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_driver_may_die_at_any_write(world: Make, scheduler: str, share: float) -> None:
    spec = spec_with(scheduler, trials=2)
    whole = world(spec)
    expected = settings_of(whole)
    for write in range(whole.fuse.burnt):
        torn = world(spec)
        run(torn, crashes=[(write, share)])
        check(torn)
        assert torn.knobs() == expected, write


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_trial_that_was_stopped_stays_stopped_if_the_driver_dies_before_it_writes_that_down(
    world: Make, share: float
) -> None:
    spec = spec_with(ASHA, trials=6)
    whole = world(spec)
    run(whole)
    stopped = [
        entry
        for entry in read(whole.journal)
        if isinstance(entry.event, TrialEnded) and entry.event.state == State.PRUNED
    ]
    assert len(stopped) > 3
    for entry in stopped:
        assert isinstance(entry.event, TrialEnded)
        torn = world(spec)
        run(torn, crashes=[(entry.n, share)])
        check(torn)
        before, after = (load_record(one.journal).trials[entry.event.trial] for one in (whole, torn))
        assert (after.state, len(after.epochs), after.attempts) == (State.PRUNED, len(before.epochs), before.attempts)


def test_a_driver_may_die_twice_at_the_same_write(world: Make) -> None:
    spec = spec_with(trials=2)
    expected = settings_of(world(spec))
    for write in range(0, 80, 13):
        torn = world(spec)
        run(torn, crashes=[(write, write % 2), (write, (write + 1) % 2)])
        check(torn)
        assert torn.knobs() == expected, write


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["start", "start", "train", "train", "train", "train", "fail", "oom", "stale"]),
        st.integers(0, 3),
    ),
    max_size=60,
)
CRASHES = st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1)), max_size=5)
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(UNHURRIED, max_examples=25)
@given(steps=STEPS, crashes=CRASHES, scheduler=st.sampled_from(["none", ASHA]))
def test_whatever_befalls_a_search_it_comes_to_all_its_trials_once(
    world: Make, steps: list[Step], crashes: list[tuple[int, float]], scheduler: str
) -> None:
    spec = spec_with(scheduler)
    torn = world(spec)
    run(torn, steps, crashes)
    check(torn)
    assert torn.knobs() == settings_of(world(spec))


@pytest.mark.parametrize("sampler", ["tpe", "qmc", "cmaes"])
def test_every_sampler_goes_on_after_a_crash(world: Make, sampler: str) -> None:
    spec = spec_of(
        ("variant: noam", "adamw"),
        ("trials: 4", "trials: 5"),
        more(f"scheduler: none\nsampler: {sampler}\n"),
        ("epochs: 8", f"epochs: {EPOCHS}"),
    )
    whole = world(spec)
    run(whole)
    for write in range(0, whole.fuse.burnt, 9):
        torn = world(spec)
        run(torn, crashes=[(write, 0.7), (20, 0.2)])
        check(torn)


@pytest.mark.parametrize("done", [0, 40])
def test_a_search_continues_without_the_tables_of_its_studies(world: Make, done: int) -> None:
    spec = spec_with(ASHA)
    torn = world(spec)
    steps = [("start", 0), ("start", 0), ("train", 0), ("train", 1)] * (done // 4)
    with driving(torn) as driver:
        for action, which in steps:
            getattr(driver, action)(which)
    for arm in torn.arms:
        torn.trials(arm.name)
    (torn.folder / "studies.db").unlink()
    run(torn)
    check(torn)
    assert torn.knobs() == settings_of(world(spec))


def test_a_journal_that_lost_its_end_is_followed_by_the_studies(world: Make) -> None:
    spec = spec_with(trials=2)
    whole = world(spec)
    expected = settings_of(whole)
    lines = whole.journal.read_bytes().splitlines(keepends=True)
    for line in range(0, len(lines), 3):
        torn = world(spec)
        run(torn)
        torn.journal.write_bytes(b"".join([*lines[:line], b"damaged\n", *lines[line + 1 :]]))
        run(torn)
        assert torn.journal.with_name("journal.jsonl.damaged-1").exists()
        check(torn)
        assert torn.knobs() == expected


def test_an_arm_that_lost_more_than_the_others_with_the_journals_end_gets_its_trials_all_the_same(world: Make) -> None:
    spec = spec_with()
    torn = world(spec)
    with driving(torn) as driver:
        for _ in range(CONCURRENT):
            driver.start()
        for _ in range(EPOCHS):
            driver.train(1)
    torn.journal.write_bytes(b"")
    run(torn)
    check(torn)
    assert torn.knobs() == settings_of(world(spec))
