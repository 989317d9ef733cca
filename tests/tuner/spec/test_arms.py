"""Arms resolved against a plan: their search spaces, their first settings, and the settings that do not fit."""

import pytest

from tests.tuner.spec_texts import SPEC, more, noam, search, spec_of
from trainables.space import Choice, Float, Int, Plan
from trainables.variants import VARIANTS
from tuner.errors import SpecError
from tuner.spec.arms import Arm, arms, plan, recorded_arms, warnings
from tuner.spec.search_spec import SearchSpec

PLAN = Plan(epochs=8, steps_per_epoch=10)


def second(*edits: tuple[str, str]) -> Arm:
    return arms(spec_of(*edits), PLAN)[1]


def with_arm(variant: str, *lines: str) -> tuple[str, str]:
    return "  - variant: noam\n", f"  - variant: {variant}\n" + "".join(f"    {line}\n" for line in lines)


def error_of(spec: SearchSpec, planned: Plan = PLAN) -> str:
    with pytest.raises(SpecError) as caught:
        arms(spec, planned)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_baseline_comes_first_and_the_others_keep_their_order() -> None:
    spec = spec_of(("baseline: adam_l2", "baseline: noam"), more("seed: 1\n"), ("- adam_l2", "- adam_l2\n  - adamw"))
    assert [arm.name for arm in arms(spec, PLAN)] == ["noam", "adam_l2", "adamw"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_starts_with_its_known_good_default_inside_its_space(variant: str) -> None:
    row, planned = VARIANTS[variant], Plan(epochs=8, steps_per_epoch=2000)
    arm = arms(spec_of(with_arm(variant, "name: other")), planned)[1]
    assert list(arm.space) == list(row.space)
    for knob, domain in arm.space.items():
        assert domain.contains(arm.default[knob])
    hyper = arm.hyper(arm.default)
    for knob, value in {**row.default, **row.fixed, "lr": 6e-4}.items():
        assert getattr(hyper, knob) == value


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("width", "range_", "first"),
    [
        ("1.0", Float(1.2e-4, 1.6e-3, "log"), 6e-4),
        ("0.125", Float(9.6e-4, 1.3e-2, "log"), 4.8e-3),
        ("0.0625", Float(1.9e-3, 2.6e-2, "log"), 9.6e-3),
        ("0.0001", Float(5.8e-3, 7.7e-2, "log"), 2.9e-2),  # as 4 / 192: the net gets no narrower
    ],
)
def test_the_learning_rate_scales_with_the_width_of_the_net(
    variant: str, width: str, range_: Float, first: float
) -> None:
    arm = second(with_arm(variant, "name: other"), ("name: elu_net", f"name: elu_net\n  width: {width}"))
    assert (arm.space["lr"], arm.default["lr"]) == (range_, first)


def test_the_users_own_model_keeps_its_range_of_learning_rates() -> None:
    arm = second(("name: elu_net", "name: my.code:net\n  options: {width: 0.125}"))
    assert (arm.space["lr"], arm.default["lr"]) == (Float(1e-4, 1e-2, "log"), 1e-3)


def test_a_range_in_the_spec_keeps_the_first_learning_rate_of_the_width_if_it_is_inside() -> None:
    narrow = ("name: elu_net", "name: elu_net\n  width: 0.125")
    arm = second(narrow, search("lr", "{min: 1e-4, max: 1e-2}"))
    assert (arm.space["lr"], arm.default["lr"]) == (Float(1e-4, 1e-2, "log"), 4.8e-3)
    arm = second(narrow, search("lr", "{min: 1e-4, max: 1e-3}"))
    assert arm.default["lr"] == pytest.approx(10**-3.5)


@pytest.mark.parametrize("variant", ["amsgrad", "adam_beta2"])
def test_beta2_starts_in_the_middle_of_its_range_if_the_known_good_value_remembers_too_long(variant: str) -> None:
    arm = second(with_arm(variant))
    assert arm.space["beta2"] == Float(0.9, 0.95, "one-minus-log")  # 80 updates
    assert arm.default["beta2"] == pytest.approx(1 - (0.1 * 0.05) ** 0.5)


