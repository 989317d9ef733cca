"""The arms' studies: settings there and back, seeded asks, and storages that are away, damaged or cannot be opened."""

import math
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache, wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import TrialState
from scipy.stats import qmc

from tests.tuner.whole_jobs import ROOT
from trainables.space import Choice, Domain, Float, Int, Plan, Scalar
from tuner.errors import ServiceError
from tuner.search.distributions import from_search, to_search
from tuner.search.samplers import SAMPLERS
from tuner.search.study import ArmStudy, Proposal, RecordedTrial
from tuner.search.study_database import open_storage, set_aside_if_damaged
from tuner.spec.arms import Arm, arms
from tuner.spec.search_spec import from_dict
from tuner.spec.settings import SamplerSpec
from tuner.storage.events import State

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SPACE: Mapping[str, Domain] = {
    "lr": Float(1e-4, 1e-2, "log"),
    "beta2": Float(0.9, 0.9999, "one-minus-log"),
    "beta1": Float(0.5, 0.95),
    "warmup": Int(10, 1000, "log"),
    "restarts": Choice(("1x2", "2x1", "3x1")),
    "amsgrad": Choice((True, False)),
}
DEFAULT: Mapping[str, Scalar] = {
    "lr": 1e-3,
    "beta2": 0.999,
    "beta1": 0.9,
    "warmup": 100,
    "restarts": "2x1",
    "amsgrad": False,
}
NUMBERS = ("lr", "beta2", "beta1", "warmup")
ASKS = 4
"""Three at random, then one that gp, which takes a second an ask, has learnt for."""


def arm_of(sampler: str, name: str = "arm") -> Arm:
    """An arm with every kind of domain that the sampler can search."""
    knobs = [knob for knob in SPACE if sampler != "cmaes" or knob in NUMBERS]
    return Arm(name, "adam_l2", {k: SPACE[k] for k in knobs}, {}, {k: DEFAULT[k] for k in knobs})


def study_of(storage: BaseStorage, sampler: str, seed: int = 0, arm: Arm | None = None, trials: int = ASKS) -> ArmStudy:
    spec = SamplerSpec.model_validate({"name": sampler})
    return ArmStudy(storage, "job", arm or arm_of(sampler), spec, seed, trials, maximize=True)


