"""Arms with own optimizers and own trainables: what a spec may say, and the trials that it gives."""

import re

import pytest

from tests.tuner.spec_texts import NOAM, SPEC, spec_of
from trainables.config import OptimizerConfig, TrialConfig
from trainables.hyper import Hyper
from trainables.own.trial import OwnTrial
from trainables.space import Choice, Float, Int, Plan
from tuner.errors import SpecError
from tuner.spec.arms import arms, own_plan, plan
from tuner.spec.search_spec import SearchSpec, fingerprint, from_dict, to_dict
from tuner.spec.trial_config import own_trial, plan_of, schedule_of, trial_config
from tuner.spec.user_code import arm_code, names_code

SGD = """\
  - name: sgd
    optimizer: torch.optim:SGD
    parameters:
      lr: {min: 1e-3, max: 1.0, scale: log}
      momentum: {min: 0.5, max: 0.99}
      batch_size: {values: [50, 100]}
      betas.1: {min: 0.9, max: 0.99}
    fixed: {nesterov: true, schedule: noam, warmup: 3}
"""
OWN = """\
name: own
metric: {choose: val_loss, judge: test_loss, goal: minimize}
pass: [seed]
baseline: small
arms:
  - name: small
    trainable: mine:Train
    parameters:
      depth: {min: 1, max: 4}
      rate: {min: 0.1, max: 1, scale: log}
    fixed: {eval_metric: [logloss, error], device: null}
  - trainable: mine:train
    parameters: {kind: {values: [a, b]}}
budget: {trials: 4, epochs: 5}
"""


def test_two_knobs_that_a_study_would_know_by_one_name_are_refused() -> None:
    spec = own_spec(
        ("rate: {min: 0.1, max: 1, scale: log}", "rate: {min: 0.1, max: 0.9, scale: one-minus-log}"),
        ("depth: {min: 1, max: 4}", "one_minus_rate: {min: 1, max: 4}"),
    )
    with pytest.raises(SpecError, match=r"rate has the scale one-minus-log, so its study knows it as one_minus_rate"):
        arms(spec, Plan(5, 1))


def own_spec(*edits: tuple[str, str]) -> SearchSpec:
    return spec_of(*edits, text=OWN)


def refusal(*edits: tuple[str, str], text: str = SPEC) -> str:
    with pytest.raises(SpecError) as caught:
        spec_of(*edits, text=text)
    return str(caught.value)


def test_an_own_optimizer_is_an_arm_with_its_own_arguments() -> None:
    spec = spec_of((NOAM, SGD))
    arm = arms(spec, plan(spec, 1000))[1]
    assert (arm.name, arm.kind, arm.variant) == ("sgd", "optimizer", "torch.optim:SGD")
    assert arm.space["lr"] == Float(1e-3, 1.0, "log")
    assert arm.space["momentum"] == Float(0.5, 0.99)
    assert arm.space["batch_size"] == Choice((50, 100))
    setting = arm.setting({"lr": 0.1, "momentum": 0.9, "batch_size": 50, "betas.1": 0.95})
    trial = trial_config(spec, "sgd", setting, seed=1)
    assert isinstance(trial, TrialConfig)
    assert trial.hyper == Hyper(lr=0.1, schedule="noam", warmup=3)
    assert trial.batch_size == 50
    assert trial.optimizer == OptimizerConfig(
        "torch.optim:SGD", {"nesterov": True, "momentum": 0.9, "betas.1": 0.95}, None
    )
    assert TrialConfig.from_dict(trial.to_dict()) == trial


def test_every_batch_size_has_its_own_plan() -> None:
    spec = spec_of((NOAM, SGD))
    planned = plan(spec, 1000)
    assert planned == Plan(8, 10)
    assert plan_of(spec, planned, {"batch_size": 50}) == Plan(8, 20)
    schedule = schedule_of(spec, planned, "sgd", {"lr": 0.1, "schedule": "noam", "warmup": 3, "batch_size": 50})
    assert schedule is not None
    assert schedule.plan == Plan(8, 20)


def test_a_range_in_updates_fits_the_largest_batch() -> None:
    spec = spec_of((NOAM, "  - {variant: noam, parameters: {batch_size: {min: 50, max: 200}}}\n"))
    arm = arms(spec, plan(spec, 1000))[1]
    warmup = arm.space["warmup"]
    assert isinstance(warmup, Int)
    assert warmup.high == 12  # 30 % of 8 epochs of 5 updates


def test_a_variant_has_the_knobs_of_the_training_too() -> None:
    spec = spec_of((NOAM, "  - {variant: noam, fixed: {batch_size: 50}}\n"))
    arm = arms(spec, plan(spec, 1000))[1]
    setting = arm.setting(arm.default)
    assert setting["batch_size"] == 50
    assert setting["beta1"] == 0.9
    trial = trial_config(spec, "noam", setting, seed=1)
    assert isinstance(trial, TrialConfig)
    assert trial.batch_size == 50


def test_an_own_trainable_has_neither_data_nor_a_model() -> None:
    spec = own_spec()
    assert [arm.name for arm in spec.arms] == ["small", "train"]
    arm = arms(spec, own_plan(spec))[0]
    assert arm.space == {"depth": Int(1, 4), "rate": Float(0.1, 1.0, "log")}
    setting = arm.setting({"depth": 2, "rate": 0.5})
    assert own_trial(spec, "small", setting, 7) == OwnTrial(
        trainable="mine:Train",
        config={"eval_metric": ["logloss", "error"], "device": None, "depth": 2, "rate": 0.5},
        epochs=5,
        seed=7,
        passed=("seed",),
        choose="val_loss",
        judge="test_loss",
    )
    assert schedule_of(spec, own_plan(spec), "small", setting) is None


