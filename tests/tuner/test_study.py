"""The arms' studies: settings there and back, seeded asks, and storages that are away, damaged or cannot be opened."""

import random
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import cache, wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import TrialState
from scipy.stats import qmc
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from trainables.space import Choice, Domain, Float, Int, Plan, Scalar
from tuner.arms import Arm, arms
from tuner.errors import ServiceError
from tuner.limits import SamplerSpec
from tuner.record import State
from tuner.spec import from_dict
from tuner.study import (
    SAMPLERS,
    ArmStudy,
    Asked,
    Past,
    _from_search,
    _to_search,
    open_storage,
    set_aside_if_damaged,
)

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
    storage = open_storage(f"sqlite:///{path}")
    assert isinstance(storage, RDBStorage)
    storage.engine.dispose()
    event.listen(storage.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
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
    there = _to_search(space, {"lr": rest, "beta2": beta2})
    assert there == {"lr": rest, "one_minus_beta2": 1 - beta2}
    assert _from_search(space, there) == {"lr": rest, "beta2": pytest.approx(beta2, rel=1e-15)}


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


def told_all(study: ArmStudy, running: int = 1) -> list[Past]:
    """What is on record once a trial has ended in every way, and some still run."""
    past = []
    for state in (*ENDS, *[State.RUNNING] * running):
        asked = study.ask()
        if state != State.RUNNING:
            study.tell(asked.number, state, REPORTS)
        past.append(Past(asked.knobs, state, REPORTS))
    return past


def seen(storage: BaseStorage | str) -> list[tuple[Any, ...]]:
    """All that the study knows of its trials."""
    trials = optuna.load_study(study_name="job/arm", storage=storage).trials
    return [(t.number, t.state, t.value, dict(t.intermediate_values), knobs_of(t.params)) for t in trials]


def knobs_of(params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    arm = arm_of("random")
    return _from_search(arm.space, params) if len(params) == len(arm.space) else params


def test_told_again_a_trial_stays_as_it_was_told_first() -> None:
    study = study_of(storage := InMemoryStorage(), "random")
    told_all(study)
    before = seen(storage)
    for number, state in enumerate(reversed(ENDS)):
        study.tell(number, state, [(1, 0.9)])
    assert seen(storage) == before


class Cut(BaseException):
    """The process ends here."""


def cut_after(storage: InMemoryStorage, writes: int) -> None:
    """Let the process end after so many knobs were stored."""
    left = iter(range(writes))
    store = storage.set_trial_param

    def set_trial_param(*args: Any) -> None:
        if next(left, None) is None:
            raise Cut
        store(*args)

    storage.set_trial_param = set_trial_param  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"gp"}))
@pytest.mark.parametrize("told", [0, 1, ASKS - 1])
def test_an_ask_that_is_cut_short_is_brought_to_the_end_it_would_have_had(sampler: str, told: int) -> None:
    knobs = len(arm_of(sampler).space)
    for stored in (0, 1, knobs - 1):
        cut, whole = InMemoryStorage(), InMemoryStorage()
        study = study_of(cut, sampler)
        assert ask_and_tell(study, told) == ask_and_tell(study_of(whole, sampler), told)
        store = cut.set_trial_param
        cut_after(cut, stored)
        with pytest.raises(Cut):
            study.ask()
        cut.set_trial_param = store  # type: ignore[method-assign]
        again = study_of(cut, sampler)
        expected = study_of(whole, sampler).ask()
        assert again.asked == told + 1
        assert again.unfinished() == again.unfinished() == [expected]
        assert again.ask().number == told + 1


def test_what_is_unfinished_is_what_was_asked_for_and_not_told_of() -> None:
    study = study_of(InMemoryStorage(), "random")
    past = told_all(study, running=2)
    assert study.unfinished() == [Asked(number, past[number].knobs) for number in (5, 6)]


Restored = Callable[[ArmStudy, list[Past]], None]