@cache
def empty_database() -> bytes:
    """A studies' database with its tables: to make them takes as long as a search."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "studies.db"
        storage = open_storage(f"sqlite:///{path}")
        assert isinstance(storage, RDBStorage)
        storage.engine.dispose()
        return path.read_bytes()


def in_file(path: Path) -> RDBStorage:
    """Studies in a file, made if it is not there; it would not outlast a cut of power."""
    if not path.exists():
        path.write_bytes(empty_database())
    storage = open_storage(f"sqlite:///{path}", durable=False)
    assert isinstance(storage, RDBStorage)
    return storage


def score(knobs: Mapping[str, Scalar]) -> float:
    return 1 - abs(float(knobs["lr"]) - 0.005)


def ask_and_tell(study: ArmStudy, count: int) -> list[Mapping[str, Scalar]]:
    found = []
    for _ in range(count):
        asked = study.ask()
        study.tell(asked.number, State.COMPLETE, [(1, 0.1), (2, score(asked.knobs))])
        found.append(asked.knobs)
    return found


@given(beta2=st.floats(0.9, 0.9999), rest=st.floats(1e-4, 1e-2))
def test_one_minus_log_goes_there_and_back(beta2: float, rest: float) -> None:
    space = {"lr": SPACE["lr"], "beta2": SPACE["beta2"]}
    there = to_search(space, {"lr": rest, "beta2": beta2})
    assert there == {"lr": rest, "one_minus_beta2": 1 - beta2}
    assert from_search(space, there) == {"lr": rest, "beta2": pytest.approx(beta2, rel=1e-15)}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_arms_default_comes_first_whole(sampler: str) -> None:
    study = study_of(InMemoryStorage(), sampler)
    asked = study.ask()
    assert asked.number == 0
    assert asked.knobs == {knob: pytest.approx(DEFAULT[knob]) for knob in study.arm.space}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_setting_lies_in_its_space_and_has_its_type(sampler: str) -> None:
    study = study_of(InMemoryStorage(), sampler)
    for knobs in ask_and_tell(study, ASKS):
        assert list(knobs) == list(study.arm.space)
        for knob, domain in study.arm.space.items():
            assert domain.contains(knobs[knob]), (knob, knobs[knob])
            assert type(knobs[knob]) is type(DEFAULT[knob])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_history_gives_the_same_ask(sampler: str) -> None:
    first, second = InMemoryStorage(), InMemoryStorage()
    ours, theirs = study_of(first, sampler), study_of(second, sampler)
    assert ask_and_tell(ours, ASKS) == ask_and_tell(theirs, ASKS)
    # A study opened again knows as much as one that was never closed.
    assert study_of(first, sampler).ask() == theirs.ask()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_another_seed_or_arm_gives_other_asks(sampler: str) -> None:
    def second_setting(seed: int, name: str) -> Mapping[str, Scalar]:
        return ask_and_tell(study_of(InMemoryStorage(), sampler, seed, arm_of(sampler, name)), 2)[1]

    assert second_setting(0, "arm") != second_setting(1, "arm")
    assert second_setting(0, "arm") != second_setting(0, "other")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_settings_asked_for_at_once_differ(sampler: str) -> None:
    study = study_of(InMemoryStorage(), sampler)
    asked = [study.ask().knobs for _ in range(6)]
    assert len({tuple(knobs.values()) for knobs in asked}) == 6


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_settings_differ_even_if_all_trials_fail(sampler: str) -> None:
    study = study_of(InMemoryStorage(), sampler)
    seen = set()
    for _ in range(6):
        asked = study.ask()
        study.tell(asked.number, State.FAILED, [])
        seen.add(tuple(asked.knobs.values()))
    assert len(seen) == 6


def test_qmc_spreads_its_points_more_evenly_than_chance() -> None:
    arm = Arm("arm", "adam_l2", {"beta1": Float(0.0, 0.9), "eps": Float(0.0, 1.0)}, {}, {"beta1": 0.5, "eps": 0.5})

    def discrepancy(sampler: str) -> float:
        study = study_of(InMemoryStorage(), sampler, arm=arm, trials=33)
        points = []
        for _ in range(33):
            asked = study.ask()
            study.tell(asked.number, State.COMPLETE, [(1, 0.5)])
            points.append((float(asked.knobs["beta1"]) / 0.9, float(asked.knobs["eps"])))
        assert len(set(points)) == 33
        return float(qmc.discrepancy(points[1:]))

    assert discrepancy("qmc") < 0.3 * discrepancy("random")


def test_a_search_learns() -> None:
    tried = ask_and_tell(study_of(InMemoryStorage(), "tpe", trials=30), 30)
    scores = [score(knobs) for knobs in tried]
    assert sum(scores[20:]) / 10 > sum(scores[:10]) / 10


def test_a_study_kept_in_a_file_is_opened_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    ask_and_tell(study_of(open_storage(url), "tpe"), 2)
    again = study_of(open_storage(url), "tpe")
    assert again.ask().number == 2
    assert optuna.get_all_study_names(url) == ["job/arm"]


def test_a_study_that_died_before_its_first_trial_starts_with_the_default() -> None:
    storage = InMemoryStorage()
    study_of(storage, "random")
    again, fresh = study_of(storage, "random"), study_of(InMemoryStorage(), "random")
    assert ask_and_tell(again, 3) == ask_and_tell(fresh, 3)


@pytest.mark.parametrize("variant", ["adam_l2", "amsgrad", "noam", "adamw_restarts"])
def test_the_built_in_spaces_can_be_searched(variant: str) -> None:
    spec = from_dict(
        {
            "name": "job",
            "data": {"name": "digits"},
            "model": {"name": "elu_net"},
            "baseline": "adam_l2",
            "arms": ["adam_l2", "amsgrad", "noam", "adamw_restarts"],
            "budget": {"trials": 4, "epochs": 12},
        }
    )
    arm = next(arm for arm in arms(spec, Plan(12, 10)) if arm.name == variant)
    for knobs in ask_and_tell(study_of(InMemoryStorage(), "tpe", arm=arm), 4):
        arm.hyper(knobs)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:s3cret@127.0.0.1:1/studies",
        "nosuchdb://me:s3cret@127.0.0.1:1/studies",
        "sqlite:////no/such/folder/studies.db",
        "no url at all",
    ],
)
def test_a_storage_that_cannot_be_opened_is_named_without_its_password(url: str) -> None:
    with pytest.raises(ServiceError, match="cannot open the studies' database") as caught:
        open_storage(url)
    message = str(caught.value)
    assert "s3cret" not in message
    assert url.rpartition("@")[2] in message
    assert "\n" not in message


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "studies.db"
    file.write_text("not a database, but long enough to be taken for one " * 20)
    with pytest.raises(ServiceError, match=r"studies\.db"):
        open_storage(f"sqlite:///{file}")


ENDS = (State.COMPLETE, State.PRUNED, State.DIVERGED, State.FAILED, State.OOM)
REPORTS = [(1, 0.1), (2, 0.3)]


def told_all(study: ArmStudy, running: int = 1) -> list[RecordedTrial]:
    """What is on record once a trial has ended in every way, and some still run."""
    past = []
    for state in (*ENDS, *[State.RUNNING] * running):
        asked = study.ask()
        if state != State.RUNNING:
            study.tell(asked.number, state, REPORTS)
        past.append(RecordedTrial(asked.knobs, state, REPORTS))
    return past


def seen(storage: BaseStorage | str) -> list[tuple[Any, ...]]:
    """All that the study knows of its trials."""
    trials = optuna.load_study(study_name="job/arm", storage=storage).trials
    return [(t.number, t.state, t.value, dict(t.intermediate_values), knobs_of(t.params)) for t in trials]


def knobs_of(params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    arm = arm_of("random")
    return from_search(arm.space, params) if len(params) == len(arm.space) else params


def test_told_again_a_trial_stays_as_it_was_told_first() -> None:
    study = study_of(storage := InMemoryStorage(), "random")
    told_all(study)
    before = seen(storage)
    for number, state in enumerate(reversed(ENDS)):
        study.tell(number, state, [(1, 0.9)])
    assert seen(storage) == before


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"gp"}))
@pytest.mark.parametrize("told", [0, 1, ASKS - 1])
def test_an_ask_that_was_not_written_is_made_again_and_comes_to_the_same(
    tmp_path: Path, sampler: str, told: int
) -> None:
    storage = in_file(tmp_path / "studies.db")
    study, whole = study_of(storage, sampler), study_of(InMemoryStorage(), sampler)
    assert ask_and_tell(study, told) == ask_and_tell(whole, told)
    with broken_commits(storage), pytest.raises(Cut):
        study.ask()
    again, expected = study_of(storage, sampler), whole.ask()
    assert (again.asked, again.unfinished()) == (told, [])
    assert again.ask() == expected
    assert study_of(storage, sampler).unfinished() == [expected]


def test_a_trial_that_optuna_wrote_in_part_is_asked_for_again(tmp_path: Path) -> None:
    storage = in_file(tmp_path / "studies.db")
    study, whole = study_of(storage, "random"), study_of(InMemoryStorage(), "random")
    ask_and_tell(study, 1), ask_and_tell(whole, 1)
    optuna.load_study(study_name="job/arm", storage=storage).ask().suggest_float("lr", 1e-4, 1e-2, log=True)
    again = study_of(storage, "random")
    assert (again.asked, again.unfinished()) == (1, [])
    assert again.ask() == whole.ask()
    assert len(seen(storage)) == 2


def test_a_study_of_which_optuna_only_knew_the_first_setting_begins_with_it(tmp_path: Path) -> None:
    storage = in_file(tmp_path / "studies.db")
    optuna.create_study(study_name="job/arm", storage=storage, direction="maximize").enqueue_trial({"lr": 1e-3})
    assert study_of(storage, "random").ask() == study_of(InMemoryStorage(), "random").ask()
    assert len(seen(storage)) == 1


class Cut(BaseException):
    """The process ends here."""


@contextmanager
def broken_commits(storage: RDBStorage) -> Iterator[None]:
    """The process ends before it commits."""

    def do_commit(connection: Any) -> None:
        raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage.engine.dialect, "do_commit", do_commit)
        yield


def test_what_is_unfinished_is_what_was_asked_for_and_not_told_of() -> None:
    study = study_of(InMemoryStorage(), "random")
    past = told_all(study, running=2)
    assert study.unfinished() == [Proposal(number, past[number].knobs) for number in (5, 6)]


Restored = Callable[[BaseStorage, list[RecordedTrial]], None]


def agree(storage: BaseStorage, past: list[RecordedTrial]) -> None:
    """Nothing is lost."""


def forget(storage: BaseStorage, past: list[RecordedTrial]) -> None:
    """The whole study is lost."""
    optuna.delete_study(study_name="job/arm", storage=storage)


def forget_the_end(storage: BaseStorage, past: list[RecordedTrial]) -> None:
    """The database is from before the last trials, as from a backup."""
    forget(storage, past)
    study = study_of(storage, "random")
    for number in range(3):
        study.ask()
        if number == 0:
            study.tell(0, past[0].state, REPORTS)


def lose_a_journals_end(storage: BaseStorage, past: list[RecordedTrial]) -> None:
    """The journal ends before the study's last trials, and before the end of one."""
    del past[4:]
    past[3] = RecordedTrial(past[3].knobs, State.RUNNING, REPORTS[:1])


