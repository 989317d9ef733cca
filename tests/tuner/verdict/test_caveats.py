"""The warnings on a job's numbers, and the cases without a warning."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.tuner.events import History
from tests.tuner.own_jobs import OwnHistory, own_spec
from tests.tuner.spec_texts import more, spec_of
from trainables.report import ConfirmResult
from trainables.space import Choice, Domain, Float, Int, Scalar, position
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import TrialBegun, TrialEnded
from tuner.verdict.paired_test import Comparison
from tuner.verdict.ranking import build

TWO = spec_of(("- variant: noam", "- adamw"))


def warnings(history: History, spec: SearchSpec = TWO) -> str:
    return "\n".join(build(history.record(), spec).warnings)


def with_knobs(spec: SearchSpec, **knobs: Scalar) -> History:
    """One whole trial per arm; the second arm's trial has these settings."""
    history = History(spec)
    for name in history.arms:
        history.trial(name, 0, [0.5, 0.6])
    for place, entry in enumerate(history.entries):
        event = entry.event
        if isinstance(event, TrialBegun) and event.arm == list(history.arms)[1]:
            changed = replace(event, hyper={**event.hyper, **knobs}, knobs={**event.knobs, **knobs})
            history.entries[place] = replace(entry, event=changed)
    return history


def test_a_search_that_went_well_has_no_warning_about_ranges() -> None:
    assert "range" not in warnings(with_knobs(TWO, lr=1e-3))


def test_a_best_value_at_the_end_of_its_range_gives_a_warning_with_a_wider_range() -> None:
    text = warnings(with_knobs(TWO, lr=0.00159))
    assert "the best lr lies at the upper end of its range (0.00012 to 0.0016, log): adamw 0.00159; " in text
    wider = text.split("; to widen the range for all arms with this knob, set ")[1].splitlines()[0]
    assert wider == "parameters: {lr: {min: 0.00012, max: 0.0058424, scale: log}}"
    assert load_with(wider).parameters["lr"].max == 0.0058424


def test_where_an_arm_has_a_range_of_its_own_the_warning_names_it() -> None:
    spec = spec_of(("- variant: noam", "- variant: adamw\n    parameters: {lr: {min: 1e-4, max: 1e-2, scale: log}}"))
    text = warnings(with_knobs(spec, lr=0.0099), spec)
    assert text.count("; to widen the range, set max: 0.1 for lr under the parameters of adamw") == 1
    assert "set parameters" not in text


def test_what_an_own_trainable_allows_only_the_user_knows() -> None:
    spec = own_spec(
        ("{alpha: {min: 0.01,", "{lr: {min: 0.01,"),
        ("scale: log}}\n", "scale: log}}\n    first: [{lr: 9}]\n"),
    )
    history = OwnHistory(spec)
    history.searched({"ridge": [0.5], "trees": [0.4]})
    text = warnings(history, spec)
    assert "the best lr lies at the upper end of its range (0.01 to 10, log): ridge 9" in text
    assert "widen" not in text


CONDITIONAL = spec_of(
    (
        "- variant: noam",
        "- variant: adam_l2\n    name: other\n    parameters:\n"
        "      schedule: {values: [constant, noam]}\n"
        "      warmup: {min: 1, max: 70, when: {schedule: noam}}\n",
    )
)


@pytest.mark.parametrize(("schedule", "warned"), [("noam", True), ("constant", False)])
def test_a_knob_that_does_not_apply_lies_at_no_end_of_its_range(schedule: str, warned: bool) -> None:
    text = warnings(with_knobs(CONDITIONAL, schedule=schedule, warmup=1), CONDITIONAL)
    assert ("the best warmup lies at the lower end of its range (1 to 70, linear): other 1" in text) == warned


def test_unequal_first_settings_and_a_warm_start_stand_beside_the_verdict() -> None:
    begun = "  - variant: adamw\n    first: [{lr: 0.001}, {lr: 0.0011}]\n    warm_start: job-0\n"
    spec = spec_of(("  - variant: noam\n", begun))
    history = with_knobs(spec, lr=1e-3)
    trial = {"knobs": {"lr": 1e-3, "lambda_norm": 0.05}, "state": "complete", "epoch": 8, "value": 0.5}
    history.add("earlier", arm="adamw", job="job-0", trials=[trial, trial])
    text = warnings(history, spec)
    assert "the arms began with unequal first settings (adam_l2 with its default, adamw with 2 of the spec)" in text
    assert "the sampler of adamw knew 2 trials of job job-0 from the start; they are not counted among its" in text
    assert build(history.record(), spec).rows[1].trials == 1
    assert "first settings" not in warnings(with_knobs(TWO, lr=1e-3))