def test_a_gain_is_positive_where_the_value_is_better() -> None:
    metric = own_spec().metric
    assert (metric.key, metric.judged, metric.maximize) == ("val_loss", "test_loss", False)
    assert metric.gain(1.0, 3.0) == 2.0
    in_points = own_spec(("goal: minimize", "goal: maximize, unit: points")).metric
    assert in_points.gain(0.75, 0.5) == 25.0
    assert spec_of().metric.gain(0.75, 0.5) == 25.0


def test_without_a_judge_metric_the_choosing_one_judges() -> None:
    assert own_spec(("judge: test_loss, ", "")).metric.judged == "val_loss"


def test_the_margin_of_an_own_metric_is_in_its_own_unit() -> None:
    assert own_spec().confirm.margin == 0
    assert own_spec(("budget:", "confirm: {margin: 250}\nbudget:")).confirm.margin == 250
    assert own_spec(("goal: minimize", "goal: maximize, unit: points")).confirm.margin == 0.5
    assert "at most 100" in refusal(("name: job", "name: job\nconfirm: {margin: 101}"))


@pytest.mark.parametrize("text", [SPEC.replace(NOAM, SGD), OWN])
def test_a_spec_is_read_back_from_its_values(text: str) -> None:
    spec = spec_of(text=text)
    again = from_dict(to_dict(spec))
    assert again == spec
    assert fingerprint(again) == fingerprint(spec)


def test_what_a_spec_does_not_use_does_not_change_its_fingerprint() -> None:
    values = to_dict(spec_of())
    assert set(values["arms"][0]) == {"variant", "name", "parameters", "fixed"}
    assert set(values["metric"]) == {"name", "goal"}
    assert "pass" not in values


def test_only_code_that_no_package_has_travels() -> None:
    assert not names_code(spec_of((NOAM, SGD)))
    own = spec_of((NOAM, SGD), ("schedule: noam, warmup: 3", "schedule: 'mine:factor'"))
    assert names_code(own)
    assert [path for _, path in arm_code(own)] == ["torch.optim:SGD", "mine:factor"]
    assert names_code(own_spec())


MIXED = "  - {name: mine, trainable: 'mine:Train', parameters: {depth: {min: 1, max: 4}}}\n"


@pytest.mark.parametrize(
    ("edit", "text", "said"),
    [
        ((NOAM, MIXED), SPEC, "arms[0]: has no own trainable, but another arm has"),
        ((NOAM, "  - {variant: noam, optimizer: 'torch.optim:SGD'}\n"), SPEC, "has variant and optimizer"),
        ((NOAM, "  - {optimizer: 'torch.optim.SGD'}\n"), SPEC, "arms[1].optimizer: is 'torch.optim.SGD'; write"),
        (
            (NOAM, "  - {optimizer: 'torch.optim:SGD', parameters: {momentum: {min: 0, max: 0.9}}}\n"),
            SPEC,
            "arms[1].parameters: lr is missing",
        ),
        ((NOAM, "  - {optimizer: 'torch.optim:SGD', fixed: {lr: 0.1}}\n"), SPEC, "arms[1].parameters: is empty"),
        ((NOAM, "  - {variant: noam, groups: 'mine:groups'}\n"), SPEC, "arms[1].groups: is for arms with an own"),
        ((NOAM, "  - {variant: noam, fixed: {model.depth: 2}}\n"), SPEC, "is an option of your own model"),
        ((NOAM, "  - {variant: noam, fixed: {augment_shift: 2}}\n"), SPEC, "has no effect, because data.augment"),
        ((NOAM, "  - {variant: noam, fixed: {batch_size: 0}}\n"), SPEC, "must be a whole number from 1"),
        ((NOAM, "  - {variant: noam, fixed: {momentum: 0.9}}\n"), SPEC, "no knob has this name"),
        (("name: job", "name: job\npass: [seed]"), SPEC, "pass: is for own trainables only"),
        (("name: job", "name: job\nmetric: {choose: f1, goal: maximize}"), SPEC, "metric.choose: is for own"),
        (("name: own", "name: own\ndata: {name: digits}"), OWN, "data: is not used"),
        (("metric: {choose: val_loss, judge: test_loss, goal: minimize}\n", ""), OWN, "metric: choose is missing"),
        ((", goal: minimize", ""), OWN, "metric.goal: is missing; maximize or minimize"),
        (("choose: val_loss", "choose: val_loss, name: val/acc"), OWN, "metric.name: is for the built-in"),
        (("epochs: 5", "epochs: 5, batch_size: 32"), OWN, "budget.batch_size: is for the built-in training"),
        (("pass: [seed]", "resources: auto"), OWN, "resources.auto: is for the built-in training"),
        (("pass: [seed]", "pass: [speed]"), OWN, "pass[0]: is 'speed'; must be 'seed' or 'read_test'"),
        (("      depth:", "      '1st depth':"), OWN, "a knob's name has 1 to 64"),
        (("  rate: {min: 0.1", "  rate: {min: 2"), OWN, "min 2 is above max 1"),
    ],
)
def test_bad_arms_are_refused_with_their_place(edit: tuple[str, str], text: str, said: str) -> None:
    found = refusal(edit, text=text)
    assert said in found
    assert re.match(r"job\.yaml:\d+: ", found)
