"""A whole job about methods on made-up learning curves: it ends, and whatever kills it, it ends the same way."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tuner.method_jobs import EPOCHS, PLACEBO, TRIALS, method_spec
from tests.tuner.spec_texts import more, spec_of
from trainables.report import ConfirmResult
from trainables.simulated import EPOCH_S, SimulatedTraining
from tuner.driver.context import Context
from tuner.driver.driver import Extension, NewRound, drive
from tuner.errors import Interrupted, SearchFailed, SpecError
from tuner.execution.dispatcher import Attempt
from tuner.execution.simulator import Simulation
from tuner.jobs.follower import Follower, Pace
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.record import Record
from tuner.jobs.request import new_job, next_extension, next_round
from tuner.jobs.stop import StopRequest
from tuner.jobs.workspace import Workspace
from tuner.monitor.event_log import log_lines
from tuner.monitor.terminal import Quiet
from tuner.search.winners import search_values
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import JobStateChanged, LookTaken, Outcome, RoundBegun, Stage, State
from tuner.storage.journal import read
from tuner.verdict.method import standings
from tuner.verdict.ranking import JobResults, build

ARMS = ("adam_l2", "noam", "adamw", "placebo")
SETTINGS = "resources: {concurrent: 1, retries: 0}\nconfirm: {margin: 0}\nseed: 1\n"
SPEC = method_spec(PLACEBO + SETTINGS, looks="[3, 6, 9]")
"""With this seed the job takes all its looks: one arm is given up at the second, and one is open to the end."""


class Untracked:
    """In place of MLflow, whose store takes seconds to make."""

    def __init__(self, *_: object) -> None:
        self.follower = Follower("nothing", lambda: None, Pace(0.0, 1.0, 1.0, 1.0))

    def finish(self, call: object) -> None:
        """Nothing is sent."""


def unpublished(results: JobResults) -> dict[str, Path]:
    """In place of the report, which is tested elsewhere: only the summary that a driver reads."""
    results.folder.summary.write_text("made up")
    return {}


@pytest.fixture(autouse=True)
def nothing_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.driver.session.BackgroundSync", Untracked)
    monkeypatch.setattr("tuner.driver.session.publish", unpublished)


class Announced(Quiet):
    """Keeps what a driver announces."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def announce(self, text: str) -> None:
        self.texts.append(text)


class Job:
    """A simulated job, driven in this process.

    Args:
        root: folder of its workspace.
        spec: its spec.
        journal: the beginning of a journal that an earlier driver left.
    """

    def __init__(self, root: Path, spec: SearchSpec = SPEC, journal: bytes = b"") -> None:
        self.workspace = Workspace(root)
        self.folder: JobFolder = new_job(self.workspace, spec, "", root, simulate=True)
        self.spec = spec
        self.view = Announced()
        if journal:
            self.folder.journal.write_bytes(journal)

    def drive(self, more: NewRound | Extension | None = None, stop: StopRequest | None = None) -> Record:
        """One driver does what is left."""
        stop = StopRequest() if stop is None else stop
        context = Context(self.workspace, self.folder, self.folder.path, self.view, stop)
        drive(context, more=more)
        return self.record

    @property
    def record(self) -> Record:
        return self.folder.record()

    @property
    def lines(self) -> list[bytes]:
        return self.folder.journal.read_bytes().splitlines(keepends=True)

    def found(self) -> Mapping[str, Any]:
        """What the job has found: looks, units, verdicts, the winner and its confirm runs."""
        record, spec = self.record, self.spec
        board = build(record, spec)
        return {
            "looks": record.looks,
            "units": {arm: search_values(record, spec, arm) for arm in record.arms},
            "standings": standings(record, spec),
            "rounds": record.rounds,
            "best": board.best(),
            "results": {trial.key: trial.result for trial in record.of(Stage.CONFIRM)},
            "settings": {trial.key: dict(trial.hyper) for trial in record.of(Stage.SEARCH)},
        }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that nothing befell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuner.driver.session.BackgroundSync", Untracked)
        patch.setattr("tuner.driver.session.publish", unpublished)
        job = Job(tmp_path_factory.mktemp("whole"))
        job.drive()
    return job