def agree(study: ArmStudy, past: list[Past]) -> None:
    """Nothing is lost."""


def forget(study: ArmStudy, past: list[Past]) -> None:
    """The whole study is lost."""
    optuna.delete_study(study_name="job/arm", storage=study._storage)


def forget_the_end(study: ArmStudy, past: list[Past]) -> None:
    """The database is from before the last trials, as from a backup."""
    forget(study, past)
    study.__init__(study._storage, "job", study.arm, study._sampler, 0, ASKS, True)  # type: ignore[misc]
    for number in range(3):
        study.ask()
        if number == 0:
            study.tell(0, past[0].state, REPORTS)


def lose_a_journals_end(study: ArmStudy, past: list[Past]) -> None:
    """The journal ends before the study's last trials, and before the end of one."""
    del past[4:]
    past[3] = Past(past[3].knobs, State.RUNNING, REPORTS[:1])


def alter_a_knob(study: ArmStudy, past: list[Past]) -> None:
    """A trial's setting is another."""
    past[1] = Past({**past[1].knobs, "beta1": 0.75}, past[1].state, REPORTS)


def alter_a_value(study: ArmStudy, past: list[Past]) -> None:
    """A trial's reports are others."""
    past[1] = Past(past[1].knobs, past[1].state, [(1, 0.1), (2, 0.4)])


def alter_a_state(study: ArmStudy, past: list[Past]) -> None:
    """A trial ended otherwise."""
    past[0] = Past(past[0].knobs, State.PRUNED, REPORTS)


