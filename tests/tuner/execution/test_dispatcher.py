"""The dispatcher: fenced attempts, retries, what goes on record, and what ends a job."""

import dataclasses
import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest

from tests.tuner.events import History, report
from tests.tuner.spec_texts import spec_of
from trainables.hyper import Hyper
from trainables.own.trial import OwnTrial
from trainables.report import ConfirmResult, EpochReport, OwnReport, StepReport
from tuner.errors import SearchFailed, ServiceError
from tuner.execution.dispatcher import Attempt, Dispatcher
from tuner.jobs.record import Record, Trial
from tuner.search.asha import EarlyStopper, JudgedEpochs
from tuner.search.trial_request import TrialOutcome, TrialRequest
from tuner.spec.settings import ResourcesSpec
from tuner.spec.trial_config import trial_config
from tuner.storage.events import Entry, Stage, State
from tuner.storage.journal import Journal, read

SPEC = spec_of()
EPOCHS = SPEC.budget.epochs
KEY = "search/noam/0"
HOUR = 3600.0


def new_record() -> Record:
    """The record of a job that has begun; the journals here have only the trials."""
    record = Record()
    for entry in History(SPEC).entries:
        record.add(entry)
    return record


def request(number: int = 0) -> TrialRequest:
    """A trial of eight epochs."""
    setting = dataclasses.asdict(Hyper(1e-3))
    trial = trial_config(SPEC, "noam", setting, seed=7)
    return TrialRequest(f"search/noam/{number}", Stage.SEARCH, "noam", number, trial, setting, knobs={"lr": 1e-3})


class Given:
    """A source of listed trials; keeps what it is told of their ends."""

    def __init__(self, *requests: TrialRequest) -> None:
        self.told: dict[str, TrialOutcome] = {}
        self._requests = iter(requests)

    def next(self) -> TrialRequest | None:
        return next(self._requests, None)

    def ended(self, request: TrialRequest, ended: TrialOutcome) -> None:
        assert request.key not in self.told
        self.told[request.key] = ended


class Bench:
    """A dispatcher on a real journal, with a clock that the test holds. Attempts are named by letters."""

    def __init__(self, path: Path, source: Given, durable: bool, **limits: Any) -> None:
        self.now = 0.0
        self.path = path
        self.source = source
        self.record = new_record()
        self.journal = Journal(path, self.record.add, durable=durable)
        limits_ = ResourcesSpec.model_validate(limits)
        self.dispatcher = Dispatcher(source, self.journal, self.record, limits_, clock=lambda: self.now)

    def start(self, name: str) -> Attempt:
        attempt = self.dispatcher.start(name)
        assert attempt is not None
        return attempt

    def train(self, name: str, first: int, last: int, attempt: int = 1) -> None:
        for epoch in range(first, last + 1):
            self.dispatcher.report(name, result(epoch, attempt))

    def trial(self, key: str = KEY) -> Trial:
        return self.record.trials[key]

    def entries(self) -> list[Entry]:
        return list(read(self.path))

    def events(self) -> list[dict[str, Any]]:
        return [entry.to_json() for entry in self.entries()]


def epoch_report(epoch: int, diverged: str | None = None) -> EpochReport:
    """The report of an epoch."""
    return EpochReport(**report(epoch, epoch / 10, 1 - epoch / 10), diverged=diverged)


