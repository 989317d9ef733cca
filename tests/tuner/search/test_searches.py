"""Several searches per arm: what they share, their order, what a restart repeats, their caps and their units."""

import math
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import pytest

from tests.tuner.method_jobs import CHANCE, EPOCHS, PLACEBO, TRIALS, Searches, method_spec
from trainables.config import TrialConfig
from trainables.report import EpochReport
from trainables.simulated import EPOCH_S, SimulatedTraining
from trainables.space import Plan
from tuner.execution.dispatcher import Attempt, Dispatcher
from tuner.execution.simulator import Clock, Simulation, no_fault, simulate
from tuner.jobs.reading import read_and_recover
from tuner.jobs.record import Record, load_record
from tuner.jobs.stop import StopRequest
from tuner.search.search_trials import SearchSource, early_stopper
from tuner.search.searches import SearchesSource
from tuner.search.trial_request import TrialOutcome, TrialRequest
from tuner.search.winners import candidates, search_has_ended, search_values, search_winner
from tuner.spec.arms import arms
from tuner.spec.search_spec import SearchSpec
from tuner.spec.trial_config import SearchSeeds
from tuner.storage.events import JobStateChanged, Outcome, Stage, State
from tuner.storage.journal import Journal

PLAN = Plan(EPOCHS, 10)
ARMS = ("adam_l2", "noam", "adamw", "placebo")
SEED = 5
SPEC = method_spec(f"{PLACEBO}seed: {SEED}\n")
Fault = Callable[[Attempt, int], str | None]


@dataclass
class Listening:
    """A source that notes what it gives."""

    source: SearchesSource
    given: list[TrialRequest] = field(default_factory=list)

    def next(self) -> TrialRequest | None:
        request = self.source.next()
        if request is not None:
            self.given.append(request)
        return request

    def ended(self, request: TrialRequest, outcome: TrialOutcome) -> None:
        self.source.ended(request, outcome)


@dataclass
class Job:
    """The searches of a job up to a look, on made-up learning curves in made-up time; its journal is a real one."""

    journal: Path
    spec: SearchSpec = SPEC
    searches: int = 3
    concurrent: int = 1
    fault: Fault = no_fault
    training: type[SimulatedTraining] = SimulatedTraining

    def run(self) -> list[TrialRequest]:
        """Run what the journal has not yet, as one driver; returns the given requests."""
        reading, clock = read_and_recover(self.journal), Clock()
        record, spec = reading.record, self.spec
        new = Journal(self.journal, record.add, end=reading.end, durable=False, clock=clock)
        with closing(new) as journal:
            if not record.begun:
                journal.append(Searches(spec).record().job)
            journal.append(JobStateChanged("running"))
            found = arms(spec, PLAN)
            listening = Listening(
                SearchesSource(spec, found, PLAN, record, self.searches, concurrent=self.concurrent, clock=clock)
            )
            dispatcher = Dispatcher(
                listening, journal, record, spec.resources, early_stopper=early_stopper(spec, PLAN, record), clock=clock
            )
            simulation = Simulation(PLAN, self.concurrent, clock, self.fault, self.training)
            simulate(dispatcher, simulation, StopRequest())
        return listening.given

    @property
    def record(self) -> Record:
        return load_record(self.journal)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Three searches of three arms and a placebo, with two confirm seeds each, one trial at a time."""
    spec = method_spec(f"{PLACEBO}seed: {SEED}\n", looks="[3, 4, 5], confirm_seeds: 2")
    return Job(tmp_path_factory.mktemp("whole") / "journal.jsonl", spec)


@pytest.fixture(scope="module")
def given(whole: Job) -> list[TrialRequest]:
    """All requests of this job."""
    return whole.run()


def shared(given: list[TrialRequest], search: int, stage: Stage, arm: str) -> tuple[set[int], set[int]]:
    """The seeds of the split and of the trainings of one arm's search or confirm runs."""
    found = [r.image_trial for r in given if (r.search, r.stage, r.arm) == (search, stage, arm)]
    assert found
    return {trial.data.seed for trial in found}, {trial.seed for trial in found}


