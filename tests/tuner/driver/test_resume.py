"""A search whose driver may die at any write, on real studies and a real journal, run to its end by the next one."""

import gc
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from tests.tuner.search.test_study import in_file
from tests.tuner.spec_texts import more, spec_of
from trainables.simulated import SimulatedTraining
from trainables.space import Plan
from tuner.errors import TunerError
from tuner.execution.dispatcher import Attempt, Dispatcher
from tuner.jobs.record import Record, Trial, load_record
from tuner.search.distributions import from_search
from tuner.search.search_trials import SearchSource, early_stopper
from tuner.search.study import TOLD, ArmStudy
from tuner.search.study_database import set_aside_if_damaged
from tuner.spec.arms import Arm, arms
from tuner.spec.search_spec import SearchSpec
from tuner.spec.settings import ResourcesSpec
from tuner.spec.trial_config import trial_config
from tuner.storage.events import Event, Stage, State
from tuner.storage.journal import Journal, read, salvage

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


def make_mortal(storage: RDBStorage, fuse: Callable[[], Fuse]) -> None:
    """Let the driver die before or after any statement that writes to the studies, and any commit."""
    dialect = storage.engine.dialect
    for name in ("do_execute", "do_executemany", "do_commit"):
        setattr(dialect, name, _mortal(getattr(dialect, name), fuse))


def _mortal(call: Callable[..., Any], fuse: Callable[[], Fuse]) -> Callable[..., Any]:
    @wraps(call)
    def mortal(*args: Any, **kwargs: Any) -> Any:
        if len(args) > 1 and args[1].startswith(("SELECT", "PRAGMA")):
            return call(*args, **kwargs)
        last = fuse().burns_out()
        if last and fuse().share < 0.5:
            raise Crash
        answer = call(*args, **kwargs)
        if last:
            raise Crash
        return answer

    return mortal


@dataclass
class World:
    """What outlasts a driver: the journal's file and the studies' database."""

    folder: Path
    spec: SearchSpec
    fuse: Fuse = field(default_factory=Fuse)
    _studies: RDBStorage | None = None
    """To open it takes longer than a search."""

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    @property
    def database(self) -> Path:
        return self.folder / "studies.db"

    @property
    def arms(self) -> tuple[Arm, ...]:
        return arms(self.spec, PLAN)

    def open_studies(self) -> RDBStorage:
        if self._studies is None:
            self._studies = in_file(self.database)
            make_mortal(self._studies, lambda: self.fuse)
        return self._studies

    def close_studies(self) -> None:
        """Let go of the file."""
        if self._studies is not None:
            self._studies.engine.dispose()
            self._studies = None

    def trials(self, arm: str) -> list[FrozenTrial]:
        # Who only looks does not die of it, and is not counted.
        fuse, self.fuse = self.fuse, Fuse()
        try:
            return optuna.load_study(study_name=f"job/{arm}", storage=self.open_studies()).trials
        finally:
            self.fuse = fuse

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
    """One driver of the search, from opening its files to its death; trains made-up curves."""

    def __init__(self, world: World) -> None:
        self.spec = world.spec
        self.record = load_record(world.journal) if world.journal.exists() else Record()
        self.journal = MortalJournal(world.journal, self.record.add, durable=False)
        self.journal.fuse = world.fuse
        self.storage = world.open_studies()
        self.dispatcher: Dispatcher
        self.running: dict[str, tuple[Attempt, int]] = {}
        self.fenced_off: list[tuple[str, Attempt]] = []
        self.given = 0

    def open(self, world: World) -> None:
        spec = self.spec
        studies = [
            ArmStudy(self.storage, "job", arm, spec.sampler, spec.seed, spec.budget.trials, True) for arm in world.arms
        ]
        self.early_stopper = early_stopper(spec, PLAN, self.record)
        self.source = SearchSource(
            spec,
            PLAN,
            studies,
            lambda hyper, seed: trial_config(spec, hyper, seed),
            CONCURRENT,
            self.record,
            lambda: 0.0,
        )
        limits = ResourcesSpec(retries=1)
        self.dispatcher = Dispatcher(self.source, self.journal, self.record, limits, lambda: 0.0)

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
        result = self._result(attempt, epoch + 1)
        judged = attempt.request.judged
        stopped = (
            self.early_stopper is not None
            and judged is not None
            and self.early_stopper.stops(judged, epoch + 1, result["val_acc"])
        )
        self.dispatcher.report(name, result)
        if stopped or result["diverged"] or epoch + 1 == EPOCHS:
            del self.running[name]
            self.dispatcher.end(name, result)
        else:
            self.running[name] = attempt, epoch + 1

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
                result = self._result(attempt, EPOCHS)
                self.dispatcher.report(speaks_as, result)
                self.dispatcher.end(speaks_as, result)

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

    def _result(self, attempt: Attempt, epoch: int) -> dict[str, Any]:
        return SimulatedTraining(attempt.request.trial, PLAN).report(epoch) | {"attempt": attempt.number}


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
        # A process that dies lets go of the studies' file; here its tracebacks hold cursors, and these a lock.
        gc.collect()


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
    events = list(read(world.journal))
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
            assert from_search(arm.space, theirs.params) == ours.knobs
            assert theirs.state == TOLD[ours.state]
            result = theirs.state in (TrialState.COMPLETE, TrialState.PRUNED)
            values = {epoch["epoch"]: epoch["val_acc"] for epoch in ours.epochs}
            assert theirs.intermediate_values == (values if result else {})
            assert theirs.value == (values[max(values)] if result else None)