def result(
    epoch: int, attempt: int = 1, diverged: str | None = None, tested: ConfirmResult | None = None
) -> StepReport:
    """A worker's answer after an epoch."""
    return StepReport(attempt, epoch_report(epoch, diverged), tested)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes a bench with these many trials and these limits."""
    made: list[Bench] = []

    def make(trials: int = 1, durable: bool = False, **limits: Any) -> Bench:
        source = Given(*map(request, range(trials)))
        made.append(Bench(tmp_path / f"journal-{len(made)}.jsonl", source, durable, **limits))
        return made[-1]

    yield make
    for each in made:
        each.journal.close()


Make = Callable[..., Bench]


def test_a_trial_goes_on_record_before_its_first_attempt(bench: Make) -> None:
    made = bench()
    attempt = made.start("a")
    assert (attempt.number, attempt.accepted, attempt.request) == (1, (), request())
    trial, begun = made.events()
    assert (trial["kind"], trial["trial"], trial["knobs"], trial["seed"]) == ("trial", KEY, {"lr": 1e-3}, 7)
    assert trial["hyper"] == attempt.request.trial.to_dict()["hyper"]
    assert (begun["kind"], begun["trial"], begun["attempt"], begun["epoch"]) == ("attempt", KEY, 1, 0)


def test_when_the_source_is_spent_there_is_something_later_only_while_attempts_run(bench: Make) -> None:
    made = bench()
    made.start("a")
    assert (made.dispatcher.start("b"), made.dispatcher.running) == (None, 1)
    made.dispatcher.fail("a", "it broke")
    assert made.start("b").number == 2
    made.dispatcher.end("b", result(EPOCHS, 2))
    assert (made.dispatcher.start("c"), made.dispatcher.running) == (None, 0)
    assert made.dispatcher.failure is None


@pytest.mark.parametrize(
    ("last", "more", "state", "reason"),
    [
        (EPOCHS, {}, State.COMPLETE, None),
        (3, {}, State.PRUNED, None),
        (3, {"diverged": "training loss is nan"}, State.DIVERGED, "training loss is nan"),
        (EPOCHS, {"diverged": "training loss is nan"}, State.DIVERGED, "training loss is nan"),
    ],
)
def test_the_source_and_the_journal_are_told_how_a_trial_ended(
    bench: Make, last: int, more: dict[str, Any], state: State, reason: str | None
) -> None:
    made = bench()
    made.start("a")
    made.train("a", 1, last)
    made.dispatcher.end("a", result(last, **more))
    epochs = tuple(epoch_report(epoch) for epoch in range(1, last + 1))
    assert made.source.told == {KEY: TrialOutcome(state, epochs, reason)}
    assert (made.trial().state, made.trial().reason, tuple(made.trial().epochs)) == (state, reason, epochs)


def test_a_complete_trial_keeps_its_test_result_and_no_other_field(bench: Make) -> None:
    made = bench()
    made.start("a")
    found: dict[str, Any] = {"test_acc": 0.5, "test_loss": 1.0, "weights_sha256": "a" * 64, "device": "cpu"}
    # Ray Tune adds fields of its own.
    answer = {**result(EPOCHS).to_dict(), **found, "trial_id": "a", "pid": 4}
    made.dispatcher.end("a", StepReport.from_dict(answer))
    assert made.trial().result == ConfirmResult(**found)
    assert made.events()[-1]["result"] == found


def test_a_report_says_whether_the_trial_continues(bench: Make) -> None:
    made = bench()
    made.start("a")
    assert [made.dispatcher.report("a", result(epoch)) for epoch in range(1, EPOCHS + 1)] == [True] * 7 + [False]
    made = bench()
    made.start("a")
    assert not made.dispatcher.report("a", result(1, diverged="training loss is nan"))
    assert not made.dispatcher.report("a", result(2, attempt=2))
    assert not made.dispatcher.report("never", result(2))


def test_a_trial_that_the_early_stopper_ends_does_not_continue(tmp_path: Path) -> None:
    record = new_record()
    with closing(Journal(tmp_path / "journal.jsonl", record.add, durable=False)) as journal:
        judged = [replace(request(n), judged=JudgedEpochs(f"search/noam/{n}", "noam", 0, (2,), (2,))) for n in range(3)]
        stopper = EarlyStopper("val_acc", maximize=True, reduction_factor=2)
        made = Dispatcher(Given(*judged), journal, record, ResourcesSpec(), early_stopper=stopper, clock=lambda: 0.0)
        continues = []
        for name, better in (("a", 0.5), ("b", 0.4), ("c", 0.0)):
            made.start(name)
            for epoch in (1, 2):
                step = replace(result(epoch), epoch=replace(epoch_report(epoch), val_acc=better))
                continues.append(made.report(name, step))
        assert continues == [True] * 5 + [False]


class TestOwnTrainable:
    """Trials of the user's that end by themselves, at a rung."""

    def bench(self, path: Path, record: Record) -> tuple[Dispatcher, Journal]:
        trial = OwnTrial("mine:Train", {}, 8, 0, (), "val_acc", "test_acc")
        judged = [
            replace(request(n), trial=trial, judged=JudgedEpochs(f"search/noam/{n}", "noam", 0, (2,), (2,)))
            for n in range(4)
        ]
        journal = Journal(path, record.add, durable=False)
        stopper = early_stopper_of(record, [each.judged for each in judged if each.judged])
        limits = ResourcesSpec()
        source = Given(*judged[len(record.trials) - 1 if record.trials else 0 :])
        return Dispatcher(source, journal, record, limits, early_stopper=stopper, clock=lambda: 0.0), journal

    def test_the_last_report_of_one_that_ends_by_itself_is_compared_with_others(self, tmp_path: Path) -> None:
        record = new_record()
        made, journal = self.bench(tmp_path / "journal.jsonl", record)
        with closing(journal):
            for name, value in (("a", 0.5), ("b", 0.4), ("c", 0.3)):
                made.start(name)
                made.report(name, own_step(1, value))
                step = own_step(2, value, ended=True)
                assert not made.report(name, step)
                made.end(name, step)
            made.start("d")
            made.report("d", own_step(1, 0.0))
            assert not made.report("d", own_step(2, 0.0))
            made.end("d", own_step(2, 0.0))
        assert made.failure is None
        assert [each.state for each in record.trials.values()] == [State.COMPLETE] * 3 + [State.PRUNED]

    @pytest.mark.parametrize(("ended", "state"), [(True, State.COMPLETE), (False, State.PRUNED)])
    def test_after_a_crash_one_that_ended_by_itself_is_complete_and_the_other_is_not(
        self, tmp_path: Path, ended: bool, state: State
    ) -> None:
        made, journal = self.bench(tmp_path / "journal.jsonl", new_record())
        with closing(journal):
            for name, value in (("a", 0.5), ("b", 0.4), ("c", 0.3)):
                made.start(name)
                made.report(name, own_step(1, value))
                made.report(name, step := own_step(2, value, ended=ended and name == "c"))
                if name != "c":
                    made.end(name, replace(step, ended=True))
        record = new_record()
        for entry in read(tmp_path / "journal.jsonl"):
            record.add(entry)
        made, journal = self.bench(tmp_path / "journal.jsonl", record)
        with closing(journal):
            attempt = made.start("again")
            assert attempt is not None
            assert (attempt.request.key, attempt.accepted) == ("search/noam/2", ((1, 1),))
            step = own_step(2, 0.3, attempt=2, ended=ended)
            assert not made.report("again", step)
            made.end("again", step)
        trial = record.trials["search/noam/2"]
        assert (trial.state, len(trial.epochs)) == (state, 2)


