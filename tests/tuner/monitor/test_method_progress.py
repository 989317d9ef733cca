"""Progress of a job about methods: what is planned in each phase, and the lines of its log."""

from collections.abc import Callable

import pytest

from tests.tuner.events import History
from tests.tuner.method_jobs import PLACEBO, TRIALS, Searches, method_spec
from tuner.jobs.job_folder import JobFolder
from tuner.monitor.event_log import log_lines
from tuner.monitor.progress import ArmProgress, Progress
from tuner.monitor.terminal import look_line
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import LookTaken, Outcome, State

MadeUp = Callable[[str, History], JobFolder]
OPEN, BEATS, FUTILE = Outcome.NOT_ENOUGH, Outcome.BEATS, Outcome.FUTILE
SPEC = method_spec(PLACEBO, looks="[3, 5, 8]")
ARMS = ("adam_l2", "noam", "adamw", "placebo")
FAMILIES = """\
families:
  annealing: {baseline: adam_l2, arms: [noam], alpha: 0.03}
  optimizer: {baseline: noam, arms: [adamw], alpha: 0.02}
"""
SELECTION, FRESH = 9, 5
"""Runs that choose the best setting of a method, and that confirm it."""


def progress(history: Searches, spec: SearchSpec = SPEC) -> Progress:
    return Progress(spec, history.record(), concurrent=1)