def alter_a_knob(storage: BaseStorage, past: list[RecordedTrial]) -> None:
    """A trial's setting is another."""
    past[1] = RecordedTrial({**past[1].knobs, "beta1": 0.75}, past[1].state, REPORTS)


def alter_a_value(storage: BaseStorage, past: list[RecordedTrial]) -> None:
    """A trial's reports are others."""
    past[1] = RecordedTrial(past[1].knobs, past[1].state, [(1, 0.1), (2, 0.4)])


def alter_a_state(storage: BaseStorage, past: list[RecordedTrial]) -> None:
    """A trial ended otherwise."""
    past[0] = RecordedTrial(past[0].knobs, State.PRUNED, REPORTS)


@pytest.mark.parametrize(
    "befalls", [agree, forget, forget_the_end, lose_a_journals_end, alter_a_knob, alter_a_value, alter_a_state]
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_study_is_made_to_agree_with_the_record(tmp_path: Path, befalls: Restored, in_memory: bool) -> None:
    storage = InMemoryStorage() if in_memory else in_file(tmp_path / "studies.db")
    study = study_of(storage, "random")
    past = told_all(study)
    befalls(storage, past)
    again = study_of(storage, "random")
    for _ in range(2):
        again.restore(past)
        assert seen(storage) == [
            (number, TrialState.RUNNING, None, {}, knobs)
            if state == State.RUNNING
            else (number, *told(state, reports), knobs)
            for number, (knobs, state, reports) in enumerate(past)
        ]
        assert again.unfinished() == [
            Proposal(number, knobs) for number, (knobs, state, _) in enumerate(past) if state == State.RUNNING
        ]
        assert again.asked == len(past)
    assert again.ask() == fresh_ask(len(past))


def told(state: State, reports: Sequence[tuple[int, float]]) -> tuple[TrialState, float | None, dict[int, float]]:
    match state:
        case State.COMPLETE:
            return TrialState.COMPLETE, reports[-1][1], dict(reports)
        case State.PRUNED:
            return TrialState.PRUNED, reports[-1][1], dict(reports)
        case _:
            return TrialState.FAIL, None, {}


def fresh_ask(number: int) -> Proposal:
    """What a study that nothing befell gives as its ``number``-th setting."""
    study = study_of(InMemoryStorage(), "random")
    return [study.ask() for _ in range(number + 1)][number]


def test_a_study_that_agrees_is_left_alone_and_told_what_it_missed() -> None:
    study = study_of(storage := InMemoryStorage(), "random")
    past = told_all(study, running=2)
    before = optuna.load_study(study_name="job/arm", storage=storage)._study_id
    past[5] = RecordedTrial(past[5].knobs, State.COMPLETE, REPORTS)
    study_of(storage, "random").restore(past[:6])
    assert optuna.load_study(study_name="job/arm", storage=storage)._study_id == before
    assert [state for _, state, *_ in seen(storage)][5:] == [TrialState.COMPLETE, TrialState.RUNNING]


def test_a_restored_qmc_study_goes_on_with_its_sequence() -> None:
    ours, theirs = InMemoryStorage(), InMemoryStorage()
    asked = [study.ask().knobs for study in [study_of(ours, "qmc")] for _ in range(4)]
    study_of(theirs, "qmc").restore([RecordedTrial(knobs, State.RUNNING, []) for knobs in asked])
    assert study_of(theirs, "qmc").ask() == study_of(ours, "qmc").ask()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases are not away for long."""
    monkeypatch.setattr("tuner.search.study_database.RETRY_S", 0.0)
    monkeypatch.setattr("tuner.search.study_database.OUTAGE_S", 5.0)


class Breaks:
    """Lets the connection to a database break, before or after the call to it that ``left`` counts to took effect."""

    def __init__(self, storage: RDBStorage, after: bool) -> None:
        self.left = -1
        self._after = after
        dialect = storage.engine.dialect
        for name in ("do_execute", "do_executemany", "do_commit"):
            setattr(dialect, name, self._breaking(getattr(dialect, name)))

    def _breaking(self, call: Callable[..., None]) -> Callable[..., None]:
        @wraps(call)
        def breaking(*args: Any, **kwargs: Any) -> None:
            self.left -= 1
            if self.left != -1 or self._after:
                call(*args, **kwargs)
            if self.left == -1:
                raise sqlite3.OperationalError("the connection is gone")

        return breaking


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("after", [False, True])
def test_a_database_that_is_away_once_loses_no_trial_and_gives_none_twice(tmp_path: Path, after: bool) -> None:
    storage = in_file(tmp_path / "studies.db")
    breaks, whole = Breaks(storage, after), study_of(memory := InMemoryStorage(), "random", trials=60)
    broken = study_of(storage, "random", trials=60)
    for fails in range(100):
        breaks.left = fails
        asked = broken.ask()
        broken.tell(asked.number, State.COMPLETE, REPORTS)
        assert asked == whole.ask()
        whole.tell(asked.number, State.COMPLETE, REPORTS)
        if breaks.left >= 0:
            break
    assert 6 < fails < 99
    breaks.left = -1
    assert seen(storage) == seen(memory)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("after", [False, True])
def test_a_database_that_is_away_once_as_a_study_is_made_again_loses_nothing(tmp_path: Path, after: bool) -> None:
    past = told_all(study_of(memory := InMemoryStorage(), "random"))
    expected = seen(memory)[:-1]
    for fails in range(100):
        storage = in_file(tmp_path / f"studies-{fails}.db")
        breaks = Breaks(storage, after)
        breaks.left = fails
        study = study_of(storage, "random")
        assert study.restore(past)
        assert not study_of(storage, "random").restore(past)
        left, breaks.left = breaks.left, -1
        assert seen(storage)[:-1] == expected
        storage.engine.dispose()
        if left >= 0:
            break
    assert 20 < fails < 99


def test_a_database_that_stays_away_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.search.study_database.RETRY_S", 0.01)
    monkeypatch.setattr("tuner.search.study_database.OUTAGE_S", 0.05)
    storage = in_file(tmp_path / "studies.db")
    study = study_of(storage, "random")

    def do_execute(*args: Any) -> None:
        raise sqlite3.OperationalError("could not connect\nto server")

    monkeypatch.setattr(storage.engine.dialect, "do_execute", do_execute)
    with pytest.raises(ServiceError, match=r"database cannot be used: \(sqlite3.OperationalError\) could not connect$"):
        study.ask()


def lose_the_study(storage: RDBStorage) -> None:
    optuna.delete_study(study_name="job/arm", storage=storage)


def lose_the_trial(storage: RDBStorage) -> None:
    with storage.engine.begin() as connection:
        for table in ("trial_params", "trial_system_attributes", "trials"):
            connection.exec_driver_sql(f"DELETE FROM {table}")


def end_the_trial(storage: RDBStorage) -> None:
    optuna.load_study(study_name="job/arm", storage=storage).tell(0, 0.5)


@pytest.mark.parametrize("befalls", [lose_the_study, lose_the_trial, end_the_trial])
def test_what_others_did_to_a_study_that_is_in_use_is_named_at_once_and_mended_by_a_resume(
    tmp_path: Path, befalls: Callable[[RDBStorage], None]
) -> None:
    storage = in_file(tmp_path / "studies.db")
    study = study_of(storage, "random")
    asked = study.ask()
    befalls(storage)
    with pytest.raises(ServiceError, match="has lost or altered what was written of study job/arm; once the job"):
        study.tell(asked.number, State.PRUNED, REPORTS)
    past = [RecordedTrial(asked.knobs, State.PRUNED, REPORTS)]
    assert study_of(storage, "random").restore(past)
    assert seen(storage) == [(0, *told(State.PRUNED, REPORTS), asked.knobs)]


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes"])
def test_optuna_reads_what_was_written_as_if_it_had_written_it(tmp_path: Path, sampler: str) -> None:
    ours = in_file(tmp_path / "ours.db")
    study = study_of(ours, sampler, trials=20)
    for state in (*[State.COMPLETE] * 5, *ENDS, State.RUNNING):
        asked = study.ask()
        if state != State.RUNNING:
            study.tell(asked.number, state, [(1, -math.inf), (2, math.inf if asked.number else 0.25)])
    theirs = optuna.create_study(study_name="job/arm", storage=in_file(tmp_path / "theirs.db"), direction="maximize")
    theirs.add_trials(study._study.trials)
    found = optuna.load_study(study_name="job/arm", storage=ours)
    assert found.trials == theirs.trials
    assert found.direction == theirs.direction


# Asks and tells as fast as it can, and says each setting that was given.
ASKS_FOR_EVER = """
import sys
from pathlib import Path
from tests.tuner.search.test_study import REPORTS, in_file, study_of
from tuner.storage.events import State
study = study_of(in_file(Path(sys.argv[1])), "random")
for asked in study.unfinished():
    study.tell(asked.number, State.PRUNED, REPORTS)
while True:
    number = study.ask().number
    print(number, flush=True)
    study.tell(number, State.PRUNED, REPORTS)
"""


def test_killed_while_it_asks_it_leaves_a_whole_database_though_it_waits_for_no_disk(tmp_path: Path) -> None:
    path, chance = tmp_path / "studies.db", random.Random(0)
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", ASKS_FOR_EVER, str(path)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            first = process.stdout.readline()
            time.sleep(chance.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            told = [first, *process.stdout.read().split()]
        assert set_aside_if_damaged(path) is None
        numbers = [number for number, *_ in seen(in_file(path))]
        assert numbers == list(range(len(numbers)))
        # What was given is kept; of one more no one was told.
        assert len(numbers) - 1 - int(told[-1]) in (0, 1)


@pytest.mark.parametrize(("durable", "synchronous"), [(True, 2), (False, 0)])
def test_only_a_file_that_can_be_made_again_is_not_waited_for(tmp_path: Path, durable: bool, synchronous: int) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'studies.db'}", durable=durable)
    assert isinstance(storage, RDBStorage)
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == synchronous


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[RecordedTrial]]:
    """A studies' database, and what is on record of its study."""
    path = tmp_path_factory.mktemp("whole") / "studies.db"
    past = told_all(study_of(in_file(path), "random"))
    return path.read_bytes(), past


def flip(whole: bytes, seed: int) -> bytes:
    """One byte that is in use, changed."""
    rng = random.Random(seed)
    used = [at for at, byte in enumerate(whole) if byte]
    at = rng.choice(used)
    return whole[:at] + bytes([whole[at] ^ rng.randrange(1, 256)]) + whole[at + 1 :]


def zero_a_page(whole: bytes, seed: int) -> bytes:
    """A page of zeros."""
    page = 4096 * random.Random(seed).randrange(len(whole) // 4096)
    return whole[:page] + bytes(4096) + whole[page + 4096 :]


def spoil_the_schema(whole: bytes, seed: int) -> bytes:
    """Text that is none, where SQLite does not look for it and SQLAlchemy does."""
    at = [found.start() for found in re.finditer(rb"VARCHAR\(|FLOAT|INTEGER NOT NULL", whole)][seed]
    return whole[: at + 3] + b"\xff" + whole[at + 4 :]


@pytest.mark.parametrize("damage", [flip, zero_a_page, spoil_the_schema])
@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_database_is_set_aside_or_does_no_harm(
    tmp_path: Path, database: tuple[bytes, list[RecordedTrial]], damage: Callable[[bytes, int], bytes], seed: int
) -> None:
    whole, past = database
    path = tmp_path / "studies.db"
    path.write_bytes(damaged := damage(whole, seed))
    aside = set_aside_if_damaged(path)
    if aside is not None:
        assert (aside, aside.read_bytes()) == (tmp_path / "studies.db.damaged-1", damaged)
        assert not path.exists()
    study = study_of(in_file(path), "random")
    study.restore(past)
    assert [asked.number for asked in study.unfinished()] == [len(ENDS)]
    assert [(number, knobs) for number, *_, knobs in seen(f"sqlite:///{path}")] == [
        (number, knobs) for number, (knobs, _, _) in enumerate(past)
    ]


def test_a_whole_database_is_left_where_it_is(tmp_path: Path, database: tuple[bytes, list[RecordedTrial]]) -> None:
    path = tmp_path / "studies.db"
    assert set_aside_if_damaged(path) is None
    path.write_bytes(b"")
    assert set_aside_if_damaged(path) is None
    path.write_bytes(database[0])
    assert set_aside_if_damaged(path) is None
    assert path.read_bytes() == database[0]


def test_a_database_that_another_process_writes_to_is_not_damaged(
    tmp_path: Path, database: tuple[bytes, list[RecordedTrial]]
) -> None:
    path = tmp_path / "studies.db"
    path.write_bytes(database[0])
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert set_aside_if_damaged(path) is None
    assert path.exists()


def test_what_was_set_aside_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "studies.db"
    for number in (1, 2, 3):
        path.write_text(f"no database, for the {number}th time " * 100)
        assert set_aside_if_damaged(path) == tmp_path / f"studies.db.damaged-{number}"