@pytest.mark.parametrize("search", [1, 2, 3])
def test_all_arms_of_a_search_share_the_split_and_the_seeds(given: list[TrialRequest], search: int) -> None:
    (searched,) = {tuple(map(frozenset, shared(given, search, Stage.SEARCH, arm))) for arm in ARMS}
    (confirmed,) = {tuple(map(frozenset, shared(given, search, Stage.CONFIRM, arm))) for arm in ARMS}
    assert [len(seeds) for seeds in searched] == [1, 1]
    assert [len(seeds) for seeds in confirmed] == [1, 2]
    assert searched[0] == confirmed[0]
    assert not searched[1] & confirmed[1]


def test_two_searches_share_nothing(given: list[TrialRequest]) -> None:
    for stage in (Stage.SEARCH, Stage.CONFIRM):
        found = [shared(given, search, stage, "noam") for search in (1, 2, 3)]
        for one, other in combinations(found, 2):
            assert not one[0] & other[0]
            assert not one[1] & other[1]
        assert all(SEED not in splits | seeds for splits, seeds in found)
    assert len({SearchSeeds.of(SPEC, search).sampler for search in range(10)}) == 10


def test_two_jobs_with_neighbouring_seeds_share_nothing() -> None:
    one, other = (
        {seed for search in range(1, 13) for seed in numbers(SearchSeeds.of(method_spec(f"seed: {job}\n"), search))}
        for job in (1, 2)
    )
    assert len(one) == len(other) == 12 * 4
    assert not one & other


def numbers(seeds: SearchSeeds) -> tuple[int, ...]:
    return seeds.split, seeds.training, seeds.sampler, *seeds.confirm


def knobs(given: list[TrialRequest], arm: str, search: int, number: int) -> dict[str, object]:
    (request,) = [r for r in given if (r.stage, r.arm, r.search, r.number) == (Stage.SEARCH, arm, search, number)]
    return dict(request.knobs)


def test_the_sampler_gives_every_arm_and_every_search_settings_of_their_own(given: list[TrialRequest]) -> None:
    for search in (1, 2, 3):
        assert knobs(given, "placebo", search, 0) == knobs(given, "adam_l2", search, 0) == knobs(given, "adam_l2", 1, 0)
        assert knobs(given, "placebo", search, 1) != knobs(given, "adam_l2", search, 1)
    proposed = [knobs(given, arm, search, 1)["lr"] for arm in ARMS for search in (1, 2, 3)]
    assert len(set(proposed)) == len(proposed)


def test_arms_take_turns_and_a_confirm_run_follows_as_soon_as_a_search_of_an_arm_has_ended(
    given: list[TrialRequest],
) -> None:
    expected: list[tuple[Stage, str, int, int | None]] = []
    for search in (1, 2, 3):
        expected += [(Stage.SEARCH, arm, search, 0) for arm in ARMS]
        for arm in ARMS:
            expected += [(Stage.SEARCH, arm, search, 1), *[(Stage.CONFIRM, arm, search, None)] * 2]
    found = [(r.stage, r.arm, r.search, r.number if r.stage == Stage.SEARCH else None) for r in given]
    assert found == expected


def test_the_winner_of_a_search_is_confirmed_with_its_own_setting(whole: Job, given: list[TrialRequest]) -> None:
    for request in given:
        if request.stage == Stage.CONFIRM:
            winner = search_winner(whole.record, whole.spec, request.arm, request.search)
            assert winner is not None
            assert (request.number, vars(request.image_trial.hyper)) == (winner.number, winner.hyper)
            assert request.trial.seed in SearchSeeds.of(whole.spec, request.search).confirm