def test_a_job_about_methods_runs_to_its_end(whole: Job) -> None:
    record = whole.record
    assert record.state == "finished"
    assert [text.split(",")[0] for text in whole.view.texts[-3:]] == ["look 1", "look 2", "look 3"]
    assert record.arms == ARMS
    assert {trial.state for trial in record.trials.values()} == {State.COMPLETE}
    assert len(record.rounds) == 1
    (arm,) = record.rounds[0].winners
    assert arm == build(record, SPEC).best() != "placebo"
    # Three winners of searches are ranked again on three seeds; the first is trained on five fresh ones.
    assert len(record.of(Stage.SELECT)) == 3 * 3
    assert len(record.of(Stage.CONFIRM, round_number=1)) == 5
    assert len(record.rounds[0].seeds) == 5


def test_every_look_is_taken_once_and_before_the_searches_of_the_next(whole: Job) -> None:
    events = [entry.event for entry in read(whole.folder.journal)]
    looks = [event for event in events if isinstance(event, LookTaken)]
    assert [look.look for look in looks] == list(range(1, len(looks) + 1))
    assert [look.searches for look in looks] == [3, 6, 9]
    done = 0
    for event in events:
        if isinstance(event, LookTaken):
            done = event.searches
        elif getattr(event, "stage", None) == Stage.SEARCH:
            assert done < event.search  # type: ignore[union-attr]
    kinds = [type(event) for event in events]
    assert max(n for n, kind in enumerate(kinds) if kind is LookTaken) < kinds.index(RoundBegun)


def test_every_arm_has_the_searches_up_to_the_look_that_settled_it(whole: Job) -> None:
    record, settled_at = whole.record, dict[str, int]()
    for look in record.looks:
        settled_at |= {arm: look.searches for arm, outcome in look.outcomes.items() if outcome != Outcome.NOT_ENOUGH}
    last = record.looks[-1].searches
    assert len(settled_at) == 1
    assert settled_at["adamw"] == 6
    for arm in ARMS:
        expected = last if arm in ("adam_l2", "placebo") else settled_at.get(arm, last)
        assert sorted(search_values(record, SPEC, arm)) == list(range(1, expected + 1))
        assert len(record.of(Stage.SEARCH, arm)) == TRIALS * expected