def test_a_job_on_record_keeps_the_ranges_of_its_version() -> None:
    spec = spec_of(with_arm("amsgrad"))
    now = {arm.name: {knob: str(domain) for knob, domain in arm.space.items()} for arm in arms(spec, PLAN)}
    assert recorded_arms(spec, PLAN, now) == arms(spec, PLAN)
    then = {**now, "amsgrad": {"lr": "0.0001 to 0.01, log", "beta2": "0.9 to 0.9999, one-minus-log", "l2": "any"}}
    baseline, amsgrad = recorded_arms(spec, PLAN, then)
    assert baseline == arms(spec, PLAN)[0]
    assert amsgrad.space == {
        "lr": Float(1e-4, 1e-2, "log"),
        "l2": Float(1e-6, 1e-2, "log"),
        "beta2": Float(0.9, 0.9999, "one-minus-log"),
    }


def test_a_default_outside_the_range_is_replaced_by_the_middle_of_the_range() -> None:
    arm = second(search("lr", "{min: 0.01, max: 1}"))
    assert arm.space["lr"] == Float(0.01, 1.0, "log")
    assert arm.default["lr"] == pytest.approx(0.1)


def test_the_range_of_an_arm_replaces_the_shared_range() -> None:
    spec = spec_of(search("lr", "{min: 0.01, max: 1}"), noam("parameters: {lr: {values: [0.1, 1]}}"))
    baseline, other = arms(spec, PLAN)
    assert baseline.space["lr"] == Float(0.01, 1.0, "log")
    assert other.space["lr"] == Choice((0.1, 1.0))
    assert {type(value) for value in other.space["lr"].values} == {float}


def test_a_shared_range_changes_only_the_arms_that_search_the_knob() -> None:
    baseline, other = arms(spec_of(search("warmup", "{min: 4, max: 20}")), PLAN)
    assert "warmup" not in baseline.space
    assert other.space["warmup"] == Int(4, 20, "log")


@pytest.mark.parametrize(
    ("range_", "domain"),
    [
        ("{min: 4, max: 20}", Int(4, 20, "log")),
        ("{min: 4, max: 20, scale: linear}", Int(4, 20)),
        ("{min: 4, max: 20, step: 8}", Int(4, 20, "linear", 8)),
        ("{values: [4, 20]}", Choice((4, 20))),
    ],
)
def test_a_range_of_whole_numbers_becomes_a_domain_of_whole_numbers(range_: str, domain: Int | Choice) -> None:
    assert second(search("warmup", range_)).space["warmup"] == domain


def test_an_arm_can_search_a_knob_that_its_variant_does_not_search() -> None:
    arm = second(noam("parameters: {eps: {min: 1e-9, max: 1e-3, scale: log}}"))
    assert list(arm.space) == ["lr", "l2", "warmup", "eps"]


def test_a_fixed_knob_is_not_searched_and_every_trial_has_its_value() -> None:
    arm = second(noam("fixed: {l2: 0, beta2: 0.98}"))
    assert list(arm.space) == ["lr", "warmup"]
    assert arm.fixed == {"l2": 0.0, "beta2": 0.98}
    hyper = arm.hyper({"lr": 0.1, "warmup": 3})
    assert (hyper.lr, hyper.l2, hyper.beta2, hyper.warmup, hyper.schedule) == (0.1, 0.0, 0.98, 3, "noam")