def own_step(epoch: int, value: float, attempt: int = 1, ended: bool = False) -> StepReport:
    return StepReport(attempt, OwnReport(epoch, {"val_acc": value}, 1.0), None, ended=ended)


def early_stopper_of(record: Record, judged: Sequence[JudgedEpochs]) -> EarlyStopper:
    """A stopper that has heard all reports on record."""
    stopper = EarlyStopper("val_acc", maximize=True, reduction_factor=2)
    for each in judged:
        for epoch in record.trials[each.key].epochs if each.key in record.trials else ():
            stopper.stops(each, epoch.epoch, epoch.metric("val_acc"))
    return stopper


@pytest.mark.parametrize("name", ["a", "b"])
def test_reports_and_ends_of_an_earlier_attempt_are_refused(bench: Make, name: str) -> None:
    made = bench()
    made.start("a")
    made.train("a", 1, 2)
    made.dispatcher.fail("a", "its node was cut off")
    made.start("b")
    before = made.events()
    # It lives on, under its own id or as whoever took its id.
    made.train(name, 3, 4, attempt=1)
    made.dispatcher.end(name, result(EPOCHS, attempt=1))
    assert made.events() == before
    assert (made.trial().state, made.source.told) == (State.RUNNING, {})
    made.train("b", 3, EPOCHS, attempt=2)
    made.dispatcher.end("b", result(EPOCHS, attempt=2))
    assert (made.trial().state, made.trial().reporters) == (State.COMPLETE, [1] * 2 + [2] * 6)


def test_what_is_not_running_can_neither_end_nor_fail(bench: Make) -> None:
    made = bench()
    made.start("a")
    made.dispatcher.end("a", result(EPOCHS))
    before = made.events()
    made.dispatcher.end("a", result(EPOCHS))
    assert not made.dispatcher.fail("a", "too late")
    assert not made.dispatcher.fail("never", "no such attempt")
    assert made.events() == before


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_trial_that_gets_no_further_is_retried_as_often_as_allowed(bench: Make, retries: int) -> None:
    made = bench(retries=retries)
    for tried in range(retries):
        made.start(f"a{tried}")
        assert not made.dispatcher.fail(f"a{tried}", f"error {tried}")
    made.start("last")
    assert made.dispatcher.fail("last", "last error")
    assert made.source.told[KEY] == TrialOutcome(State.FAILED, (), "last error")
    assert (made.trial().attempts, made.dispatcher.start("z")) == (retries + 1, None)


def test_retries_are_counted_only_while_a_trial_gets_no_further(bench: Make) -> None:
    made = bench(retries=1)
    for epoch in range(1, EPOCHS):
        made.start(f"{epoch}")
        made.train(f"{epoch}", epoch, epoch, attempt=epoch)
        assert not made.dispatcher.fail(f"{epoch}", "it broke")
    made.start("z")
    assert made.dispatcher.fail("z", "it broke again at once")
    assert (made.trial().state, len(made.trial().epochs)) == (State.FAILED, EPOCHS - 1)