def planned(history: Searches, spec: SearchSpec = SPEC) -> dict[str, int]:
    """Searches of each arm that are planned."""
    return {arm.arm: arm.of // TRIALS for arm in progress(history, spec).arms()}


def searched(count: int, *arms: str, history: Searches | None = None, first: int = 1) -> Searches:
    """Whole searches of these arms, by default of all."""
    history = history or Searches(SPEC)
    history.searched({arm: [0.7] * count for arm in arms or ARMS}, first)
    return history


def after_the_second_look() -> Searches:
    """noam was settled at the first look, and adamw at the second one: no arm is open."""
    history = searched(3)
    history.look(1, 3, {"noam": BEATS, "adamw": OPEN, "placebo": OPEN})
    searched(2, "adam_l2", "adamw", "placebo", history=history, first=4)
    history.look(2, 5, {"adamw": FUTILE, "placebo": OPEN})
    return history


def test_before_the_first_look_every_arm_has_the_searches_of_it() -> None:
    history = searched(1)
    history.trials("noam", 2, (State.COMPLETE, None))
    found = progress(history)
    assert planned(history) == dict.fromkeys(ARMS, 3)
    assert found.stages().search == (4 * TRIALS + 1, 4 * TRIALS * 3)
    assert found.stages().select == (0, SELECTION)
    assert found.stages().confirm == (4, 4 * 3 + FRESH)
    noam = found.arms()[1]
    assert noam == ArmProgress(
        arm="noam",
        trials=2 * TRIALS,
        of=3 * TRIALS,
        running=1,
        pruned=0,
        failed=0,
        epochs=2 * 2 * TRIALS,
        best=pytest.approx(0.51),  # type: ignore[arg-type]
        confirmed=1,
        to_confirm=3,
    )


def test_after_a_look_only_the_arms_that_are_open_have_further_searches() -> None:
    history = searched(3)
    history.look(1, 3, {"noam": BEATS, "adamw": OPEN, "placebo": OPEN})
    assert planned(history) == {"adam_l2": 5, "noam": 3, "adamw": 5, "placebo": 5}


def test_a_placebo_that_beats_the_baseline_has_further_searches_all_the_same() -> None:
    history = searched(3)
    history.look(1, 3, {"noam": BEATS, "adamw": OPEN, "placebo": BEATS})
    assert planned(history)["placebo"] == 5


def test_a_settled_arm_that_another_is_compared_with_has_further_searches() -> None:
    spec = method_spec(FAMILIES, looks="[3, 5, 8]")
    history = Searches(spec)
    history.searched({arm: [0.7] * 3 for arm in ("adam_l2", "noam", "adamw")})
    history.look(1, 3, {"noam": BEATS, "adamw": OPEN})
    assert planned(history, spec) == {"adam_l2": 3, "noam": 5, "adamw": 5}


def test_when_all_arms_are_settled_no_search_is_planned_beyond_those_there_are() -> None:
    history = after_the_second_look()
    assert planned(history) == {"adam_l2": 5, "noam": 3, "adamw": 5, "placebo": 5}
    stages = progress(history).stages()
    assert stages.search == (18 * TRIALS, 18 * TRIALS)
    assert stages.select == (0, SELECTION)
    assert stages.confirm == (18, 18 + FRESH)


def test_a_cap_on_the_time_ends_the_plan_where_the_searches_ended() -> None:
    history = searched(4)
    history.look(1, 3, dict.fromkeys(ARMS[1:], OPEN))
    history.look(2, 4, dict.fromkeys(ARMS[1:], OPEN))
    assert set(planned(history).values()) == {4}


def test_the_best_setting_is_selected_and_confirmed_at_the_end() -> None:
    history = after_the_second_look()
    for seed in (10_000, 10_001):
        history.trained(f"select/noam/1.1/{seed}", "noam", 1, 1, seed=seed)
    assert progress(history).stages().select == (2, SELECTION)
    history.add("confirm", round=1, seeds=list(range(70, 70 + FRESH)), winners={"noam": 1}, searches={"noam": 1})
    history.trained("confirm/round/noam/1/70", "noam", 1, 1, seed=70, test=0.7, round_number=1)
    found = progress(history)
    assert found.stages().confirm == (18 + 1, 18 + FRESH)
    assert found.stages().search == (18 * TRIALS, 18 * TRIALS)
    by_arm = {arm.arm: (arm.confirmed, arm.to_confirm) for arm in found.arms()}
    assert by_arm == {"adam_l2": (5, 5), "noam": (4, 3 + FRESH), "adamw": (5, 5), "placebo": (5, 5)}
    assert found.line().startswith("search 36/36, select 2/9, confirm 19/23, ")


def test_the_time_left_falls_to_that_of_the_confirm_runs_that_are_missing() -> None:
    history = after_the_second_look()
    before = progress(history).left_s()
    for seed in range(SELECTION):
        history.trained(f"select/noam/1.1/{seed}", "noam", 1, 1, seed=seed)
    history.add("confirm", round=1, seeds=list(range(70, 70 + FRESH)), winners={"noam": 1}, searches={"noam": 1})
    for seed in range(70, 70 + FRESH - 1):
        history.trained(f"confirm/round/noam/1/{seed}", "noam", 1, 1, seed=seed, test=0.7, round_number=1)
    # An epoch takes a second, and a trial has two.
    assert before == pytest.approx(2 * (SELECTION + FRESH))
    assert progress(history).left_s() == pytest.approx(2)


LOOK = LookTaken(2, 5, {"noam": BEATS, "adamw": OPEN})


def test_the_line_of_a_look_names_its_searches_and_every_outcome() -> None:
    assert look_line(LOOK) == "look 2, after 5 searches per arm: noam beats, adamw not enough evidence"


def test_the_log_of_a_job_has_looks_and_names_settings_by_their_search(made_up_job: MadeUp) -> None:
    history = after_the_second_look()
    history.add("confirm", round=1, seeds=[70, 71, 72], winners={"noam": 1}, searches={"noam": 3})
    lines = [line.split(" ", 2)[2] for line in log_lines(made_up_job("job-1", history), follow=False)]
    assert "search/noam/3.1 complete after 2 epochs, val/acc 0.5100" in lines
    assert (
        "look 1, after 3 searches per arm: noam beats, adamw not enough evidence, placebo not enough evidence" in lines
    )
    assert lines[-1] == "round 1 of confirm runs, 3 seeds; winners: noam 3.1"
