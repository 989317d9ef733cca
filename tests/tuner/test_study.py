"""The arms' studies: settings there and back, seeded asks, and storages that cannot be opened."""

from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import BaseStorage, InMemoryStorage
from scipy.stats import qmc

from trainables.space import Choice, Domain, Float, Int, Plan, Scalar
from tuner.arms import Arm, arms
from tuner.errors import ServiceError
from tuner.limits import SamplerSpec
from tuner.record import State
from tuner.spec import from_dict
from tuner.study import SAMPLERS, ArmStudy, _from_search, _to_search, open_storage

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