def test_a_later_search_begins_while_trials_of_the_one_before_still_run(tmp_path: Path) -> None:
    given = Job(tmp_path / "journal.jsonl", concurrent=3).run()
    searches = [request.search for request in given if request.stage == Stage.SEARCH]
    assert searches == sorted(searches)
    first_of_second = next(i for i, request in enumerate(given) if request.search == 2)
    last_of_first = max(i for i, request in enumerate(given) if request.search == 1)
    assert first_of_second < last_of_first


SMALL = method_spec()


def of_trials(record: Record) -> dict[str, tuple[object, ...]]:
    """What became of every trial."""
    return {key: (t.state, dict(t.hyper), t.seed, t.result, len(t.epochs)) for key, t in record.trials.items()}


@pytest.mark.parametrize("concurrent", [1, 3])
def test_a_restart_from_any_beginning_of_the_journal_gives_nothing_twice_and_loses_nothing(
    tmp_path: Path, concurrent: int
) -> None:
    whole = Job(tmp_path / "whole.jsonl", SMALL, concurrent=concurrent)
    whole.run()
    expected, lines = of_trials(whole.record), whole.journal.read_bytes().splitlines(keepends=True)
    assert len(expected) == 3 * 3 * (TRIALS + 1)
    for count in range(0, len(lines) + 1, 1 if concurrent == 1 else 4):
        torn = Job(tmp_path / f"{count}.jsonl", SMALL, concurrent=concurrent)
        torn.journal.write_bytes(b"".join(lines[:count]))
        ended = {key for key, trial in torn.record.trials.items() if trial.state != State.RUNNING}
        given = Counter(request.key for request in torn.run())
        assert set(given.values()) <= {1}
        assert given.keys() == expected.keys() - ended
        assert of_trials(torn.record) == expected


def test_the_end_of_all_searches_gives_no_more(whole: Job, given: list[TrialRequest]) -> None:
    assert len(given) == 3 * len(ARMS) * (TRIALS + 2)
    assert whole.run() == []


SEARCH_S = 3 * (TRIALS + 1) * EPOCHS * EPOCH_S
"""Least made-up time of one search of three arms; the longest is a fifth longer."""


def hours(searches: float) -> str:
    """A line of the budget with the time of some searches."""
    return f"  max_hours: {searches * SEARCH_S / 3600:.5f}\n"


@pytest.mark.parametrize(("cap", "searches"), [(0.1, 1), (1.5, 1), (2.5, 2), (9.0, 3)])
def test_a_cap_on_the_hours_ends_before_the_next_search(tmp_path: Path, cap: float, searches: int) -> None:
    given = Job(tmp_path / "journal.jsonl", method_spec(budget=hours(cap))).run()
    assert Counter(request.search for request in given) == dict.fromkeys(range(1, searches + 1), 3 * (TRIALS + 1))


@pytest.mark.parametrize("concurrent", [1, 2, 4])
@pytest.mark.parametrize("cap", [0.1, 0.6, 1.5, 2.2])
def test_a_cap_on_the_hours_never_ends_within_a_search(tmp_path: Path, cap: float, concurrent: int) -> None:
    spec = method_spec(budget=hours(cap / concurrent))
    job = Job(tmp_path / "journal.jsonl", spec, concurrent=concurrent)
    searches = sorted({request.search for request in job.run()})
    assert searches[-1] < 3
    for arm in job.record.arms:
        assert all(search_has_ended(job.record, spec, arm, search) for search in searches)
        assert sorted(search_values(job.record, spec, arm)) == searches


def test_a_cap_on_gpu_hours_counts_the_share_of_a_gpu_and_all_trainings(tmp_path: Path) -> None:
    budget = f"  max_gpu_hours: {2.5 * SEARCH_S / 2 / 3600:.5f}\n"
    given = Job(tmp_path / "journal.jsonl", method_spec("resources: {gpus: 0.5}\n", budget)).run()
    assert {request.search for request in given} == {1, 2}