def load_with(parameters: str) -> SearchSpec:
    return spec_of(("- variant: noam", "- adamw"), more(f"{parameters}\n"))


def test_a_best_value_at_the_lower_end_gives_a_warning_too() -> None:
    text = warnings(with_knobs(TWO, lr=1.3e-4))
    assert "lies at the lower end" in text
    assert "min: 3.3e-05, max: 0.0016" in text


@pytest.mark.parametrize(
    ("domain", "value", "at"),
    [
        (Float(1e-4, 1e-2, "log"), 1e-3, 0.5),
        (Float(0.9, 0.999, "one-minus-log"), 0.99, 0.5),
        (Float(0.0, 4.0), 1.0, 0.25),
        (Int(10, 1000, "log"), 100, 0.5),
        (Int(1, 3), 2, None),
        (Choice(("a", "b")), "a", None),
    ],
)
def test_the_position_of_a_value_is_on_the_scale_of_its_range(domain: Domain, value: Scalar, at: float | None) -> None:
    assert position(domain, value) == (None if at is None else pytest.approx(at))


def test_few_trials_for_several_knobs_give_a_warning() -> None:
    assert "4 trials per arm are few for up to 2 knobs" in warnings(with_knobs(TWO))
    many = spec_of(("- variant: noam", "- adamw"), ("trials: 4", "trials: 40"))
    assert "are few" not in warnings(with_knobs(many), many)


def test_restarts_that_do_not_end_on_a_cycle_give_a_warning() -> None:
    spec = spec_of(("- variant: noam", "- adamw_restarts"))
    assert "its last cycle is cut short" not in warnings(with_knobs(spec, restarts="4x1"), spec)
    assert "no cycle of adamw_restarts (restarts 3x1) ends at epoch 8: its last cycle is cut short" in warnings(
        with_knobs(spec, restarts="3x1"), spec
    )


def test_if_more_seeds_would_settle_the_question_the_warning_says_how_many() -> None:
    history = with_knobs(TWO)
    base, close = {1: 0.5, 2: 0.51, 3: 0.52}, {1: 0.53, 2: 0.51, 3: 0.55}
    history.confirm(1, {"adam_l2": 0, "adamw": 0}, {"adam_l2": base, "adamw": close})
    row = build(history.record(), TWO).rows[1]
    assert isinstance(row.comparison, Comparison)
    needed = row.comparison.seeds_needed
    assert needed is not None
    assert f"(adamw about {needed}): start a new job with another seed and confirm: {{seeds: {needed}}}" in (
        warnings(history)
    )


AMSGRAD = spec_of(("- variant: noam", "- amsgrad"))


def with_active(shares: Sequence[float | None]) -> History:
    """A confirmed job in which these shares of the weights had an active maximum, seed by seed."""
    history = History(AMSGRAD)
    for name in history.arms:
        history.trial(name, 0, [0.5, 0.6])
    tests = {seed: 0.5 + 0.01 * seed for seed, _ in enumerate(shares)}
    history.confirm(1, dict.fromkeys(history.arms, 0), dict.fromkeys(history.arms, tests))
    left = iter(shares)
    for place, entry in enumerate(history.entries):
        event = entry.event
        if isinstance(event, TrialEnded) and isinstance(event.result, ConfirmResult) and "amsgrad" in event.trial:
            changed = replace(event, result=replace(event.result, max_active=next(left)))
            history.entries[place] = replace(entry, event=changed)
    return history


def test_a_maximum_that_is_hardly_active_is_told() -> None:
    text = warnings(with_active([0.0, 0.012, 0.9]), AMSGRAD)
    assert (
        "the maximum of amsgrad was active in 1.2 % of the weights at the end of a training (median of 3 confirm runs)"
        ": it was nearly Adam"
    ) in text.splitlines()


def test_a_maximum_that_is_active_is_told_without_a_judgement() -> None:
    text = warnings(with_active([0.3, 0.4, 0.5]), AMSGRAD)
    assert "the maximum of amsgrad was active in 40 % of the weights" in text
    assert "nearly Adam" not in text


def test_journals_that_do_not_know_the_maximum_give_no_word_about_it() -> None:
    assert "maximum of" not in warnings(with_active([None, None, None]), AMSGRAD)