def places(lines: list[bytes]) -> list[int]:
    """Twelve places at which a driver dies: evenly spread, and around each look and the round."""
    told = [n for n, line in enumerate(lines) if b'"kind": "look"' in line or b'"kind": "confirm"' in line]
    around = [n + more for n in told for more in (0, 1)]
    even = [len(lines) * part // 7 for part in range(7)]
    return sorted({*even, *around, len(lines) - 1})


def test_a_job_that_is_killed_anywhere_finds_the_same(tmp_path: Path, whole: Job) -> None:
    lines, expected = whole.lines, whole.found()
    assert len(places(lines)) >= 12
    for place in places(lines):
        torn = Job(tmp_path / str(place), journal=b"".join(lines[:place]))
        record = torn.drive()
        assert record.state == "finished", place
        assert torn.found() == expected, place
        begun = Counter(entry.to_json()["trial"] for entry in read(torn.folder.journal) if entry.event.kind == "trial")
        assert set(begun.values()) == {1}, place


def test_a_line_that_was_torn_is_written_again(tmp_path: Path, whole: Job) -> None:
    lines = whole.lines
    look = next(n for n, line in enumerate(lines) if b'"kind": "look"' in line)
    torn = Job(tmp_path, journal=b"".join(lines[:look]) + lines[look][:25])
    assert torn.drive().looks == whole.record.looks


class StopsAfter(StopRequest):
    """Asks the driver to stop after some questions whether it should."""

    def __init__(self, questions: int) -> None:
        super().__init__()
        self._left = questions

    def __bool__(self) -> bool:
        self._left -= 1
        if self._left == 0:
            self.ask()
        return super().__bool__()


def test_a_job_that_is_stopped_again_and_again_takes_no_look_too_early(tmp_path: Path, whole: Job) -> None:
    job = Job(tmp_path)
    for questions in (5, 40, 60, 53, 1, 30):
        with pytest.raises(Interrupted):
            job.drive(stop=StopsAfter(questions))
        assert job.record.state == "interrupted"
        assert job.record.looks == whole.record.looks[: len(job.record.looks)]
    job.drive()
    assert job.found() == whole.found()
    states = [entry.event.state for entry in read(job.folder.journal) if isinstance(entry.event, JobStateChanged)]
    assert states == ["running", "interrupted"] * 6 + ["running", "finished"]


def test_a_later_round_confirms_every_arm_and_changes_no_verdict(tmp_path: Path, whole: Job) -> None:
    job = Job(tmp_path, journal=b"".join(whole.lines))
    before = job.found()
    record = job.drive(NewRound(2, 4))
    assert set(record.rounds[1].winners) == set(ARMS)
    assert not set(record.rounds[0].seeds) & set(record.rounds[1].seeds)
    assert len(record.of(Stage.CONFIRM, round_number=2)) == 4 * len(ARMS)
    after = job.found()
    for what in ("looks", "units", "standings", "best"):
        assert after[what] == before[what]
    board = build(record, SPEC)
    assert (board.round, {row.confirmed for row in board.rows}) == (2, {4})


def hours(searches: float) -> str:
    """A line of the budget: the made-up time of some searches of four arms. An epoch takes up to a fifth longer."""
    return f"  max_hours: {searches * 4 * (TRIALS + 1) * EPOCHS * 1.1 * EPOCH_S / 3600:.5f}\n"


CAPPED = method_spec(PLACEBO + SETTINGS, hours(4.6), looks="[3, 6, 9]")


def test_a_cap_on_the_hours_counts_over_looks_and_the_look_after_it_is_the_last(tmp_path: Path) -> None:
    job = Job(tmp_path / "capped", CAPPED)
    record = job.drive()
    assert record.state == "finished"
    assert [look.searches for look in record.looks] == [3, 4]
    expected = "the time is spent: the verdict rests on 4 searches per arm; search further with: tuner extend "
    assert job.view.texts[-1] == expected + job.folder.id
    assert max(trial.search for trial in record.of(Stage.SEARCH)) == 4
    assert Outcome.NOT_ENOUGH in record.looks[-1].outcomes.values()
    for place in range(0, len(job.lines), 25):
        torn = Job(tmp_path / str(place), CAPPED, journal=b"".join(job.lines[:place]))
        assert torn.drive().looks == record.looks, place


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job whose time ended after four searches, and which was then extended without a cap."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuner.driver.session.BackgroundSync", Untracked)
        patch.setattr("tuner.driver.session.publish", unpublished)
        job = Job(tmp_path_factory.mktemp("extended"), CAPPED)
        job.drive()
        job.drive(Extension(next_extension(job.folder), None))
    return job


def test_an_extension_searches_to_the_looks_that_are_left(extended: Job, whole: Job) -> None:
    record = extended.record
    assert record.state == "finished"
    assert [look.searches for look in record.looks] == [3, 4, 6, 9]
    # The same searches give the same units, whenever the looks are.
    for arm, units in extended.found()["units"].items():
        others = whole.found()["units"][arm]
        assert {search: units[search] for search in units.keys() & others.keys()} == {
            search: others[search] for search in units.keys() & others.keys()
        }
    assert [confirm_round.round for confirm_round in record.rounds] == [1, 2]
    assert len(record.rounds[1].winners) == 1
    assert not set(record.rounds[0].seeds) & set(record.rounds[1].seeds)
    assert "extension 1: searches further" in [
        line.split(" ", 2)[2] for line in log_lines(extended.folder, follow=False)
    ]


def test_an_extension_spends_only_what_is_left_of_alpha(extended: Job) -> None:
    plan = method_spec(PLACEBO + SETTINGS, looks="[3, 4, 6, 9]")
    for arm, standing in standings(extended.record, CAPPED).items():
        planned = standings(extended.record, plan)[arm]
        assert standing.level == pytest.approx(planned.level)