def test_a_search_that_has_begun_is_brought_to_its_end_by_a_later_driver_whatever_the_cap(tmp_path: Path) -> None:
    spec = method_spec(budget=hours(1.5))
    job = Job(tmp_path / "journal.jsonl", spec)
    job.run()
    lines = job.journal.read_bytes().splitlines(keepends=True)
    second = Job(tmp_path / "second.jsonl", method_spec(budget=hours(2.5)))
    second.run()
    begun = second.journal.read_bytes().splitlines(keepends=True)
    begins = next(n for n, line in enumerate(begun) if b'"search/adam_l2/2.0"' in line)
    assert not any(b"/2.0" in line for line in lines)
    # The second search has begun, and its first driver died. This one finds no time for a search.
    torn = Job(tmp_path / "torn.jsonl", spec)
    torn.journal.write_bytes(b"".join(begun[: begins + 2]))
    torn.run()
    assert all(len(search_values(torn.record, spec, arm)) == 2 for arm in torn.record.arms)
    assert not torn.record.of(Stage.SEARCH, search=3)


def extended(spec: SearchSpec, left: float) -> Searches:
    """Searches in which noam was given up at the first look; then an extension with time for some searches."""
    history = Searches(spec)
    history.searched(dict.fromkeys(("adam_l2", "noam", "adamw"), [0.5] * 3))
    history.look(1, 3, {"noam": Outcome.FUTILE, "adamw": Outcome.NOT_ENOUGH})
    history.searched(dict.fromkeys(("adam_l2", "adamw"), [0.5] * 2), first=4)
    history.look(2, 5, {"adamw": Outcome.BEATS})
    one = [trial for trial in history.record().trials.values() if (trial.arm, trial.search) == ("noam", 1)]
    search_s = sum(trial.seconds for trial in one)
    # Each entry of a history takes a second, this one too.
    history.add("extend", extension=1, look=2, until_s=history.record().active_s + 1 + left * search_s)
    return history


@pytest.mark.parametrize(("left", "first"), [(3.9, None), (4.1, ("noam", 4))])
def test_an_arm_that_was_given_up_catches_up_only_if_there_is_time_for_a_new_look(
    left: float, first: tuple[str, int] | None
) -> None:
    spec = method_spec(looks="[3, 5, 9]")
    record = extended(spec, left).record()
    active = [arm for arm in arms(spec, PLAN) if arm.name in ("adam_l2", "noam")]
    # noam lacks the searches 4 and 5, and both arms lack search 6.
    source = SearchesSource(spec, active, PLAN, record, 9, concurrent=1, clock=lambda: 0.0)
    given = source.next()
    assert (given and (given.arm, given.search)) == first


def test_a_search_that_an_arm_has_begun_to_catch_up_is_brought_to_its_end() -> None:
    spec = method_spec(looks="[3, 5, 9]")
    history = extended(spec, 4.1)
    history.trials("noam", 4, [State.COMPLETE, None])
    history.add("extend", extension=2, look=2, until_s=0.0)
    active = [arm for arm in arms(spec, PLAN) if arm.name in ("adam_l2", "noam")]
    source = SearchesSource(spec, active, PLAN, history.record(), 9, concurrent=1, clock=lambda: 0.0)
    given = source.next()
    assert given is not None
    assert (given.arm, given.search, given.number) == ("noam", 4, 1)
    assert source.next() is None


def breaks_noams_first(attempt: Attempt, epoch: int) -> str | None:
    return "it broke" if (attempt.request.arm, attempt.request.number) == ("noam", 0) else None