def _check_trial(trial: Trial, events: Sequence[Event]) -> None:
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


@pytest.fixture(autouse=True, scope="module")
def libraries_are_no_garbage() -> Iterator[None]:
    """A collection of garbage looks at what drivers leave behind, and not at all that was imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Callable[[SearchSpec], World]]:
    """Makes worlds, one after the other."""
    made: list[World] = []

    def make(spec: SearchSpec) -> World:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(World(folder, spec))
        return made[-1]

    yield make
    for world in made:
        world.close_studies()


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


def lose(world: World) -> None:
    world.database.unlink()


def cut(world: World) -> None:
    whole = world.database.read_bytes()
    world.database.write_bytes(whole[: len(whole) // 2])


def overwrite(world: World) -> None:
    with world.database.open("r+b") as file:
        file.seek(5000)
        file.write(b"\xa5" * 9000)


def no_database_any_more(world: World) -> None:
    world.database.write_bytes(b"it was a database once " * 2000)


@pytest.mark.parametrize("befalls", [lose, cut, overwrite, no_database_any_more])
@pytest.mark.parametrize("done", [0, 40])
def test_studies_that_are_lost_are_made_again_from_the_journal(
    world: Make, done: int, befalls: Callable[[World], None]
) -> None:
    spec = spec_with(ASHA)
    torn = world(spec)
    steps = [("start", 0), ("start", 0), ("train", 0), ("train", 1)] * (done // 4)
    with driving(torn) as driver:
        for action, which in steps:
            getattr(driver, action)(which)
    torn.close_studies()
    befalls(torn)
    assert (set_aside_if_damaged(torn.database) is None) == (befalls == lose)
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
        with pytest.raises(TunerError):
            load_record(torn.journal)
        found = salvage(torn.journal)
        assert found is not None
        assert found.events == line
        run(torn)
        check(torn)
        assert torn.knobs() == expected


def test_a_study_that_is_made_again_is_named_and_one_that_fits_is_not(world: Make) -> None:
    torn = world(spec_with())
    with driving(torn) as driver:
        for _ in range(CONCURRENT):
            driver.start()
        for _ in range(EPOCHS):
            driver.train(1)
        assert driver.source.rebuilt == []
    with driving(torn) as driver:
        assert driver.source.rebuilt == []
    # The first arm's trials only run: its study may be ahead.
    torn.journal.write_bytes(b"")
    with driving(torn) as driver:
        assert driver.source.rebuilt == [torn.arms[1].name]


def test_an_arm_that_lost_more_than_the_others_with_the_journals_end_gets_its_trials_all_the_same(world: Make) -> None:
    spec = spec_with()
    torn = world(spec)
    with driving(torn) as driver:
        for _ in range(CONCURRENT):
            driver.start()
        for _ in range(EPOCHS):
            driver.train(1)
    # Of the second arm's study too much is known, so it is made again; the first arm's trials only run.
    torn.journal.write_bytes(b"")
    run(torn)
    check(torn)
    assert torn.knobs() == settings_of(world(spec))