@pytest.mark.parametrize(
    ("edit", "place", "problem"),
    [
        (
            search("warmup", "{min: 4, max: 80}"),
            "job.yaml:14: parameters.warmup: ",
            "shorter than the training (80",
        ),
        (
            search("warmup", "{min: 0, max: 8, scale: linear}"),
            "job.yaml:14: parameters.warmup: ",
            "at least 1",
        ),
        (noam("fixed: {warmup: 80}"), "job.yaml:10: arms[1].fixed.warmup: ", "shorter than the training (80"),
        (
            with_arm("adamw", "fixed: {warmup: 5}"),
            "job.yaml:10: arms[1].fixed.warmup: ",
            "for schedule noam only",
        ),
        (
            with_arm("adamw", "parameters: {restarts: {values: [4x1, 2x1]}}"),
            "job.yaml:10: arms[1].parameters.restarts: ",
            "for schedule restarts only",
        ),
        (with_arm("adamw", "fixed: {schedule: noam}"), "job.yaml:9: arms[1]: ", "warmup of 0 updates"),
        (with_arm("adamw", "fixed: {schedule: restarts}"), "job.yaml:9: arms[1]: ", "T_0xT_mult"),
        (with_arm("adamw", "fixed: {l2: 0.1}"), "job.yaml:10: arms[1].fixed.l2: ", "both above 0"),
    ],
)
def test_a_setting_that_no_trial_can_have_is_refused_with_its_place(
    edit: tuple[str, str], place: str, problem: str
) -> None:
    message = error_of(spec_of(edit))
    assert message.startswith(place)
    assert problem in message


def test_training_too_short_for_a_warmup_or_restarts_is_refused_at_the_arm() -> None:
    assert error_of(spec_of(), Plan(1, 1)).startswith("job.yaml:9: arms[1]: a warm-up")
    message = error_of(spec_of(with_arm("adamw_restarts")), Plan(11, 10))
    assert message.startswith("job.yaml:9: arms[1]: no warm restarts")
    assert "nearest that do: 10, 12" in message


def test_restarts_that_do_not_end_with_the_trial_cause_a_warning_with_the_nearest_that_do() -> None:
    spec = spec_of(with_arm("adamw_restarts", "fixed: {restarts: 2x2}"))
    (warning,) = warnings(spec, PLAN)
    assert warning.startswith(
        "job.yaml:10: arms[1].fixed.restarts: 2x2 ends a cycle on epoch 6 or 14, but not on the last epoch (8); "
    )
    assert "use 2x2 with 6 or 14 epochs, or 4x1, 2x1, 1x1 with 8 epochs" in warning
    assert not warnings(spec, Plan(14, 10))


def test_each_choice_of_restarts_causes_its_own_warning() -> None:
    spec = spec_of(with_arm("adamw_restarts", "parameters: {restarts: {values: [4x1, 3x1, 11x1]}}"))
    assert [warning.split(": ")[2].split()[0] for warning in warnings(spec, PLAN)] == ["3x1", "11x1"]


@pytest.mark.parametrize("line", ["parameters: {lr: {min: 0.001, max: 0.1}}", "fixed: {lr: 0.1}"])
def test_learning_rates_that_differ_from_those_of_the_baseline_cause_a_warning(line: str) -> None:
    (warning,) = warnings(spec_of(noam(line)), PLAN)
    assert warning.startswith("job.yaml:10: arms[1].")
    assert "the baseline has 0.00012 to 0.0016 (log)" in warning


def test_a_fair_spec_causes_no_warning() -> None:
    assert warnings(spec_of(), PLAN) == ()


def test_the_plan_leaves_out_the_last_batch_if_it_is_smaller() -> None:
    assert plan(spec_of(), 1078) == Plan(8, 10)


def test_a_batch_larger_than_the_training_set_is_refused() -> None:
    with pytest.raises(SpecError, match=r"job.yaml:10: budget.batch_size: is 100; .*\(99\)"):
        plan(spec_of(), 99)


def test_the_message_for_a_spec_without_a_file_has_no_line_number() -> None:
    from tuner.spec.search_spec import from_dict
    from tuner.spec.strict_yaml import read_text

    value = read_text(SPEC, "job.yaml").value
    assert error_of(from_dict(value), Plan(1, 1)).startswith("spec: arms[1]: ")