def test_with_a_cap_on_epochs_each_arm_spends_the_epochs_of_its_search(tmp_path: Path) -> None:
    spec = method_spec(budget=f"  epochs_per_search: {EPOCHS + 1}\n", trials=9)
    job = Job(tmp_path / "journal.jsonl", spec, fault=breaks_noams_first)
    given = job.run()
    # A trial starts while an epoch is left: two trials of two epochs. noam's first trials train nothing.
    count = Counter((r.arm, r.search) for r in given if r.stage == Stage.SEARCH and r.key not in failed(job.record))
    assert set(count.values()) == {2}
    assert len(count) == 3 * 3
    assert len(failed(job.record)) == 3
    for arm in job.record.arms:
        assert sorted(search_values(job.record, spec, arm)) == [1, 2, 3]
    assert job.run() == []


def failed(record: Record) -> list[str]:
    return [key for key, trial in record.trials.items() if trial.state == State.FAILED]


def test_a_restart_under_a_cap_on_epochs_gives_nothing_twice(tmp_path: Path) -> None:
    spec = method_spec(budget=f"  epochs_per_search: {EPOCHS}\n")
    whole = Job(tmp_path / "whole.jsonl", spec)
    whole.run()
    lines = whole.journal.read_bytes().splitlines(keepends=True)
    assert len(whole.record.of(Stage.SEARCH)) == 3 * 3
    for count in range(0, len(lines), 3):
        torn = Job(tmp_path / f"{count}.jsonl", spec)
        torn.journal.write_bytes(b"".join(lines[:count]))
        torn.run()
        assert of_trials(torn.record) == of_trials(whole.record)


ASHA = method_spec(PLACEBO, scheduler="{name: asha, first_rung: 1, reduction_factor: 2}", trials=4)


def request_of(spec: SearchSpec, record: Record, search: int, arm: str) -> TrialRequest:
    """The next trial of an arm in one search."""
    source = SearchSource(spec, arms(spec, PLAN), PLAN, record, search=search, concurrent=1, clock=lambda: 0.0)
    return next(request for request in iter(source.next, None) if request.arm == arm)


@pytest.mark.parametrize(("search", "arm", "stops"), [(1, "adamw", True), (2, "adamw", False), (1, "placebo", False)])
def test_the_early_stopper_compares_a_trial_with_its_own_search_and_arm_only(
    search: int, arm: str, stops: bool
) -> None:
    spec = ASHA
    history = Searches(spec)
    for number in (0, 1):
        history.trained(f"search/adamw/1.{number}", "adamw", 1, number, vals=(0.9, 0.9))
    record = history.record()
    stopper, request = early_stopper(spec, PLAN, record), request_of(spec, record, search, arm)
    assert stopper is not None
    assert request.judged is not None
    assert request.key == f"search/{arm}/{search}.{2 if stops else 0}"
    assert stopper.stops(request.judged, 1, 0.1) == stops


TWO_SEEDS = method_spec(looks="[3, 4, 5], confirm_seeds: 2")
LOST_TO_MACHINES = (State.FAILED, State.OOM)


def unit(*tests: float | State | None, states: tuple[State | None, ...] | None = None) -> float | None:
    """The unit of noam's first search: its trials end in ``states``, and its confirm runs in ``tests``."""
    history = Searches(TWO_SEEDS)
    history.trials("noam", 1, states or (State.COMPLETE, State.COMPLETE))
    if tests:
        history.confirmed("noam", 1, tests)
    return search_values(history.record(), TWO_SEEDS, "noam").get(1)


def test_a_unit_is_the_mean_test_accuracy_over_the_confirm_seeds_of_the_search() -> None:
    assert unit(0.7, 0.8) == pytest.approx(0.75)


def test_a_confirm_run_that_diverges_counts_as_chance() -> None:
    assert unit(0.7, State.DIVERGED) == pytest.approx((0.7 + CHANCE) / 2)
    assert unit(State.DIVERGED, State.DIVERGED) == pytest.approx(CHANCE)


@pytest.mark.parametrize("lost", [*LOST_TO_MACHINES, None])
def test_a_search_that_lost_a_confirm_run_or_still_waits_for_one_is_missing(lost: State | None) -> None:
    assert unit(0.7, lost) is None
    assert unit(lost, State.DIVERGED) is None