def test_epochs_that_are_trained_again_are_no_progress(bench: Make) -> None:
    made = bench(retries=1)
    made.start("a")
    made.train("a", 1, 3)
    made.dispatcher.fail("a", "it broke")
    made.start("b")
    made.train("b", 1, 3, attempt=2)
    assert made.dispatcher.fail("b", "it broke again")


def test_a_trial_that_is_tried_again_comes_before_a_new_one(bench: Make) -> None:
    made = bench(trials=3)
    made.start("a")
    made.start("b")
    made.dispatcher.fail("a", "it broke")
    assert [made.start(name).request.number for name in ("c", "d")] == [0, 2]


def test_an_epoch_trained_again_is_not_put_on_record_again(bench: Make) -> None:
    made = bench()
    made.start("a")
    made.train("a", 1, 3)
    made.dispatcher.fail("a", "it broke, and its checkpoints with it")
    made.start("b")
    made.train("b", 1, 4, attempt=2)
    reported = [(event["epoch"], event["attempt"]) for event in made.events() if event["kind"] == "epoch"]
    assert reported == [(1, 1), (2, 1), (3, 1), (4, 2)]
    assert [epoch.epoch for epoch in made.trial().epochs] == [1, 2, 3, 4]
    assert made.trial().reporters == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("done", "accepted"),
    [
        (0, ()),
        (1, ((1, 1),)),
        (2, ((2, 1), (1, 1))),
        (EPOCHS - 1, tuple((epoch, 1) for epoch in range(EPOCHS - 1, 0, -1))),
        # Of the last epoch there is no checkpoint: it is trained again where its end did not come through.
        (EPOCHS, tuple((epoch, 1) for epoch in range(EPOCHS - 1, 0, -1))),
    ],
)
def test_an_attempt_continues_after_epochs_on_record_the_newest_first_and_never_the_last(
    bench: Make, done: int, accepted: tuple[tuple[int, int], ...]
) -> None:
    made = bench()
    made.start("a")
    made.train("a", 1, done)
    made.dispatcher.fail("a", "it broke")
    assert made.start("b").accepted == accepted
    assert (made.events()[-1]["attempt"], made.events()[-1]["epoch"]) == (2, done)


def test_a_checkpoint_is_accepted_only_from_the_attempt_that_trained_its_epoch_last(bench: Make) -> None:
    made = bench(retries=9)
    made.start("a")
    made.train("a", 1, 4)
    made.dispatcher.fail("a", "it broke")
    made.start("b")
    # The first attempt's checkpoints of the epochs from 2 on were refused; the second's are good.
    made.train("b", 2, 3, attempt=2)
    made.dispatcher.fail("b", "it broke")
    assert made.start("c").accepted[:2] == ((4, 1), (3, 2))
    made.train("c", 4, 5, attempt=3)
    made.dispatcher.fail("c", "it broke")
    assert made.start("d").accepted[:2] == ((5, 3), (4, 3))


def test_memory_ends_only_the_trial_that_it_was_short_for(bench: Make) -> None:
    made = bench(trials=2, retries=9)
    made.start("a")
    made.start("b")
    assert made.dispatcher.fail("a", "killed for memory", oom=True)
    assert made.source.told == {KEY: TrialOutcome(State.OOM, (), "killed for memory")}
    assert made.dispatcher.start("c") is None
    made.dispatcher.end("b", result(EPOCHS))
    assert made.source.told["search/noam/1"].state == State.COMPLETE
    assert made.dispatcher.failure is None


def test_an_attempt_that_is_silent_for_too_long_is_overdue_and_tried_again(bench: Make) -> None:
    made = bench(trials=2, silent_minutes=5)
    made.start("a")
    made.now = 200
    made.start("b")
    made.now = 300
    assert list(made.dispatcher.overdue()) == []
    made.train("a", 1, 1)
    made.now = 501
    assert list(made.dispatcher.overdue()) == ["b"]
    made.now = 601
    assert set(made.dispatcher.overdue()) == {"a", "b"}
    assert not made.dispatcher.fail("a", "its worker was ended")
    assert made.start("c").number == 2
    assert set(made.dispatcher.overdue()) == {"b"}