def test_an_extended_job_that_is_killed_anywhere_finds_the_same(tmp_path: Path, extended: Job) -> None:
    lines, expected = extended.lines, extended.found()
    begins = next(n for n, line in enumerate(lines) if b'"kind": "extend"' in line)
    for place in range(begins + 1, len(lines), (len(lines) - begins) // 6):
        torn = Job(tmp_path / str(place), CAPPED, journal=b"".join(lines[:place]))
        assert torn.drive().state == "finished", place
        assert torn.found() == expected, place
        assert len(torn.record.extensions) == 1


def test_a_driver_that_died_before_the_extension_was_written_leaves_it_to_the_next(
    tmp_path: Path, extended: Job
) -> None:
    lines = extended.lines
    begins = next(n for n, line in enumerate(lines) if b'"kind": "extend"' in line)
    torn = Job(tmp_path, CAPPED, journal=b"".join(lines[:begins]))
    torn.drive(Extension(1, None))
    torn.drive(Extension(1, None))
    assert torn.found() == extended.found()
    assert len(torn.record.extensions) == 1


def test_an_extension_with_hours_ends_where_they_end_and_can_be_extended_again(tmp_path: Path) -> None:
    job = Job(tmp_path, CAPPED)
    job.drive()
    one_search_h = 4 * (TRIALS + 1) * EPOCHS * 1.1 * EPOCH_S / 3600
    job.drive(Extension(1, 1.6 * one_search_h))
    assert [look.searches for look in job.record.looks] == [3, 4, 5]
    job.drive(Extension(next_extension(job.folder), None))
    assert [look.searches for look in job.record.looks] == [3, 4, 5, 6, 9]
    with pytest.raises(SpecError, match="has had its last look, after 9 searches per arm"):
        next_extension(job.folder)


def test_an_extension_without_time_for_a_search_changes_nothing(tmp_path: Path) -> None:
    job = Job(tmp_path, CAPPED)
    job.drive()
    before = job.found()
    runs = len(job.record.trials)
    record = job.drive(Extension(1, 1e-6))
    assert job.found() == before
    assert (len(record.trials), record.searching, record.state) == (runs, False, "finished")
    # The job can still be confirmed, and extended.
    assert next_round(job.folder) == 2
    assert job.drive(Extension(next_extension(job.folder), None)).looks[-1].searches == 9


def test_time_that_ends_at_a_planned_look_is_told_too(tmp_path: Path) -> None:
    job = Job(tmp_path, method_spec(PLACEBO + SETTINGS, hours(3.6), looks="[3, 6, 9]"))
    assert [look.searches for look in job.drive().looks] == [3]
    assert job.view.texts[-1].startswith("the time is spent: the verdict rests on 3 searches per arm; search further")


def test_a_job_whose_looks_are_all_taken_does_not_speak_of_time(whole: Job) -> None:
    assert not any("time is spent" in text for text in whole.view.texts)


def test_an_interrupted_extension_is_resumed_and_not_confirmed(tmp_path: Path, extended: Job) -> None:
    job = Job(tmp_path, CAPPED)
    job.drive()
    with pytest.raises(Interrupted):
        job.drive(Extension(1, None), StopsAfter(20))
    for refused in (next_round, next_extension):
        with pytest.raises(SpecError, match=f"to end it: tuner resume {job.folder.id}"):
            refused(job.folder)
    job.drive()
    assert job.found() == extended.found()


def made_up(kind: type[SimulatedTraining]) -> Callable[..., SimulatedTraining]:
    """What a simulation makes its trainings with."""
    return lambda config, plan, maximize: kind(config, plan)


class EveryArmIsEqual(SimulatedTraining):
    """Test accuracies that depend on nothing but luck."""

    def test(self) -> ConfirmResult:
        luck = np.random.default_rng([*f"a {self.config.hyper} {self.config.seed}".encode()])
        return replace(super().test(), test_acc=float(luck.uniform(0.4, 0.6)))


def test_an_extension_searches_the_arms_again_that_were_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.driver.backend.simulated", made_up(EveryArmIsEqual))
    spec = method_spec(SETTINGS, looks="[3, 4, 9]")
    job = Job(tmp_path, spec)
    before = job.drive()
    given_up = {arm for arm, outcome in before.settled().items() if outcome == Outcome.FUTILE}
    assert given_up == {"noam", "adamw"}
    assert before.looks[-1].searches < 9
    record = job.drive(Extension(next_extension(job.folder), None))
    assert record.looks[-1].searches == 9
    assert {arm: set(units) for arm, units in job.found()["units"].items()} == {
        arm: set(range(1, 10)) for arm in record.arms
    }
    assert {arm: standing.n for arm, standing in job.found()["standings"].items()} == dict.fromkeys(given_up, 9)
    assert record.looks[: len(before.looks)] == before.looks


def test_a_job_that_is_settled_or_about_settings_is_not_extended(tmp_path: Path, whole: Job) -> None:
    with pytest.raises(SpecError, match="has had its last look, after 9 searches per arm"):
        next_extension(whole.folder)
    setting = Job(tmp_path, spec_of(more("confirm: {seeds: 3}\nsampler: random\n")))
    setting.drive()
    with pytest.raises(SpecError, match="has claim: setting"):
        next_extension(setting.folder)


def test_a_cap_before_the_third_search_gives_no_verdict_and_says_why(tmp_path: Path) -> None:
    job = Job(tmp_path, method_spec(PLACEBO + SETTINGS, hours(1.5)))
    with pytest.raises(SearchFailed, match="no arm has 3 searches to compare with the baseline's"):
        job.drive()
    assert (job.record.state, job.record.looks) == ("failed", [])
    record = job.drive(Extension(next_extension(job.folder), None))
    assert (record.state, record.looks[0].searches) == ("finished", 3)


def fails_confirm_runs_of_noam(attempt: Attempt, epoch: int) -> str | None:
    request = attempt.request
    return "it broke" if (request.stage, request.arm, request.search) == (Stage.CONFIRM, "noam", 2) else None


def test_a_lost_search_is_left_out_of_the_look_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    breaking = partial(Simulation, fault=fails_confirm_runs_of_noam)
    monkeypatch.setattr("tuner.driver.backend.Simulation", breaking)
    job = Job(tmp_path)
    record = job.drive()
    board = build(record, SPEC)
    noam = next(row for row in board.rows if row.arm == "noam")
    assert 2 not in noam.tests
    assert any("searches were lost to failures (noam 1 of" in warning for warning in board.warnings)
    assert standings(record, SPEC)["noam"].n == len(noam.tests)
    assert noam.tests


class NoamIsBetter(SimulatedTraining):
    """Every training of noam ends five points better on the test images."""

    def test(self) -> ConfirmResult:
        found = super().test()
        better = 0.05 if self.config.hyper.schedule == "noam" else 0.0
        return replace(found, test_acc=found.test_acc + better)


def test_an_arm_that_is_better_beats_the_baseline_and_its_best_setting_is_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.driver.backend.simulated", made_up(NoamIsBetter))
    job = Job(tmp_path)
    record = job.drive()
    board = build(record, SPEC)
    assert record.settled()["noam"] == Outcome.BEATS
    assert (board.beaten, board.best()) == (("noam",), "noam")
    assert set(record.rounds[0].winners) == {"noam"}
    settled = next(look.searches for look in record.looks if look.outcomes.get("noam") == Outcome.BEATS)
    assert settled < SPEC.looks[-1]
    assert max(trial.search for trial in record.of(Stage.SEARCH, "noam")) == settled
    assert {trial.search for trial in record.of(Stage.SELECT)} <= set(range(1, settled + 1))


def test_the_log_has_a_line_for_every_look_and_names_the_best_setting(whole: Job) -> None:
    lines = [line.split(" ", 2)[2] for line in log_lines(whole.folder, follow=False)]
    looks = [line for line in lines if line.startswith("look ")]
    expected = []
    for look in whole.record.looks:
        outcomes = ", ".join(f"{arm} {outcome.value}" for arm, outcome in look.outcomes.items())
        expected.append(f"look {look.look}, after {look.searches} searches per arm: {outcomes}")
    assert looks == expected
    (begun,) = [line for line in lines if line.startswith("round 1 of confirm runs")]
    ((arm, number),) = whole.record.rounds[0].winners.items()
    search = whole.record.rounds[0].searches[arm]
    assert begun.endswith(f"5 seeds; winners: {arm} {search}.{number}")


def test_a_job_with_one_trial_at_a_time_and_one_with_three_find_units_for_the_same_searches(tmp_path: Path) -> None:
    def units(concurrent: int) -> dict[str, list[int]]:
        settings = SETTINGS.replace("concurrent: 1", f"concurrent: {concurrent}")
        spec = method_spec(PLACEBO + settings, looks="[3, 6, 9]")
        record = Job(tmp_path / str(concurrent), spec).drive()
        assert record.state == "finished"
        return {arm: sorted(search_values(record, spec, arm)) for arm in record.arms}

    # Random settings do not depend on the order of the trials.
    assert units(1) == units(3)
