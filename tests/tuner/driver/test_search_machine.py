"""The search as a state machine: whatever order things happen in, what must always be true is, after every step.

The dispatcher, the source of trials, the judge, the studies and the journal are the real ones; ``test_resume.py`` has
the driver that may die at any write. There, only a search's end is looked at.
"""

import gc
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.tuner.driver.test_resume import (
    ASHA,
    CONCURRENT,
    EPOCHS,
    TRIALS,
    Crash,
    Driver,
    Fuse,
    World,
    check,
    spec_with,
)
from tuner.execution.dispatcher import Attempt
from tuner.jobs.record import Trial, load_record
from tuner.search.asha import EarlyStopper
from tuner.storage.events import Stage, State

WHICH = st.integers(0, 3)


class Search(RuleBasedStateMachine):
    """A search under way, its drivers one after the other, and what they were seen to do."""

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        # Searches here may lose all their trials.
        self._patch.setattr("tuner.search.search_trials.HOPELESS", 10**6)
        self._folder = Path(tempfile.mkdtemp())

    @initialize(scheduler=st.sampled_from(["none", ASHA]))
    def begin(self, scheduler: str) -> None:
        self.world = World(self._folder, spec_with(scheduler))
        self.driver = self._opened()
        self.numbers: Counter[str] = Counter()

    @rule(checkpoint=st.integers(0, 2))
    def start(self, checkpoint: int) -> None:
        known = set(self.driver.running)
        if self._survives(lambda: self.driver.start(checkpoint)):
            for name in self.driver.running.keys() - known:
                self._check_attempt(self.driver.running[name][0])

    @rule(which=WHICH, epochs=st.integers(1, EPOCHS))
    def train(self, which: int, epochs: int) -> None:
        for _ in range(epochs):
            self._survives(lambda: self.driver.train(which))

    @rule(which=WHICH)
    def fail(self, which: int) -> None:
        self._survives(lambda: self.driver.fail(which))

    @rule(which=WHICH)
    def run_out_of_memory(self, which: int) -> None:
        self._survives(lambda: self.driver.oom(which))

    @precondition(lambda self: self.driver.fenced_off)
    @rule(which=WHICH)
    def speak_too_late(self, which: int) -> None:
        before = self.world.journal.read_bytes()
        self.driver.stale(which)
        assert self.world.journal.read_bytes() == before

    @rule(writes=st.integers(0, 6), share=st.floats(0, 1))
    def be_about_to_die(self, writes: int, share: float) -> None:
        self.world.fuse.left, self.world.fuse.share = self.world.fuse.burnt + writes, share

    @rule(lines=st.integers(0, 8))
    def die_and_lose_the_journals_end(self, lines: int) -> None:
        self.driver.close()
        whole = self.world.journal.read_bytes().splitlines(keepends=True)
        self.world.journal.write_bytes(b"".join(whole[: len(whole) - lines]))
        self.numbers.clear()
        self.driver = self._opened()

    def _opened(self) -> Driver:
        self.world.fuse = Fuse()
        driver = Driver(self.world)
        driver.open(self.world)
        return driver

    def _survives(self, step: Callable[[], object]) -> bool:
        """Whether a step was done to its end; if the driver died of it, another one takes over."""
        died = False
        try:
            step()
            if self.driver.dispatcher.failure is not None:
                raise self.driver.dispatcher.failure
        except Crash:
            died = True
        # A process that dies lets go of the studies' file; here its tracebacks hold cursors, and these a lock.
        if died:
            self.driver.dispatcher.failure = None
            self.driver.close()
            gc.collect()
            self.driver = self._opened()
        return not died

    def _check_attempt(self, attempt: Attempt) -> None:
        """An attempt's number is a new one, and it continues from what is on record, never from the last epoch."""
        trial = self._trials()[attempt.request.key]
        assert attempt.number == trial.attempts > self.numbers[trial.key]
        self.numbers[trial.key] = attempt.number
        epochs = [epoch for epoch, _ in attempt.accepted]
        assert epochs == sorted(epochs, reverse=True)
        assert all(epoch < EPOCHS and trial.reporters[epoch - 1] == by for epoch, by in attempt.accepted)

    def _trials(self) -> dict[str, Trial]:
        return self.driver.record.trials

    @invariant()
    def the_record_is_what_the_journal_says(self) -> None:
        written = load_record(self.world.journal)
        assert (written.trials, written.rounds) == (self.driver.record.trials, self.driver.record.rounds)

    @invariant()
    def started_trials_of_two_arms_never_differ_by_more_than_one(self) -> None:
        started = [len(self.driver.record.of(Stage.SEARCH, arm.name)) for arm in self.world.arms]
        assert max(started) - min(started) <= 1
        assert max(started) <= TRIALS

    @invariant()
    def what_runs_runs_once(self) -> None:
        keys = [attempt.request.key for attempt, _ in self.driver.running.values()]
        assert len(set(keys)) == len(keys) <= CONCURRENT
        assert all(self._trials()[key].state == State.RUNNING for key in keys)

    @invariant()
    def epochs_are_on_record_once_and_in_order(self) -> None:
        for trial in self._trials().values():
            assert [epoch.epoch for epoch in trial.epochs] == list(range(1, len(trial.epochs) + 1))
            assert len(trial.reporters) == len(trial.epochs)
            assert trial.state != State.COMPLETE or len(trial.epochs) == EPOCHS

    @invariant()
    def only_the_judge_stops_a_trial_and_never_the_best_of_a_rung(self) -> None:
        for trial in self._trials().values():
            if trial.state == State.PRUNED:
                assert isinstance(self.driver.early_stopper, EarlyStopper)
                rung = len(trial.epochs)
                assert rung in (1, 2)
                others = [
                    other.epochs[rung - 1].metric("val_acc")
                    for other in self.driver.record.of(Stage.SEARCH, trial.arm)
                    if len(other.epochs) >= rung
                ]
                assert max(others) > trial.epochs[-1].metric("val_acc")

    def teardown(self) -> None:
        try:
            while not self._survives(self.driver.finish):
                pass
            check(self.world)
            self.only_the_judge_stops_a_trial_and_never_the_best_of_a_rung()
        finally:
            self.driver.close()
            self._patch.undo()
            shutil.rmtree(self._folder)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_search_keeps_its_promises_after_every_step() -> None:
    run_state_machine_as_test(
        Search,
        settings=settings(
            max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
