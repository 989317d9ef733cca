"""Studies with conditional knobs: only knobs that apply are sampled, and a study built from the record is the same."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from tests.tuner.search.test_study import asked_and_told, seen, study_of
from trainables.space import Choice, Conditions, Domain, Float, Int, Scalar, applies
from tuner.search.distributions import PATIENCE, TriedSettings
from tuner.search.importance import importances
from tuner.search.study import ArmStudy, RecordedTrial
from tuner.spec.arms import Arm
from tuner.spec.settings import SamplerSpec
from tuner.storage.events import State

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SAMPLERS = ("tpe", "random", "qmc")
SPACE: Mapping[str, Domain] = {
    "lr": Float(1e-4, 1e-2, "log"),
    "schedule": Choice(("constant", "noam", "restarts")),
    "warmup": Int(10, 1000, "log"),
    "restarts": Choice(("1x2", "2x1")),
    "beta2": Float(0.9, 0.999, "one-minus-log"),
}
WHEN: Conditions = {
    "warmup": {"schedule": ("noam",)},
    "restarts": {"schedule": ("restarts",)},
    "beta2": {"restarts": ("2x1",)},
}
KNOBS = {
    "constant": ["lr", "schedule"],
    "noam": ["lr", "schedule", "warmup"],
    "1x2": ["lr", "schedule", "restarts"],
    "2x1": ["lr", "schedule", "restarts", "beta2"],
}
ARM = Arm("arm", "adam_l2", SPACE, {}, {"lr": 1e-3, "schedule": "constant"}, when=WHEN)
NOAM: Mapping[str, Scalar] = {"lr": 2e-3, "schedule": "noam", "warmup": 50}
STATES = [*[State.COMPLETE] * 12, State.PRUNED, State.FAILED, *[State.COMPLETE] * 10]


def branch(knobs: Mapping[str, Scalar]) -> str:
    return str(knobs.get("restarts", knobs["schedule"]))


def settings(study: ArmStudy, count: int = 24) -> list[Mapping[str, Scalar]]:
    return [trial.knobs for trial in asked_and_told(study, STATES[:count])]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_setting_has_just_the_knobs_that_apply(sampler: str) -> None:
    found = settings(study_of(sampler, arm=ARM, trials=24))
    assert found[0] == {"lr": pytest.approx(1e-3), "schedule": "constant"}
    assert {branch(knobs) for knobs in found} == set(KNOBS)
    for knobs in found:
        assert list(knobs) == KNOBS[branch(knobs)]
        assert all(SPACE[knob].contains(value) for knob, value in knobs.items())


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_study_built_from_the_record_asks_as_one_that_was_never_closed(sampler: str, at_once: int) -> None:
    lived = study_of(sampler, arm=ARM, trials=24)
    past = asked_and_told(lived, [*STATES, State.RUNNING], at_once)
    rebuilt = study_of(sampler, arm=ARM, trials=24, past=past)
    assert seen(rebuilt) == seen(lived)
    assert [rebuilt.ask() for _ in range(4)] == [lived.ask() for _ in range(4)]


def test_tpe_learns_a_knob_within_its_branch() -> None:
    def value(knobs: Mapping[str, Scalar]) -> float:
        return 1 - abs(float(knobs["warmup"]) - 500) / 1000 if "warmup" in knobs else 0.0

    def mean_of_the_rest(sampler: str, seed: int) -> float:
        study, values = study_of(sampler, seed, ARM, trials=60), list[float]()
        for _ in range(60):
            asked = study.ask()
            values.append(value(asked.knobs))
            study.tell(asked.number, State.COMPLETE, [(1, values[-1])])
        return sum(values[20:]) / 40

    tpe, random = (sum(mean_of_the_rest(sampler, seed) for seed in range(3)) / 3 for sampler in ("tpe", "random"))
    assert tpe > 1.3 * random


def test_first_settings_are_tried_first_and_then_the_sampler_goes_on_alike() -> None:
    arm = replace(ARM, first=(NOAM, {"lr": 5e-3, "schedule": "constant"}, {**NOAM, "warmup": 60}))
    lived = study_of("tpe", arm=arm, trials=24)
    past = asked_and_told(lived, STATES, at_once=3)
    assert [trial.knobs for trial in past[:3]] == list(arm.first)
    for cut in (1, 2, 3):
        short = study_of("tpe", arm=arm, trials=24)
        asked_and_told(short, [State.RUNNING] * cut)
        begun = [RecordedTrial(trial.knobs, State.RUNNING, [], begun=number) for number, trial in enumerate(past[:cut])]
        rebuilt = study_of("tpe", arm=arm, trials=24, past=begun)
        assert [rebuilt.ask() for _ in range(4)] == [short.ask() for _ in range(4)]
    rebuilt = study_of("tpe", arm=arm, trials=24, past=past)
    assert [rebuilt.ask() for _ in range(3)] == [lived.ask() for _ in range(3)]


def test_cmaes_goes_on_alike_after_first_settings() -> None:
    space: Mapping[str, Domain] = {"lr": Float(1e-4, 1e-2, "log"), "beta1": Float(0.5, 0.95)}
    first: Sequence[Mapping[str, Scalar]] = [{"lr": 1e-3 * n, "beta1": 0.9} for n in (1, 2, 3)]
    arm = Arm("arm", "adam_l2", space, {}, first[0], first=tuple(first))
    lived = study_of("cmaes", arm=arm, trials=24)
    past = asked_and_told(lived, STATES, at_once=2)
    assert [trial.knobs for trial in past[:3]] == first
    rebuilt = study_of("cmaes", arm=arm, trials=24, past=past)
    assert seen(rebuilt) == seen(lived)
    assert [rebuilt.ask() for _ in range(3)] == [lived.ask() for _ in range(3)]


def test_earlier_trials_are_learnt_from_but_are_none_of_the_studys_own() -> None:
    first = {"lr": 1e-3, "beta2": pytest.approx(0.99)}
    space = {"lr": SPACE["lr"], "beta2": SPACE["beta2"]}
    plain = replace(ARM, space=space, when={}, default={"lr": 1e-3, "beta2": 0.99})
    earlier = asked_and_told(study_of("tpe", 7, plain, trials=10), [State.COMPLETE] * 8)

    def study(past: Sequence[RecordedTrial] = (), known: Sequence[RecordedTrial] = earlier) -> ArmStudy:
        arm, spec = plain, SamplerSpec(name="tpe")
        return ArmStudy(arm, spec, 1, 10, maximize=True, past=past, earlier=known)

    lived, cold = study(), study(known=())
    past = asked_and_told(lived, [State.COMPLETE] * 4 + [State.RUNNING])
    assert lived.asked == len(lived.trials()) == 5
    assert past[0].knobs == asked_and_told(cold, [State.COMPLETE])[0].knobs == first
    # The sampler begins to learn at once, instead of after its random trials.
    assert past[1].knobs != cold.ask().knobs
    rebuilt = study(past)
    assert [found[1:] for found in seen(rebuilt)] == [found[1:] for found in seen(lived)]
    assert rebuilt.ask() == lived.ask()


def test_a_setting_keeps_its_distance_along_the_knobs_it_has() -> None:
    tried = TriedSettings(SPACE, WHEN)
    tried.add({"lr": 1e-3, "schedule": "constant"})
    tried.add(NOAM)
    tried.note_end(0.5)
    for _ in range(PATIENCE):
        tried.note_end(None)
    assert [list(group) for group in tried.groups()] == [
        ["lr", "schedule"],
        ["warmup"],
        ["restarts"],
        ["one_minus_beta2"],
    ]
    same, far = tried.spare([dict(NOAM), {**NOAM, "warmup": 1000}])
    assert same < 0 < far
    # The knobs that are sampled later do not count yet.
    assert tried.spare([{"lr": 2e-3, "schedule": "noam"}])[0] < 0
    assert tried.spare([{"lr": 2e-3, "schedule": "restarts"}])[0] > 0


def test_a_knob_applies_only_where_those_that_it_depends_on_apply() -> None:
    assert applies(WHEN, "beta2", {"schedule": "restarts", "restarts": "2x1"})
    # A trial of another schedule has a value of restarts too, among all its hyperparameters.
    assert not applies(WHEN, "beta2", {"schedule": "noam", "restarts": "2x1"})
    assert not applies({"lr": {"beta2": (1,)}}, "lr", {"beta2": True})


def test_only_knobs_of_all_trials_have_an_importance() -> None:
    trials = [(knobs, float(number)) for number, knobs in enumerate(settings(study_of("random", arm=ARM)))]
    assert set(importances(ARM, trials, maximize=True)) == {"lr", "schedule"}