@pytest.mark.parametrize(
    "befalls", [agree, forget, forget_the_end, lose_a_journals_end, alter_a_knob, alter_a_value, alter_a_state]
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_study_is_made_to_agree_with_the_record(tmp_path: Path, befalls: Restored, in_memory: bool) -> None:
    storage = InMemoryStorage() if in_memory else in_file(tmp_path / "studies.db")
    study = study_of(storage, "random")
    past = told_all(study)
    befalls(study, past)
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
            Asked(number, knobs) for number, (knobs, state, _) in enumerate(past) if state == State.RUNNING
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


def fresh_ask(number: int) -> Asked:
    """What a study that nothing befell gives as its ``number``-th setting."""
    study = study_of(InMemoryStorage(), "random")
    return [study.ask() for _ in range(number + 1)][number]


def test_a_study_that_agrees_is_left_alone_and_told_what_it_missed() -> None:
    study = study_of(storage := InMemoryStorage(), "random")
    past = told_all(study, running=2)
    before = optuna.load_study(study_name="job/arm", storage=storage)._study_id
    past[5] = Past(past[5].knobs, State.COMPLETE, REPORTS)
    study_of(storage, "random").restore(past[:6])
    assert optuna.load_study(study_name="job/arm", storage=storage)._study_id == before
    assert [state for _, state, *_ in seen(storage)][5:] == [TrialState.COMPLETE, TrialState.RUNNING]


def test_a_restored_qmc_study_goes_on_with_its_sequence() -> None:
    ours, theirs = InMemoryStorage(), InMemoryStorage()
    asked = [study.ask().knobs for study in [study_of(ours, "qmc")] for _ in range(4)]
    study_of(theirs, "qmc").restore([Past(knobs, State.RUNNING, []) for knobs in asked])
    assert study_of(theirs, "qmc").ask() == study_of(ours, "qmc").ask()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases are not away for long."""
    monkeypatch.setattr("tuner.study.RETRY_S", 0.0)
    monkeypatch.setattr("tuner.study.OUTAGE_S", 5.0)


CALLS = (
    "create_new_trial",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "get_all_trials",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
)
"""What asking and telling call; where it has the name with an underscore, Optuna's cache calls that."""
ERRORS = (StorageInternalError("away"), OperationalError("select", {}, Exception("away")))


class Away:
    """Lets one call to a storage fail, before or after it takes effect."""

    def __init__(self, storage: BaseStorage) -> None:
        self.calls = 0
        self.fails: int | None = None
        self.after = False
        self.error: Exception = ERRORS[0]
        for name in CALLS:
            called = f"_{name}" if hasattr(storage, f"_{name}") else name
            setattr(storage, called, self._wrapped(getattr(storage, called)))

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            fails = self.calls == self.fails
            self.calls += 1
            if fails and not self.after:
                raise self.error
            answer = call(*args, **kwargs)
            if fails:
                raise self.error
            return answer

        return wrapped


def two_trials(study: ArmStudy) -> list[Asked]:
    """Ask for two settings and tell of the first."""
    first, second = study.ask(), study.ask()
    study.tell(first.number, State.COMPLETE, REPORTS)
    return [first, second]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_storage_that_fails_once_loses_no_trial_and_gives_none_twice(
    sampler: str, after: bool, error: Exception
) -> None:
    whole = InMemoryStorage()
    calls = Away(whole)
    expected = two_trials(study_of(whole, sampler))
    for fails in range(calls.calls):
        storage = InMemoryStorage()
        away = Away(storage)
        away.fails, away.after, away.error = fails, after, error
        assert two_trials(study_of(storage, sampler)) == expected
        assert seen(storage) == seen(whole)


class Commits:
    """Lets a commit break the connection, before or after the database has done it: the one that ``left`` counts to."""

    def __init__(self, storage: RDBStorage, after: bool) -> None:
        self.left = -1
        self._after = after
        self._commit = storage.engine.dialect.do_commit
        storage.engine.dialect.do_commit = self._do_commit  # type: ignore[method-assign, assignment]

    def _do_commit(self, connection: Any) -> None:
        self.left -= 1
        if self.left != -1 or self._after:
            self._commit(connection)
        if self.left == -1:
            raise sqlite3.OperationalError("the connection is gone")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("after", [False, True])
def test_a_commit_whose_answer_is_lost_is_not_done_twice(tmp_path: Path, after: bool) -> None:
    storage = in_file(tmp_path / "studies.db")
    broken, whole = study_of(storage, "random"), study_of(memory := InMemoryStorage(), "random")
    commits = Commits(storage, after)
    for fails in range(100):
        commits.left = fails
        asked = broken.ask()
        broken.tell(asked.number, State.COMPLETE, REPORTS)
        assert asked == whole.ask()
        whole.tell(asked.number, State.COMPLETE, REPORTS)
        if commits.left >= 0:
            break
    assert 10 < fails < 99
    commits.left = -1
    assert seen(storage) == seen(memory)


def test_a_database_that_stays_away_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.study.RETRY_S", 0.01)
    monkeypatch.setattr("tuner.study.OUTAGE_S", 0.05)
    study = study_of(storage := InMemoryStorage(), "random")

    def get_all_trials(*args: Any, **kwargs: Any) -> Any:
        raise StorageInternalError("could not connect\nto server")

    storage.get_all_trials = get_all_trials  # type: ignore[method-assign]
    with pytest.raises(ServiceError, match=r"database cannot be used: could not connect$"):
        study.ask()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Past]]:
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
    tmp_path: Path, database: tuple[bytes, list[Past]], damage: Callable[[bytes, int], bytes], seed: int
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


def test_a_whole_database_is_left_where_it_is(tmp_path: Path, database: tuple[bytes, list[Past]]) -> None:
    path = tmp_path / "studies.db"
    assert set_aside_if_damaged(path) is None
    path.write_bytes(b"")
    assert set_aside_if_damaged(path) is None
    path.write_bytes(database[0])
    assert set_aside_if_damaged(path) is None
    assert path.read_bytes() == database[0]


def test_a_database_that_another_process_writes_to_is_not_damaged(
    tmp_path: Path, database: tuple[bytes, list[Past]]
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