@pytest.mark.parametrize("states", [(State.DIVERGED, State.DIVERGED), (State.DIVERGED, State.PRUNED)])
def test_a_search_that_diverged_to_its_end_counts_as_chance(states: tuple[State, ...]) -> None:
    assert unit(states=states) == pytest.approx(CHANCE)


@pytest.mark.parametrize("lost", LOST_TO_MACHINES)
def test_a_search_without_a_winner_because_of_a_machine_is_missing(lost: State) -> None:
    assert unit(states=(lost, lost)) is None
    assert unit(states=(State.DIVERGED, lost)) is None


def test_a_search_that_has_not_ended_is_missing() -> None:
    assert unit(states=(State.DIVERGED, None)) is None
    assert unit(states=(State.DIVERGED,)) is None
    assert unit(0.7, 0.8, states=(State.COMPLETE, None)) is None


def test_a_search_with_one_complete_trial_has_its_winner_whatever_became_of_the_others() -> None:
    assert unit(0.7, 0.8, states=(State.COMPLETE, State.FAILED)) == pytest.approx(0.75)


class Diverges(SimulatedTraining):
    """The trainings of two searches of noam are nan from the start; of one search, only its confirm run."""

    def __init__(self, config: TrialConfig, plan: Plan) -> None:
        super().__init__(config, plan)
        seeds = {search: SearchSeeds.of(SMALL, search) for search in (1, 2, 3)}
        unstable = {seeds[1].training, seeds[2].training, *seeds[3].confirm}
        self._diverges = config.seed in unstable and config.hyper.schedule == "noam"

    def report(self, epoch: int) -> EpochReport:
        found = super().report(epoch)
        if not self._diverges:
            return found
        return replace(found, train_loss=math.nan, diverged="training loss is nan")


def test_in_a_whole_job_an_unstable_arm_has_a_unit_for_every_search(tmp_path: Path) -> None:
    job = Job(tmp_path / "journal.jsonl", SMALL, training=Diverges)
    job.run()
    found = search_values(job.record, SMALL, "noam")
    assert found == pytest.approx({1: CHANCE, 2: CHANCE, 3: CHANCE})
    assert not job.record.of(Stage.CONFIRM, "noam", search=1)
    assert min(search_values(job.record, SMALL, "adamw").values()) > 2 * CHANCE


def loses_confirm_runs(attempt: Attempt, epoch: int) -> str | None:
    request = attempt.request
    return "it broke" if (request.stage, request.arm, request.search) == (Stage.CONFIRM, "adamw", 2) else None


def test_in_a_whole_job_a_search_that_a_machine_lost_is_missing_for_its_arm_only(tmp_path: Path) -> None:
    job = Job(tmp_path / "journal.jsonl", SMALL, fault=loses_confirm_runs)
    job.run()
    found = {arm: sorted(search_values(job.record, SMALL, arm)) for arm in job.record.arms}
    assert found == {"adam_l2": [1, 2, 3], "noam": [1, 2, 3], "adamw": [1, 3]}


def test_of_an_arm_only_the_winners_of_its_searches_may_become_its_best_setting() -> None:
    history = Searches(SMALL)
    for search, val in enumerate((0.5, 0.9, 0.7, 0.6), start=1):
        history.trials("noam", search, val=val)
    found = candidates(history.record(), SMALL, "noam")
    assert [trial.label for trial in found] == ["2.1", "3.1", "4.1"]


def test_results_of_other_stages_are_no_units() -> None:
    history = Searches(SMALL)
    history.searched({"noam": [0.7]})
    history.trained("confirm/round/noam/1/77", "noam", 1, 1, seed=77, test=0.1, round_number=1)
    assert search_values(history.record(), SMALL, "noam") == pytest.approx({1: 0.7})
