"""Steps of real numbers, conditional knobs, first settings, warm starts and a searched batch size in a spec."""

import jsonschema
import pytest

from tests.tuner.spec_texts import NOAM, SPEC, more, noam, spec_of
from trainables.space import Choice, Float, Int, Plan
from tuner.errors import SpecError
from tuner.spec.arms import Arm, arms, own_plan, recorded_arms, warnings
from tuner.spec.checks import check_sampler
from tuner.spec.json_schema import json_schema
from tuner.spec.ranges import Range
from tuner.spec.search_spec import SearchSpec, fingerprint, from_dict, to_dict
from tuner.spec.strict_yaml import read_text
from tuner.spec.trial_config import image_trial, own_trial

PLAN = Plan(8, 10, 1000)
SCHEDULES = "schedule: {values: [constant, cosine, noam]}"
WARMUP = "warmup: {min: 1, max: 20, scale: log, when: {schedule: noam}}"


def spec(*lines: str, top: str = "") -> SearchSpec:
    """The small spec whose second arm is ``adam_l2`` with these lines, of which the first is line 11."""
    text = "".join(f"    {line}\n" for line in ("name: x", *lines))
    return spec_of((NOAM, f"  - variant: adam_l2\n{text}"), more(top))


def parameters(*ranges: str) -> list[str]:
    return ["parameters:", *(f"  {range_}" for range_ in ranges)]


def second(*lines: str, top: str = "") -> Arm:
    return arms(spec(*lines, top=top), PLAN)[1]


def error(*lines: str, top: str = "") -> str:
    with pytest.raises(SpecError) as caught:
        second(*lines, top=top)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("range_", "domain"),
    [
        ({"min": 1, "max": 9}, Int(1, 9)),
        ({"min": 1, "max": 9, "step": 4}, Int(1, 9, step=4)),
        ({"min": 1, "max": 2.0}, Float(1.0, 2.0)),
        ({"min": 1, "max": 9, "step": 0.5}, Float(1.0, 9.0, step=0.5)),
        ({"min": 1e-3, "max": 1, "scale": "log"}, Float(1e-3, 1.0, "log")),
        ({"values": (1, 0.5, "a", "b")}, Choice((1, 0.5, "a", "b"))),
    ],
)
def test_the_type_of_a_free_knob_follows_from_its_range(range_: dict[str, object], domain: object) -> None:
    found = Range.model_validate(range_).free_domain()
    assert (type(found), found) == (type(domain), domain)


@pytest.mark.parametrize("values", [(1, 1.0), (1, True), ("a", "a")])
def test_a_free_choice_has_no_two_values_that_are_equal(values: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="names a value twice"):
        Range.model_validate({"values": values}).free_domain()


def test_a_conditional_knob_comes_after_the_one_it_depends_on_and_is_no_part_of_other_settings() -> None:
    arm = second(*parameters(WARMUP, SCHEDULES))
    assert list(arm.space) == ["lr", "l2", "schedule", "warmup"]
    assert arm.when == {"warmup": {"schedule": ("noam",)}}
    assert arm.opening == (arm.default,)
    assert arm.default == {"lr": 6e-4, "l2": 1e-4, "schedule": "constant"}
    assert arm.searched("warmup") == "1 to 20, log (if schedule is noam)"
    assert arm.applying(arm.setting(arm.default)) == ("lr", "l2", "schedule")
    assert arm.setting(arm.default)["warmup"] == 0


def test_a_condition_on_a_fixed_value_that_holds_is_no_condition() -> None:
    arm = second(*parameters(WARMUP), "fixed: {schedule: noam}")
    assert (arm.when, list(arm.default)) == ({}, ["lr", "l2", "warmup"])
    of_variant = arms(spec_of(noam("parameters:\n  " + WARMUP)), PLAN)[1]
    assert (of_variant.when, list(of_variant.default)) == ({}, ["lr", "l2", "warmup"])


def test_conditions_survive_the_record() -> None:
    given = spec(*parameters(WARMUP, SCHEDULES, "beta1: {min: 0.5, max: 0.9, step: 0.1}"), "first: [{schedule: noam}]")
    kept = to_dict(given)
    assert kept["arms"][1]["parameters"]["warmup"]["when"] == {"schedule": ["noam"]}
    assert from_dict(kept) == given
    ranges = {arm.name: {knob: str(domain) for knob, domain in arm.space.items()} for arm in arms(given, PLAN)}
    assert recorded_arms(from_dict(kept), PLAN, ranges) == arms(given, PLAN)


def test_a_spec_without_the_new_keys_has_none_of_them_among_its_values() -> None:
    kept = to_dict(spec_of(noam("parameters: {l2: {min: 0.1, max: 1}}")))
    assert set(kept["arms"][1]) == {"variant", "name", "parameters", "fixed"}
    assert set(kept["arms"][1]["parameters"]["l2"]) == {"min", "max", "scale", "step", "values"}
    assert fingerprint(spec_of()) == "c74e685aecd93552606c4064ff9eca4abbeaf9b2795ceae222404e863ef71181"


