"""The search: arms asked in turn from real studies, on a clock that the test holds."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from tests.tuner.events import History, report
from tests.tuner.spec_texts import more, spec_of
from trainables.config import derive_seed
from trainables.report import EpochReport
from trainables.space import Plan
from tuner.errors import SearchFailed
from tuner.jobs.record import Record
from tuner.search.asha import JudgedEpochs
from tuner.search.search_trials import HOPELESS, SearchSource, early_stopper
from tuner.search.trial_request import TrialOutcome, TrialRequest
from tuner.spec.arms import arms
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import EpochReported, State

HOUR = 3600.0
PLAN = Plan(8, 10)


def spec_with(budget: str = "", *sections: str) -> SearchSpec:
    """Three arms of four trials of eight epochs, and what is added."""
    return spec_of(("- variant: noam", "- variant: noam\n  - adamw"), more(budget + "".join(sections)))


class Search:
    """A source over real studies, with a clock and the trials that run."""

    def __init__(self, spec: SearchSpec, record: Record | None = None) -> None:
        self.now = 1000.0
        found = arms(spec, PLAN)
        record = Record() if record is None else record
        self.source = SearchSource(spec, found, PLAN, record, concurrent=1, clock=lambda: self.now)
        self.started: Counter[str] = Counter({arm.name: 0 for arm in found})
        self.running: list[TrialRequest] = []

    def start(self) -> TrialRequest | None:
        request = self.source.next()
        if request is not None:
            self.started[request.arm] += 1
            self.running.append(request)
        return request

    def end(self, index: int = 0, state: State = State.COMPLETE, epochs: int = 8) -> None:
        request = self.running.pop(index)
        epochs = epochs if state != State.FAILED else 0
        reports = tuple(EpochReport(**report(epoch, epoch / 100, 1.0)) for epoch in range(1, epochs + 1))
        self.source.ended(
            request, TrialOutcome(state, reports, "it broke\nlast line" if state == State.FAILED else None)
        )

    def run(self, seconds: float, concurrent: int = 2) -> None:
        """Until the source gives no more: every trial takes ``seconds``."""
        while True:
            while len(self.running) < concurrent and self.start() is not None:
                pass
            if not self.running:
                return
            self.now += seconds / concurrent
            self.end()

    def trials(self, arm: str) -> list[FrozenTrial]:
        return self.source._studies[arm].trials()


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.sampled_from([*State])), max_size=60))
def test_started_trials_of_two_arms_never_differ_by_more_than_one(steps: list[tuple[bool, int, State]]) -> None:
    search = Search(spec_with("", "sampler: random\n"))
    for begin, index, state in steps:
        if begin or not search.running:
            search.start()
        elif state not in (State.RUNNING, State.FAILED):
            search.end(index % len(search.running), state, epochs=2)
        assert max(search.started.values()) - min(search.started.values()) <= 1


def test_every_arm_gets_all_its_trials_and_then_no_more() -> None:
    search = Search(spec_with())
    search.run(seconds=1)
    assert set(search.started.values()) == {4}
    assert search.start() is None


def test_the_default_settings_come_first_in_every_arm() -> None:
    search = Search(spec_with())
    for arm in arms(spec_with(), PLAN):
        request = search.start()
        assert request is not None
        assert (request.arm, request.number, request.image_trial.hyper) == (arm.name, 0, arm.hyper(arm.default))


def test_all_trials_of_a_search_have_the_jobs_seed() -> None:
    search = Search(spec_with("", "seed: 7\n"))
    requests = [search.start() for _ in range(6)]
    assert {request.trial.seed for request in requests if request} == {7}
    assert derive_seed(7, "arm", 1) != derive_seed(7, "arm", 2)


@pytest.mark.parametrize(("hours", "rounds"), [(2.0, 1), (7.0, 2), (100.0, 4)])
def test_a_time_cap_ends_the_search_where_one_more_round_would_go_over_it(hours: float, rounds: int) -> None:
    search = Search(spec_with(f"  max_hours: {hours}\n"))
    search.run(seconds=HOUR, concurrent=1)
    assert set(search.started.values()) == {rounds}


@pytest.mark.parametrize("concurrent", [2, 3, 5])
@pytest.mark.parametrize("hours", [0.5, 2.0, 3.5])
def test_under_a_time_cap_every_arm_gets_as_many_trials_however_many_run_at_once(hours: float, concurrent: int) -> None:
    search = Search(spec_with(f"  max_hours: {hours}\n"))
    search.run(seconds=HOUR * concurrent, concurrent=concurrent)
    assert len(set(search.started.values())) == 1
    assert search.started["adam_l2"] < 4 or hours * HOUR > search.now - 1000


@pytest.mark.parametrize(("gpu_hours", "rounds"), [(1.0, 1), (3.2, 2), (100.0, 4)])
def test_a_gpu_hour_cap_counts_the_trials_share_of_a_gpu(gpu_hours: float, rounds: int) -> None:
    # A round is three trials of an hour on half a GPU: 1.5 GPU hours.
    search = Search(spec_with(f"  max_gpu_hours: {gpu_hours}\n", "resources: {gpus: 0.5}\n"))
    search.run(seconds=HOUR, concurrent=1)
    assert set(search.started.values()) == {rounds}


def test_gpu_hours_of_trials_that_still_run_count_too() -> None:
    search = Search(spec_with("  max_gpu_hours: 4\n", "resources: {gpus: 1}\n"))
    for _ in range(3):
        search.start()
    search.now += HOUR
    assert search.start() is None


def test_optuna_is_told_what_became_of_every_trial() -> None:
    search = Search(spec_with())
    for _ in range(12):
        search.start()
    ends = {0: (State.COMPLETE, 8), 1: (State.PRUNED, 3), 2: (State.DIVERGED, 2), 3: (State.FAILED, 0)}
    while search.running:
        state, epochs = ends[search.running[0].number]
        search.end(0, state, epochs)
    for arm in search.started:
        complete, pruned, diverged, failed = search.trials(arm)
        assert (complete.state, complete.value) == (TrialState.COMPLETE, 0.08)
        assert complete.intermediate_values == {epoch: epoch / 100 for epoch in range(1, 9)}
        assert (pruned.state, pruned.last_step) == (TrialState.PRUNED, 3)
        assert pruned.intermediate_values == {1: 0.01, 2: 0.02, 3: 0.03}
        assert (diverged.state, diverged.value) == (TrialState.FAIL, None)
        assert (failed.state, failed.value) == (TrialState.FAIL, None)


def test_no_trial_is_left_running_in_a_study() -> None:
    search = Search(spec_with())
    search.run(seconds=1, concurrent=3)
    states = [trial.state for arm in search.started for trial in search.trials(arm)]
    assert states == [TrialState.COMPLETE] * 12


def test_when_the_first_trials_all_fail_the_search_is_given_up_with_the_first_error() -> None:
    search = Search(spec_with())
    for _ in range(HOPELESS):
        search.start()
    for _ in range(HOPELESS - 1):
        search.end(state=State.FAILED)
    with pytest.raises(SearchFailed, match=f"first {HOPELESS} trials all failed; the first error was:\nit broke"):
        search.end(state=State.FAILED)


@pytest.mark.parametrize("state", [State.COMPLETE, State.PRUNED, State.DIVERGED])
def test_one_trial_that_trains_gives_the_others_the_benefit_of_the_doubt(state: State) -> None:
    search = Search(spec_with())
    for _ in range(12):
        search.start()
    search.end(state=State.FAILED)
    search.end(state=state)
    while search.running:
        search.end(state=State.FAILED)
    assert search.start() is None


def test_trials_are_judged_at_their_rungs_and_after_warm_up() -> None:
    search = Search(spec_with("", "scheduler: {name: asha, first_rung: 1, reduction_factor: 2}\n"))
    plain, noam, _ = (search.start() for _ in range(3))
    assert plain is not None
    assert plain.judged is not None
    assert noam is not None
    assert noam.judged is not None
    assert plain.judged == JudgedEpochs("search/adam_l2/0", "adam_l2/0", 0, (1, 2, 4), (1, 2, 4))
    warmup_epochs = -(-noam.image_trial.hyper.warmup // PLAN.steps_per_epoch)
    assert noam.judged.at == tuple(rung for rung in (1, 2, 4) if rung >= warmup_epochs)


def test_without_a_scheduler_no_trial_is_judged() -> None:
    request = Search(spec_with("", "scheduler: none\n")).start()
    assert request is not None
    assert request.judged is not None
    assert request.judged.at == request.judged.comparable == ()


def test_hyperband_lets_some_trials_pass_the_first_rung() -> None:
    search = Search(spec_with("", "scheduler: {name: hyperband, first_rung: 1, reduction_factor: 2}\n"))
    requests = [search.start() for _ in range(12)]
    found = [request.judged for request in requests if request and request.judged and request.arm == "adam_l2"]
    assert [judged.at[0] for judged in found] == [1, 2, 1, 4]
    assert [judged.bracket for judged in found] == [0, 1, 0, 2]


def on_record(spec: SearchSpec, rounds: int, running: Mapping[str, int] = MappingProxyType({})) -> History:
    """A search that was interrupted after so many whole rounds, and with these trials."""
    history = History(spec)
    for number in range(rounds):
        for arm in history.arms:
            history.trial(arm, number, [0.1 * epoch for epoch in range(1, 9)])
    for arm, number in running.items():
        history.trial(arm, number, [0.1, 0.2], state=None)
    return history


def test_a_search_goes_on_with_what_was_interrupted_and_then_where_it_stood() -> None:
    spec = spec_with()
    record = on_record(spec, 2, {"noam": 2, "adam_l2": 2}).record()
    search = Search(spec, record=record)
    requests = [search.start() for _ in range(7)]
    assert [request and request.key for request in requests] == [
        "search/adam_l2/2",
        "search/noam/2",
        "search/adamw/2",
        "search/adam_l2/3",
        "search/noam/3",
        "search/adamw/3",
        None,
    ]
    for request in requests[:2]:
        assert request is not None
        assert request.knobs == record.trials[request.key].knobs
        assert vars(request.image_trial.hyper) == record.trials[request.key].hyper
    for arm in search.started:
        assert [trial.state for trial in search.trials(arm)][:2] == [TrialState.COMPLETE] * 2


def test_what_was_asked_for_and_not_put_on_record_is_given_again_in_its_turn() -> None:
    spec = spec_with("", "sampler: random\n")
    before = Search(spec)
    asked = [before.start() for _ in range(2)]
    again = Search(spec, record=Record())
    assert [again.start() for _ in range(2)] == asked
    third = again.start()
    assert third is not None
    assert third.key == "search/adamw/0"


def test_a_search_that_has_all_its_trials_gives_no_more() -> None:
    spec = spec_with()
    search = Search(spec, record=on_record(spec, 4).record())
    assert search.start() is None
    assert [trial.state for arm in search.started for trial in search.trials(arm)] == [TrialState.COMPLETE] * 12


@pytest.mark.parametrize(("worked_hours", "more"), [(1.0, True), (3.4, True), (3.6, False), (9.0, False)])
def test_the_time_of_earlier_drivers_counts_under_a_cap(worked_hours: float, more: bool) -> None:
    # A round takes three half hours.
    spec = spec_with("  max_hours: 5\n")
    history = on_record(spec, 1)
    for number, entry in enumerate(history.entries):
        if isinstance(entry.event, EpochReported):
            event = replace(entry.event, report=replace(entry.event.report, seconds=HOUR / 16))
            history.entries[number] = replace(entry, event=event)
    history.entries[-1] = replace(history.entries[-1], up=worked_hours * HOUR)
    assert (Search(spec, record=history.record()).start() is not None) == more


def test_what_was_interrupted_is_brought_to_its_end_whatever_the_cap() -> None:
    spec = spec_with("  max_hours: 1\n")
    history = on_record(spec, 1, {"adam_l2": 1, "noam": 1})
    history.entries[-1] = replace(history.entries[-1], up=100 * HOUR)
    search = Search(spec, record=history.record())
    keys = [request.key for request in iter(search.start, None)]
    # With it the round: every arm gets as many trials.
    assert keys == ["search/adam_l2/1", "search/noam/1", "search/adamw/1"]


def test_a_trial_that_trained_before_an_interruption_gives_the_others_the_benefit_of_the_doubt() -> None:
    search = Search(spec := spec_with(), record=on_record(spec, 1).record())
    for _ in range(9):
        search.start()
    while search.running:
        search.end(state=State.FAILED)


def test_without_a_scheduler_there_is_no_judge() -> None:
    spec = spec_with("", "scheduler: none\n")
    assert early_stopper(spec, PLAN, Record()) is None


def test_a_judge_has_heard_all_that_is_on_record() -> None:
    spec = spec_with("", "scheduler: {name: asha, first_rung: 2, reduction_factor: 2}\n")
    history = on_record(spec, 1, {"adam_l2": 1})
    stopper = early_stopper(spec, PLAN, history.record())
    search = Search(spec, record=history.record())
    interrupted, new = search.start(), [search.start() for _ in range(3)][-1]
    assert stopper is not None
    assert interrupted is not None
    assert interrupted.judged is not None
    assert new is not None
    assert new.judged is not None
    assert (interrupted.key, new.key) == ("search/adam_l2/1", "search/adam_l2/2")
    # Trials 0 and 1 had 0.2 at epoch 2, and trial 1 went on from there.
    assert not stopper.stops(interrupted.judged, 2, 0.0)
    assert stopper.stops(new.judged, 2, 0.1)
    assert not stopper.stops(interrupted.judged, 4, 0.5)
