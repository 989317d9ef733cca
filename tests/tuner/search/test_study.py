"""The arms' studies: settings there and back, seeded asks, and studies that are built from the record."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from scipy.stats import qmc

from trainables.space import Choice, Domain, Float, Int, Plan, Scalar, middle
from tuner.search.distributions import PATIENCE, SPACING, TriedSettings, from_search, to_search
from tuner.search.importance import LEAST_IMPORTANCE, importances
from tuner.search.samplers import SAMPLERS
from tuner.search.study import ArmStudy, Proposal, RecordedTrial, as_optuna_trial
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


def study_of(
    sampler: str,
    seed: int = 0,
    arm: Arm | None = None,
    trials: int = ASKS,
    past: Sequence[RecordedTrial] = (),
    maximize: bool = True,
) -> ArmStudy:
    spec = SamplerSpec.model_validate({"name": sampler})
    return ArmStudy(arm or arm_of(sampler), spec, seed, trials, maximize=maximize, past=past)


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
    study = study_of(sampler)
    asked = study.ask()
    assert asked.number == 0
    assert asked.knobs == {knob: pytest.approx(DEFAULT[knob]) for knob in study.arm.space}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_setting_lies_in_its_space_and_has_its_type(sampler: str) -> None:
    study = study_of(sampler)
    for knobs in ask_and_tell(study, ASKS):
        assert list(knobs) == list(study.arm.space)
        for knob, domain in study.arm.space.items():
            assert domain.contains(knobs[knob]), (knob, knobs[knob])
            assert type(knobs[knob]) is type(DEFAULT[knob])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_history_gives_the_same_ask(sampler: str) -> None:
    assert ask_and_tell(study_of(sampler), ASKS) == ask_and_tell(study_of(sampler), ASKS)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_another_seed_or_arm_gives_other_asks(sampler: str) -> None:
    def second_setting(seed: int, name: str) -> Mapping[str, Scalar]:
        return ask_and_tell(study_of(sampler, seed, arm_of(sampler, name)), 2)[1]

    assert second_setting(0, "arm") != second_setting(1, "arm")
    assert second_setting(0, "arm") != second_setting(0, "other")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_settings_asked_for_at_once_differ(sampler: str) -> None:
    study = study_of(sampler)
    asked = [study.ask().knobs for _ in range(6)]
    assert len({tuple(knobs.values()) for knobs in asked}) == 6


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_settings_differ_even_if_all_trials_fail(sampler: str) -> None:
    study = study_of(sampler)
    seen = set()
    for _ in range(6):
        asked = study.ask()
        study.tell(asked.number, State.FAILED, [])
        seen.add(tuple(asked.knobs.values()))
    assert len(seen) == 6


def test_qmc_spreads_its_points_more_evenly_than_chance() -> None:
    arm = Arm("arm", "adam_l2", {"beta1": Float(0.0, 0.9), "eps": Float(0.0, 1.0)}, {}, {"beta1": 0.5, "eps": 0.5})

    def discrepancy(sampler: str) -> float:
        study = study_of(sampler, arm=arm, trials=33)
        points = []
        for _ in range(33):
            asked = study.ask()
            study.tell(asked.number, State.COMPLETE, [(1, 0.5)])
            points.append((float(asked.knobs["beta1"]) / 0.9, float(asked.knobs["eps"])))
        assert len(set(points)) == 33
        return float(qmc.discrepancy(points[1:]))

    assert discrepancy("qmc") < 0.3 * discrepancy("random")


def test_a_search_learns() -> None:
    tried = ask_and_tell(study_of("tpe", trials=30), 30)
    scores = [score(knobs) for knobs in tried]
    assert sum(scores[20:]) / 10 > sum(scores[:10]) / 10


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
    for knobs in ask_and_tell(study_of("tpe", arm=arm), 4):
        arm.hyper(knobs)


ENDS = (State.COMPLETE, State.PRUNED, State.DIVERGED, State.FAILED, State.OOM)
REPORTS = [(1, 0.1), (2, 0.3)]


def asked_and_told(study: ArmStudy, states: Sequence[State], at_once: int = 1) -> list[RecordedTrial]:
    """The record of a search with some trials at once, which ended in these states; RUNNING ones have not ended."""
    past: list[RecordedTrial] = []
    open_: list[int] = []
    events = 0
    for state in states:
        proposal = study.ask()
        reports = [(1, 0.1), (2, score(proposal.knobs))]
        past.append(RecordedTrial(proposal.knobs, state, reports, begun=events))
        events += 1
        open_ += [] if state == State.RUNNING else [proposal.number]
        if len(open_) >= at_once:
            # The newest trial ends first, so that trials do not end in the order of their begin.
            number = open_.pop()
            study.tell(number, past[number].state, past[number].reports)
            past[number] = replace(past[number], ended=events)
            events += 1
    for number in open_:
        study.tell(number, past[number].state, past[number].reports)
        past[number] = replace(past[number], ended=events)
        events += 1
    return past


def seen(study: ArmStudy) -> list[tuple[object, ...]]:
    """All that a study knows of its trials."""
    return [
        (t.number, t.state, t.value, dict(t.intermediate_values), from_search(study.arm.space, t.params))
        for t in study.trials()
    ]


def test_a_second_tell_changes_nothing() -> None:
    study = study_of("random")
    asked_and_told(study, ENDS)
    before = seen(study)
    for number, state in enumerate(reversed(ENDS)):
        study.tell(number, state, [(1, 0.9)])
    assert seen(study) == before


def test_a_study_knows_what_became_of_each_trial() -> None:
    study = study_of("random")
    past = asked_and_told(study, [*ENDS, State.RUNNING])
    values = [dict(trial.reports) for trial in past]
    assert [known[:4] for known in seen(study)] == [
        (0, TrialState.COMPLETE, values[0][2], values[0]),
        (1, TrialState.PRUNED, values[1][2], values[1]),
        (2, TrialState.FAIL, None, {}),
        (3, TrialState.FAIL, None, {}),
        (4, TrialState.FAIL, None, {}),
        (5, TrialState.RUNNING, None, {}),
    ]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_study_built_from_the_record_asks_as_one_that_was_never_closed(sampler: str, at_once: int) -> None:
    states = [State.COMPLETE] * 5 + ([] if sampler == "gp" else [State.PRUNED, State.FAILED, *[State.COMPLETE] * 5])
    lived = study_of(sampler, trials=20)
    past = asked_and_told(lived, [*states, State.RUNNING], at_once)
    rebuilt = study_of(sampler, trials=20, past=past)
    assert seen(rebuilt) == seen(lived)
    assert rebuilt.asked == lived.asked == len(past)
    assert [rebuilt.ask() for _ in range(2)] == [lived.ask() for _ in range(2)]


def test_a_study_takes_the_recorded_settings_even_if_its_sampler_would_propose_others() -> None:
    past = asked_and_told(study_of("cmaes", seed=1), [State.COMPLETE] * 3)
    rebuilt = study_of("cmaes", seed=2, past=past)
    assert [known[-1] for known in seen(rebuilt)] == [trial.knobs for trial in past]


def test_a_rebuilt_study_takes_up_its_running_trials() -> None:
    study = study_of("random")
    past = asked_and_told(study, [State.COMPLETE, State.RUNNING])
    rebuilt = study_of("random", past=past)
    for each in (study, rebuilt):
        each.tell(1, State.PRUNED, REPORTS)
    assert seen(rebuilt) == seen(study)
    assert rebuilt.ask() == study.ask() == fresh_ask(2)


def fresh_ask(number: int) -> Proposal:
    """The ``number``-th setting of an undisturbed study."""
    study = study_of("random")
    return [study.ask() for _ in range(number + 1)][number]


OTHER_RANGES: Mapping[str, Domain] = {
    "lr": Float(1e-3, 1.3e-2, "log"),
    "beta2": Float(0.9, 0.95, "one-minus-log"),
    "beta1": Float(0.5, 0.8),
    "warmup": Int(50, 60),
}


def resumed_with(space: Mapping[str, Domain], sampler: str) -> tuple[Sequence[RecordedTrial], ArmStudy]:
    """The record of a search, and its study under another version, in which these domains are others."""
    states = [State.COMPLETE, State.PRUNED, State.FAILED, State.COMPLETE, State.COMPLETE, State.RUNNING]
    past = asked_and_told(study_of(sampler), states)
    then = arm_of(sampler)
    changed = {knob: space.get(knob, domain) for knob, domain in then.space.items()}
    default = {knob: (middle(space[knob]) if knob in space else DEFAULT[knob]) for knob in changed}
    return past, study_of(sampler, arm=replace(then, space=changed, default=default), past=past)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trials_outside_of_todays_ranges_stay_as_they_were_and_the_next_is_inside(sampler: str) -> None:
    past, study = resumed_with(OTHER_RANGES, sampler)
    assert all(not domain.contains(past[0].knobs[knob]) for knob, domain in OTHER_RANGES.items() if knob != "lr")
    assert any(not OTHER_RANGES["lr"].contains(trial.knobs["lr"]) for trial in past)
    for (_, _, _, _, knobs), trial in zip(seen(study), past, strict=True):
        assert knobs == {knob: pytest.approx(value) for knob, value in trial.knobs.items()}
    study.tell(len(past) - 1, State.COMPLETE, REPORTS)
    for knobs in ask_and_tell(study, 2):
        assert all(domain.contains(knobs[knob]) for knob, domain in study.arm.space.items()), knobs


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "cmaes"])
def test_a_choice_that_is_gone_is_left_out_of_the_past_trials(sampler: str) -> None:
    past, study = resumed_with({"restarts": Choice(("1x2", "3x1"))}, sampler)
    gone = [trial.knobs["restarts"] == "2x1" for trial in past]
    assert gone[0]
    assert ["restarts" not in trial.params for trial in study.trials()] == gone
    assert all(knobs["restarts"] in ("1x2", "3x1") for knobs in ask_and_tell(study, 2))


@pytest.mark.parametrize(
    ("domain", "value", "distribution"),
    [
        (Float(1e-3, 1e-2, "log"), 1e-4, FloatDistribution(1e-4, 1e-2, log=True)),
        (Float(0.0, 1.0), 2.0, FloatDistribution(0.0, 2.0)),
        (Int(2, 8, step=3), 14, IntDistribution(2, 14, step=3)),
        (Int(2, 8, step=3), 9, IntDistribution(2, 9)),
        (Float(1e-3, 1e-2, "log"), 0.0, None),
        (Int(1, 8), "1x2", None),
    ],
)
def test_a_trials_own_range_reaches_to_its_value_if_its_scale_can(
    domain: Domain, value: Scalar, distribution: BaseDistribution | None
) -> None:
    arm = Arm("arm", "adam_l2", {"eps": domain, "beta1": Float(0.0, 0.9)}, {}, {})
    trial = as_optuna_trial(arm, RecordedTrial({"eps": value, "beta1": 0.5}, State.RUNNING, []))
    assert trial.distributions.get("eps") == distribution
    assert trial.params == {"beta1": 0.5} | ({} if distribution is None else {"eps": value})


def test_importances_count_trials_outside_of_the_range() -> None:
    arm = Arm("arm", "adam_l2", {"lr": OTHER_RANGES["lr"], "beta1": Float(0.5, 0.95)}, {}, {})
    trials = [({"lr": 1e-4 * 2**number, "beta1": 0.6}, 0.1 * number) for number in range(LEAST_IMPORTANCE + 3)]
    found = importances(arm, trials, maximize=True)
    assert found["lr"] > found["beta1"]


PLANE: Mapping[str, Domain] = {"lr": Float(1e-4, 1e-2, "log"), "beta1": Float(0.5, 0.95)}


def plane() -> Arm:
    return Arm("arm", "adam_l2", PLANE, {}, {"lr": 1e-3, "beta1": 0.9})


def flat(knobs: Mapping[str, Scalar]) -> float:
    """A function with a flat top, as a table of few settings has."""
    return -max(0.2, abs(math.log10(float(knobs["lr"])) + 2.5))


def place(knobs: Mapping[str, Scalar]) -> tuple[float, float]:
    return math.log10(float(knobs["lr"])) / 2 + 2, (float(knobs["beta1"]) - 0.5) / 0.45


def gaps(
    value: Callable[[Mapping[str, Scalar]], float], seed: int, *, whole: bool = False, maximize: bool = True
) -> list[float]:
    """The distance of each setting of a study to the nearest one before it, in steps of an even grid of those."""
    study = study_of("tpe", seed, plane(), trials=60, maximize=maximize)
    places, found = list[tuple[float, float]](), []
    for number in range(60):
        asked = study.ask()
        here = place(asked.knobs)
        found.append(min((math.dist(here, other) for other in places), default=1.0) * math.sqrt(max(1, number)))
        places.append(here)
        state = State.DIVERGED if number % 7 == 6 else State.PRUNED if number % 3 == 2 else State.COMPLETE
        study.tell(asked.number, State.COMPLETE if whole else state, [(1, value(asked.knobs))])
    return found


@pytest.mark.parametrize("seed", range(3))
def test_tpe_keeps_its_distance_where_it_finds_nothing_better(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = gaps(flat, seed)[30:]
    # In a crowded study it takes the farthest of its candidates.
    assert min(kept) > SPACING / 2
    monkeypatch.setattr("tuner.search.distributions.SPACING", 0.0)
    assert min(gaps(flat, seed)[30:]) < SPACING / 3


@pytest.mark.parametrize("maximize", [True, False])
def test_tpe_looks_closer_as_long_as_it_finds_something_better(maximize: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def better_each_time() -> list[float]:
        values = itertools.count(step=1 if maximize else -1)
        return gaps(lambda knobs: next(values), 0, whole=True, maximize=maximize)

    found = better_each_time()
    monkeypatch.setattr("tuner.search.distributions.SPACING", 0.0)
    assert found == better_each_time()


def in_vain(tried: TriedSettings, trials: int) -> TriedSettings:
    """One trial was complete. After it, this many trials ended without a better one."""
    for value in (0.5, *[None, 0.5, 0.4, None] * trials)[: trials + 1]:
        tried.note_end(value)
    return tried


@pytest.mark.parametrize(("trials", "share"), [(0, 0.0), (1, 0.1), (5, 0.5), (10, 1.0), (25, 1.0)])
def test_the_distance_grows_with_each_trial_in_vain(trials: int, share: float) -> None:
    tried = in_vain(TriedSettings(PLANE), trials)
    tried.add({"lr": 1e-2, "beta1": 0.7})
    assert tried.spare([{"lr": 1e-2, "beta1": 0.7}])[0] == pytest.approx(-SPACING * share)
    tried.note_end(0.6)
    assert tried.spare([{"lr": 1e-2, "beta1": 0.7}])[0] == 0


def test_before_a_trial_is_complete_there_is_no_distance() -> None:
    tried = TriedSettings(PLANE)
    tried.add({"lr": 1e-2, "beta1": 0.7})
    for _ in range(20):
        tried.note_end(None)
    assert tried.spare([{"lr": 1e-2, "beta1": 0.7}])[0] == 0


def test_two_choices_are_as_far_apart_as_the_ends_of_a_range() -> None:
    tried = in_vain(TriedSettings(SPACE), PATIENCE)
    assert tried.spare([to_search(SPACE, DEFAULT)]) == [1.0]
    tried.add(DEFAULT)
    for changed in ({"restarts": "1x2"}, {"amsgrad": True}, {"beta1": 0.45}):
        other = {**DEFAULT, **changed}
        assert tried.spare([to_search(SPACE, other)])[0] == pytest.approx(1 - SPACING)
    assert tried.spare([to_search(SPACE, DEFAULT)])[0] == pytest.approx(-SPACING)


def test_a_setting_outside_of_the_space_is_no_neighbour_but_counts() -> None:
    tried = in_vain(TriedSettings(PLANE), PATIENCE)
    tried.add({"lr": 1.0, "beta1": 0.7})
    tried.add({"beta1": 0.7})
    assert tried.spare([{"lr": 1e-2, "beta1": 0.7}]) == [1.0]
    tried.add({"lr": 1e-2, "beta1": 0.7})
    assert tried.spare([{"lr": 1e-2, "beta1": 0.7}])[0] == pytest.approx(-SPACING / math.sqrt(3))


def test_a_knob_with_one_value_is_no_dimension() -> None:
    tried = in_vain(TriedSettings({**PLANE, "restarts": Choice(("2x1",))}), PATIENCE)
    for _ in range(4):
        tried.add({"lr": 1e-2, "beta1": 0.7, "restarts": "2x1"})
    assert tried.spare([{"lr": 1e-2, "beta1": 0.7}])[0] == pytest.approx(-SPACING / math.sqrt(4))