REFUSED = {
    "a value it never has": ((*parameters(SCHEDULES, "warmup: {min: 1, max: 9, when: {schedule: x}}"),),
                             "13: arms[1].parameters.warmup.when.schedule: schedule is never 'x'; its values are"),
    "a fixed value that it has not": ((*parameters(WARMUP), "fixed: {schedule: cosine}"),
                                      "12: arms[1].parameters.warmup.when.schedule: never applies, because schedule is "
                                      "fixed to 'cosine'"),
    "a range": ((*parameters("beta1: {values: [0.8, 0.9], when: {lr: 1}}"),),
                "12: arms[1].parameters.beta1.when.lr: lr has the range"),
    "an unknown knob": ((*parameters(SCHEDULES, "beta1: {values: [0.8, 0.9], when: {shedule: noam}}"),),
                        "did you mean 'schedule'?"),
    "itself": ((*parameters("beta1: {values: [0.8, 0.9], when: {beta1: 0.8}}"),), "circle: beta1 -> beta1"),
    "a circle": ((*parameters("beta1: {values: [0.8, 0.9], when: {beta2: 0.8}}",
                              "beta2: {values: [0.8, 0.9], when: {beta1: 0.8}}"),),
                 "12: arms[1].parameters.beta1.when: the conditions go round in a circle: beta1 -> beta2 -> beta1"),
    "no other knob": ((*parameters("beta1: {values: [0.8, 0.9], when: {}}"),), "when: has 0; must have at least 1"),
    "no value": ((*parameters("beta1: {values: [0.8, 0.9], when: {beta2: []}}"),), "has 0; must have at least 1"),
    "a schedule without effect": ((*parameters(SCHEDULES, "warmup: {min: 1, max: 9, when: {schedule: cosine}}"),),
                                  "13: arms[1].parameters.warmup: "),
    "too long a warm-up in its branch": ((*parameters(SCHEDULES, "warmup: {min: 1, max: 99, when: {schedule: noam}}"),),
                                         "warmup of 99 updates must be at least 1 and shorter"),
    "a warm-up too long for a large batch": (
        (*parameters("batch_size: {values: [10, 50]}", "warmup: {min: 1, max: 160}"), "fixed: {schedule: noam}"),
        "shorter than the training (160 updates)"),
    "a batch of more than all images": ((*parameters("batch_size: {values: [10, 5000]}"),),
                                        "batch_size 5000 is more than the 1000 training images"),
    "a first value outside": (("first: [{lr: 0.001}, {lr: 1}]",),
                              "11: arms[1].first[1].lr: is 1; the arm searches 0.00012 to 0.0016, log"),
    "a first value between the steps": ((*parameters("beta1: {min: 0.5, max: 0.9, step: 0.2}"),
                                         "first: [{beta1: 0.6}]"),
                                        "is 0.6; the arm searches 0.5 to 0.9, linear, step 0.2"),
    "a first knob that is not searched": (("first: [{beta1: 0.8}]",), "it searches: lr, l2"),
    "a first knob that does not apply": ((*parameters(SCHEDULES, WARMUP), "first: [{warmup: 3}]"),
                                         "first[0].warmup: does not apply in this setting (if schedule is noam)"),
    "a first setting twice": (("first: [{lr: 0.001}, {lr: 0.001}]",), "first[1]: is the same setting as number 0"),
    "too many first settings": (("first: [{}, {lr: 0.001}, {lr: 0.0011}, {lr: 0.0012}, {lr: 0.0013}]",),
                                "lists 5 settings; must be at most budget.trials (4)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_refused_in_one_line(case: str) -> None:
    lines, problem = REFUSED[case]
    assert problem in error(*lines)


def test_a_warm_start_is_for_a_claim_about_settings_and_a_sampler_that_learns() -> None:
    assert "every search would repeat the luck of one job" in error("warm_start: job-1", top="claim: method\n")
    for sampler in ("random", "qmc", "cmaes"):
        message = error("warm_start: job-1", top=f"sampler: {sampler}\n")
        assert f"the sampler {sampler} learns nothing from other trials; use tpe or gp" in message


def test_first_settings_replace_the_default_and_are_filled_up_with_it() -> None:
    arm = second(*parameters(SCHEDULES, WARMUP), "first: [{schedule: noam}, {lr: 0.001}]")
    noam_first = {"lr": 6e-4, "l2": 1e-4, "schedule": "noam", "warmup": 4}
    assert arm.opening == (noam_first, {"lr": 1e-3, "l2": 1e-4, "schedule": "constant"})
    assert arm.default == noam_first


def test_unequal_starts_are_told() -> None:
    told = warnings(spec("first: [{lr: 0.001}]", "warm_start: job-1"), PLAN)
    assert any("arm x begins with 1 setting of the spec, the baseline with its default" in line for line in told)
    assert any("the sampler of x learns from the trials of job job-1" in line for line in told)
    assert not warnings(spec(), PLAN)


@pytest.mark.parametrize(("sampler", "refused"), [("gp", True), ("cmaes", True), ("tpe", False), ("qmc", False)])
def test_samplers_that_cannot_search_conditional_knobs_are_refused(sampler: str, refused: bool) -> None:
    given = spec(*parameters(SCHEDULES, WARMUP), top=f"sampler: {sampler}\n")
    found = arms(given, PLAN)
    if not refused:
        check_sampler(given, found)
        return
    with pytest.raises(SpecError, match=r"schedule|warmup") as caught:
        check_sampler(given, found)
    assert "use tpe" in str(caught.value)


def test_ranges_in_updates_fit_the_largest_batch() -> None:
    small = arms(spec_of(noam("fixed: {batch_size: 10}")), PLAN)[1].space["warmup"]
    searched = arms(spec_of(noam("parameters: {batch_size: {min: 10, max: 100, step: 10}}")), PLAN)[1].space["warmup"]
    assert small == Int(8, 240, "log")
    assert searched == Int(1, 24, "log") == arms(spec_of(), PLAN)[1].space["warmup"]


def test_the_schema_knows_the_new_keys() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    arm = "  - {variant: adam_l2, name: x, first: [{lr: 0.1}], warm_start: job-1, parameters: {beta1: RANGE}}\n"
    for range_, good in [
        ("{min: 0.5, max: 0.9, step: 0.1, when: {schedule: noam}}", True),
        ("{values: [0.5, 0.9], when: {schedule: [noam, cosine]}}", True),
        ("{min: 0.5, max: 0.9, step: 0}", False),
        ("{values: [0.5, 0.9], when: noam}", False),
        ("{values: [0.5, 0.9], when: {}}", False),
    ]:
        value = read_text(SPEC.replace(NOAM, arm.replace("RANGE", range_)), "job").value
        assert validator.is_valid(value) == good, range_


SGD = """\
  - optimizer: "torch.optim:SGD"
    parameters:
      lr: {min: 1e-3, max: 1, scale: log}
      nesterov: {values: [true, false]}
      momentum: {min: 0.5, max: 0.9, step: 0.1, when: {nesterov: true}}
      schedule: {values: [cosine, noam]}
      warmup: {min: 1, max: 20, when: {schedule: noam}}
    fixed: {weight_decay: 0}
    first: [{nesterov: false, schedule: noam}]
"""


def test_the_arguments_of_an_own_optimizer_may_be_conditional() -> None:
    given = spec_of((NOAM, SGD))
    arm = arms(given, PLAN)[1]
    assert arm.space["momentum"] == Float(0.5, 0.9, step=0.1)
    assert arm.when == {"momentum": {"nesterov": (True,)}, "warmup": {"schedule": ("noam",)}}
    assert list(arm.default) == ["lr", "nesterov", "schedule", "warmup"]
    for sampled, arguments in [
        ({**arm.default}, {"nesterov": False, "weight_decay": 0}),
        ({**arm.default, "nesterov": True, "momentum": 0.6}, {"nesterov": True, "momentum": 0.6, "weight_decay": 0}),
    ]:
        trial = image_trial(given, "SGD", arm.setting(sampled), 0)
        assert trial.optimizer is not None
        assert dict(trial.optimizer.arguments) == arguments
        assert (trial.hyper.schedule, trial.hyper.warmup) == ("noam", arm.default["warmup"])


TRAINABLES = """\
name: job
baseline: one
claim: setting
metric: {choose: loss, goal: minimize}
arms:
  - name: one
    trainable: "mine:train"
    parameters:
      kind: {values: [tree, line]}
      depth: {min: 1, max: 9, when: {kind: tree}}
      ridge: {min: 0, max: 1, step: 0.25, when: {kind: line}}
    fixed: {layers: [1, 2], data: small}
  - name: two
    trainable: "mine:train"
    parameters:
      x: {min: 0, max: 1, when: {data: [small, large]}}
    fixed: {data: small}
budget: {trials: 4, epochs: 8}
"""


def test_the_keys_of_an_own_trainable_may_be_conditional() -> None:
    given = spec_of(text=TRAINABLES)
    one, two = arms(given, own_plan(given))
    assert one.space["ridge"] == Float(0.0, 1.0, step=0.25)
    assert one.default == {"kind": "tree", "depth": 5}
    assert two.when == {}
    trial = own_trial(given, "one", one.setting({"kind": "line", "ridge": 0.5}), 0)
    assert trial.config == {"layers": [1, 2], "data": "small", "kind": "line", "ridge": 0.5}
    listed = spec_of(("{data: small}\nbudget", "{data: large}\nbudget"), text=TRAINABLES)
    assert [arm.when for arm in arms(listed, own_plan(listed))][1] == {}
    wrong = spec_of(("when: {kind: tree}", "when: {layers: 1}"), text=TRAINABLES)
    with pytest.raises(SpecError, match="the arm has no knob layers with values or a fixed value"):
        arms(wrong, own_plan(wrong))