def test_an_attempt_that_waits_for_a_place_is_not_late(bench: Make) -> None:
    made = bench(trials=2, silent_minutes=5)

    def waits() -> list[bool]:
        return [made.dispatcher.waits]

    made.start("a")
    made.dispatcher.placed("a", waits=True)
    assert waits() == [True]
    made.start("b")
    assert waits() == [False]
    made.now = 10_000
    made.dispatcher.placed("a", waits=True)
    assert set(made.dispatcher.overdue()) == {"b"}
    made.dispatcher.placed("a", waits=False)
    made.now += 301
    assert set(made.dispatcher.overdue()) == {"a", "b"}


def test_a_trial_that_takes_too_long_is_overdue_and_fails_for_good(bench: Make) -> None:
    made = bench(retries=9, trial_hours=1, silent_minutes=100)
    made.start("a")
    made.now = HOUR
    assert list(made.dispatcher.overdue()) == []
    made.now += 1
    assert list(made.dispatcher.overdue()) == ["a"]
    assert made.dispatcher.fail("a", "its worker was ended")
    assert made.source.told[KEY] == TrialOutcome(State.FAILED, (), "took longer than resources.trial_hours (1 h)")


def test_the_time_of_earlier_attempts_and_drivers_counts_and_a_retrys_wait_does_not(bench: Make) -> None:
    made = bench(trial_hours=1, silent_minutes=100)
    made.start("a")
    # Three epochs of a second each, as they were reported; how long they took here does not matter.
    made.train("a", 1, 3)
    made.dispatcher.fail("a", "it broke")
    made.now = 10 * HOUR
    made.start("b")
    made.now += HOUR - 4
    assert list(made.dispatcher.overdue()) == []
    made.now += 2
    assert list(made.dispatcher.overdue()) == ["b"]


def fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be written from here on."""

    def full(file: IO[bytes], data: bytes) -> None:
        file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tuner.storage.journal._write_all", full)


@pytest.mark.parametrize(
    "last_straw",
    [
        lambda made: made.dispatcher.start("b"),
        lambda made: made.dispatcher.report("a", result(3)),
        lambda made: made.dispatcher.end("a", result(EPOCHS)),
        lambda made: made.dispatcher.fail("a", "killed for memory", oom=True),
    ],
    ids=["start", "report", "end", "fail"],
)
def test_where_the_journal_cannot_be_written_everything_stops_as_it_stood(
    bench: Make, monkeypatch: pytest.MonkeyPatch, last_straw: Callable[[Bench], object]
) -> None:
    made = bench(trials=3, durable=True)
    made.start("a")
    made.train("a", 1, 2)
    before, state = made.events(), made.trial()
    fill_the_disk(monkeypatch)
    last_straw(made)
    monkeypatch.undo()
    assert isinstance(made.dispatcher.failure, ServiceError)
    assert "No space left on device" in str(made.dispatcher.failure)
    # There is room again, but this driver has lost count.
    assert made.dispatcher.start("c") is None
    made.train("a", 3, 4)
    made.dispatcher.end("a", result(EPOCHS))
    assert (made.events(), made.trial(), made.source.told) == (before, state, {})
    assert state.state == State.RUNNING


def test_an_error_of_the_source_is_the_jobs_not_the_trials(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench(trials=2)

    def hopeless(request: TrialRequest, ended: TrialOutcome) -> None:
        raise SearchFailed("the first trials all failed")

    monkeypatch.setattr(made.source, "ended", hopeless)
    made.start("a")
    made.dispatcher.end("a", result(EPOCHS))
    assert isinstance(made.dispatcher.failure, SearchFailed)
    assert made.dispatcher.start("b") is None
    # How the trial ended is on record all the same: the next driver tells the source.
    assert made.trial().state == State.COMPLETE


def test_the_first_failure_is_the_one_that_is_kept(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench(trials=2)
    first = ServiceError("the database stays away")

    def away() -> None:
        raise first

    monkeypatch.setattr(made.source, "next", away)
    for name in ("a", "b"):
        assert made.dispatcher.start(name) is None
    assert made.dispatcher.failure is first


def test_another_driver_numbers_its_attempts_on(bench: Make, tmp_path: Path) -> None:
    made = bench()
    made.start("a")
    made.train("a", 1, 2)
    made.journal.close()
    with_record = new_record()
    for entry in made.entries():
        with_record.add(entry)
    journal = Journal(made.path, with_record.add, durable=False)
    again = Dispatcher(Given(request()), journal, with_record, ResourcesSpec(), clock=lambda: 0.0)
    attempt = again.start("a")
    journal.close()
    assert attempt is not None
    assert (attempt.number, attempt.accepted) == (2, ((2, 1), (1, 1)))
    assert [event["kind"] for event in made.events()] == ["trial", "attempt", "epoch", "epoch", "attempt"]
