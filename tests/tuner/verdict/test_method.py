"""The verdict on methods, on handwritten searches: looks, families, the placebo, lost units and the words."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from tests.tuner.method_jobs import PLACEBO, Searches, method_spec
from tuner.jobs.record import Record
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import LookTaken, Outcome, State
from tuner.verdict.looks import LookPlan, Standing, judge_look
from tuner.verdict.method import active_arms, describe, floor, next_look, standings, take_look
from tuner.verdict.paired_test import compare
from tuner.verdict.ranking import build

OPEN, BEATS, LOSES, TIES, FUTILE = (
    Outcome.NOT_ENOUGH,
    Outcome.BEATS,
    Outcome.LOSES,
    Outcome.TIES,
    Outcome.FUTILE,
)
Units = Mapping[str, Sequence[float | State | None]]
SPEC = method_spec()
WITH_PLACEBO = method_spec(PLACEBO)
LONG = method_spec(looks="[4, 6, 8, 12]")
FAMILIES = """\
families:
  annealing: {baseline: adam_l2, arms: [noam], alpha: 0.03}
  optimizer: {baseline: noam, arms: [adamw], alpha: 0.02}
"""
BASE = (0.70, 0.71, 0.69, 0.72, 0.70, 0.68, 0.71, 0.70, 0.69, 0.73, 0.70, 0.71)
"""The baseline's test accuracies, search by search."""
UNSURE = (2.5, -0.7, 2.2, 0.0, 2.4, -0.5, 2.5, -0.8, 2.4, -0.2, 2.1, -0.9)
"""Differences in points that settle nothing at any look, and are not futile: the mean is 0.9, the sd 1.5."""
CLEAR = (5.0, 5.6, 4.5, 5.2, 5.1, 4.9, 5.4, 5.0, 5.3, 4.8, 5.1, 5.0)
"""Differences in points that beat the baseline at the first look."""


def plus(points: Sequence[float], searches: int, base: Sequence[float] = BASE) -> list[float]:
    """Accuracies that differ from the baseline's by these points, for the first searches."""
    return [round(base[i] + points[i] / 100, 6) for i in range(searches)]


def record_of(spec: SearchSpec, arms: Units, looks: int = 0) -> Record:
    """A job with these units. The first looks are taken by the rule, each with the searches that it would have had."""
    history = Searches(spec)
    history.searched(arms)
    for at in spec.looks[:looks]:
        taken = take_look(history.record(), spec, at)
        assert taken is not None
        history.look(taken.look, taken.searches, taken.outcomes)
    return history.record()


def look_at(spec: SearchSpec, arms: Units, looks: int = 0) -> LookTaken:
    """The next look of such a job."""
    record = record_of(spec, arms, looks)
    at = next_look(record, spec)
    assert at is not None
    found = take_look(record, spec, at)
    assert found is not None
    return found


def units(searches: int, **differences: Sequence[float]) -> dict[str, list[float]]:
    """Units of the baseline, and of arms by their differences to it in points."""
    return {"adam_l2": list(BASE[:searches])} | {arm: plus(points, searches) for arm, points in differences.items()}


def test_before_the_first_search_the_next_look_is_the_first_one() -> None:
    record = Searches(WITH_PLACEBO).record()
    assert next_look(record, WITH_PLACEBO) == 3
    assert active_arms(record, WITH_PLACEBO) == ["adam_l2", "noam", "adamw", "placebo"]
    assert standings(record, WITH_PLACEBO) == {}


def test_a_look_is_the_rule_of_looks_on_the_differences_search_by_search() -> None:
    record = record_of(LONG, units(4, noam=CLEAR, adamw=UNSURE))
    plan = LookPlan((4, 6, 8, 12), margin=0.5, variants=2, alpha=0.05, floor=floor(100))
    expected = judge_look(plan, 1, {"noam": CLEAR[:4], "adamw": UNSURE[:4]}, {})
    found = take_look(record, LONG, 4)
    assert found == LookTaken(1, 4, {standing.arm: standing.outcome for standing in expected})
    assert found.outcomes == {"noam": BEATS, "adamw": OPEN}
    seen = standings(record_of(LONG, units(4, noam=CLEAR, adamw=UNSURE), looks=1), LONG)
    for standing in expected:
        assert seen[standing.arm].n == 4
        assert seen[standing.arm].mean_diff == pytest.approx(standing.mean_diff)
        assert (seen[standing.arm].low, seen[standing.arm].p) == pytest.approx((standing.low, standing.p))


def test_units_are_paired_by_their_search_and_not_by_their_place() -> None:
    arms: Units = {**units(4, adamw=UNSURE), "noam": [State.FAILED, *plus(CLEAR, 4)[1:]]}
    found = standings(record_of(LONG, arms, looks=1), LONG)["noam"]
    assert found.n == 3
    assert found.mean_diff == pytest.approx(sum(CLEAR[1:4]) / 3)


def test_a_settled_arm_is_not_searched_again_and_the_baseline_and_the_placebo_are() -> None:
    spec = method_spec(PLACEBO, looks="[4, 6, 8, 12]")
    record = record_of(spec, units(4, noam=CLEAR, adamw=UNSURE, placebo=UNSURE), looks=1)
    assert record.settled() == {"noam": BEATS}
    assert active_arms(record, spec) == ["adam_l2", "adamw", "placebo"]
    assert next_look(record, spec) == 6


def test_a_placebo_that_beats_the_baseline_is_searched_as_long_as_any_arm_and_never_judged_again() -> None:
    spec = method_spec(PLACEBO, looks="[4, 6, 8, 12]")
    arms = units(4, noam=CLEAR, adamw=UNSURE, placebo=CLEAR)
    assert "placebo" in active_arms(record_of(spec, arms, looks=1), spec)
    second = look_at(spec, units(6, noam=CLEAR, adamw=UNSURE, placebo=UNSURE) | {"placebo": plus(CLEAR, 6)}, looks=1)
    assert second.look == 2
    assert set(second.outcomes) == {"adamw"}


def test_when_all_arms_are_settled_there_is_no_look_and_the_placebo_alone_is_not_searched() -> None:
    record = record_of(WITH_PLACEBO, units(3, noam=CLEAR, adamw=CLEAR, placebo=UNSURE), looks=1)
    assert record.settled() == {"noam": BEATS, "adamw": BEATS}
    assert next_look(record, WITH_PLACEBO) is None
    assert active_arms(record, WITH_PLACEBO) == []


def test_after_the_cap_there_is_no_look_though_an_arm_is_open() -> None:
    record = record_of(LONG, units(12, noam=UNSURE, adamw=CLEAR), looks=3)
    assert "noam" not in record.settled()
    assert next_look(record, LONG) == 12
    record = record_of(LONG, units(12, noam=UNSURE, adamw=CLEAR), looks=4)
    assert record.looks[-1].outcomes == {"noam": OPEN}
    assert next_look(record, LONG) is None


def test_the_placebo_is_outside_the_family_and_has_the_whole_alpha() -> None:
    # With two variants in the family these differences are not enough for a variant; alone they are.
    near = (1.3, 2.9, 2.0, 2.1, 2.2, 1.8)
    spec = method_spec(PLACEBO, looks="[4, 6, 8, 12]")
    found = look_at(spec, units(4, noam=near, adamw=UNSURE, placebo=near))
    assert found.outcomes == {"noam": OPEN, "adamw": OPEN, "placebo": BEATS}
    without = look_at(LONG, units(4, noam=near, adamw=UNSURE))
    assert without.outcomes == {"noam": OPEN, "adamw": OPEN}


def test_a_placebo_never_ties_and_is_never_futile() -> None:
    same = (0.1, -0.1, 0.2, -0.2, 0.1, -0.1, 0.0, 0.1, -0.1, 0.0, 0.1, -0.1)
    spec = method_spec(PLACEBO + "confirm: {margin: 9}\n")
    found = look_at(spec, units(3, noam=same, adamw=same, placebo=same))
    assert found.outcomes == {"noam": TIES, "adamw": TIES, "placebo": OPEN}


NEARLY = (1.3, 2.9, 2.0, 2.1, 2.2, 1.8, 2.0, 2.0, 2.1, 1.9, 2.0, 2.0)
"""Not enough for one of two open variants at the first look of four; enough for the last open one."""


def test_a_rejection_releases_its_part_of_alpha_at_the_same_look() -> None:
    assert look_at(LONG, units(4, noam=NEARLY, adamw=UNSURE)).outcomes["noam"] == OPEN
    assert look_at(LONG, units(4, noam=NEARLY, adamw=CLEAR)).outcomes == {"noam": BEATS, "adamw": BEATS}


def test_a_rejection_at_an_earlier_look_releases_its_part_of_alpha_and_a_tie_does_not() -> None:
    second = (1.0, -0.6, 2.5, 1.9, 2.3, 1.5)
    arms = units(6, noam=second) | {"adamw": plus(UNSURE, 6)}
    levels = {}
    for outcome in (BEATS, TIES, FUTILE):
        history = Searches(LONG)
        history.searched(arms)
        history.look(1, 4, {"noam": OPEN, "adamw": outcome})
        history.look(2, 6, {"noam": OPEN})
        levels[outcome] = standings(history.record(), LONG)["noam"].level
    assert levels[TIES] == levels[FUTILE] < levels[BEATS]
    assert levels[BEATS] == pytest.approx(2 * levels[TIES], rel=0.2)


def test_families_have_their_own_baselines_and_alphas() -> None:
    spec = method_spec(FAMILIES, looks="[4, 6, 8, 12]")
    noam = plus(UNSURE, 4)
    record = record_of(spec, units(4) | {"noam": noam, "adamw": plus(CLEAR, 4, base=noam)}, looks=1)
    found = standings(record, spec)
    assert found["adamw"].mean_diff == pytest.approx(sum(CLEAR[:4]) / 4)
    assert found["noam"].mean_diff == pytest.approx(sum(UNSURE[:4]) / 4)
    assert record.looks[0].outcomes == {"noam": OPEN, "adamw": BEATS}
    # Both families have one arm, so their levels are as their alphas.
    assert found["noam"].level / found["adamw"].level == pytest.approx(3 / 2, rel=0.15)
    assert build(record, spec).rows[2].baseline == "noam"


def test_a_familys_baseline_is_searched_as_long_as_its_family_is_open() -> None:
    spec = method_spec(FAMILIES, looks="[4, 6, 8, 12]")
    noam = plus(CLEAR, 4)
    record = record_of(spec, units(4) | {"noam": noam, "adamw": plus(UNSURE, 4, base=noam)}, looks=1)
    assert record.settled() == {"noam": BEATS}
    # The question of noam has its answer, so nothing needs the job's baseline any more.
    assert active_arms(record, spec) == ["noam", "adamw"]
    with_placebo = method_spec(FAMILIES + PLACEBO, looks="[4, 6, 8, 12]")
    arms = units(4, placebo=UNSURE) | {"noam": noam, "adamw": plus(UNSURE, 4, base=noam)}
    record = record_of(with_placebo, arms, looks=1)
    assert active_arms(record, with_placebo) == ["adam_l2", "noam", "adamw", "placebo"]


def test_the_verdict_on_a_settled_familys_baseline_does_not_see_its_later_searches() -> None:
    spec = method_spec(FAMILIES, looks="[4, 6, 8, 12]")
    noam, later = plus(CLEAR, 4), [0.2, 0.2]
    first = record_of(spec, units(4) | {"noam": noam, "adamw": plus(UNSURE, 4, base=noam)}, looks=1)
    arms = units(6) | {"noam": [*noam, *later], "adamw": plus(UNSURE, 6, base=[*noam, *later])}
    second = record_of(spec, arms, looks=2)
    assert standings(second, spec)["noam"] == standings(first, spec)["noam"]
    assert second.looks[1].outcomes.keys() == {"adamw"}


def test_lost_units_leave_their_pairs_out_and_the_words_say_so() -> None:
    arms = units(6, noam=CLEAR, adamw=UNSURE)
    # The arm's own search is lost, and then the baseline's.
    for arm in ("noam", "adam_l2"):
        lost: Units = {**arms, arm: [*arms[arm][:2], State.FAILED, *arms[arm][3:]]}
        spec = method_spec(looks="[6, 8]")
        record = record_of(spec, lost, looks=1)
        board = build(record, spec)
        row = next(row for row in board.rows if row.arm == "noam")
        assert isinstance(row.comparison, Standing)
        assert row.comparison.n == 5
        told = describe(row.comparison, row.baseline, board.margin, board.looks)
        assert told.endswith("(5 of 6 searches, look 1)")
        assert told.startswith("beats adam_l2 by ")
        assert f"{arm} 1 of 6: 3" in next(warning for warning in board.warnings if "were lost" in warning)


def test_an_arm_with_two_units_is_not_judged() -> None:
    arms: Units = {**units(3, adamw=UNSURE), "noam": [*plus(CLEAR, 2), State.OOM]}
    record = record_of(SPEC, arms, looks=1)
    found = standings(record, SPEC)["noam"]
    assert (found.n, found.p, found.outcome) == (2, None, OPEN)
    assert describe(found, "adam_l2", 0.5, (3,)) == ("not enough evidence: +5.30 points (2 of 3 searches, look 1)")


def test_an_arm_without_a_unit_has_no_search_to_compare() -> None:
    arms: Units = {**units(3, adamw=UNSURE), "noam": [State.FAILED] * 3}
    found = standings(record_of(SPEC, arms, looks=1), SPEC)["noam"]
    assert describe(found, "adam_l2", 0.5, (3,)) == "not enough evidence: no search to compare"


def test_an_arm_that_diverged_in_a_search_has_a_unit_of_chance_and_does_not_beat() -> None:
    arms: Units = {**units(6, adamw=UNSURE), "noam": [*plus(CLEAR, 5), State.DIVERGED]}
    spec = method_spec(looks="[6, 8]")
    found = standings(record_of(spec, arms, looks=1), spec)["noam"]
    assert found.n == 6
    assert found.mean_diff == pytest.approx((sum(CLEAR[:5]) + 10 - 100 * BASE[5]) / 6)
    assert found.outcome != BEATS


def test_after_a_cap_on_the_time_the_look_is_at_the_searches_there_are_and_it_is_the_last_one() -> None:
    history = Searches(LONG)
    history.searched(units(5, noam=UNSURE, adamw=UNSURE))
    history.look(1, 4, {"noam": OPEN, "adamw": OPEN})
    assert next_look(history.record(), LONG) == 6
    found = take_look(history.record(), LONG, 6)
    assert found is not None
    assert (found.look, found.searches) == (2, 5)
    history.look(found.look, found.searches, found.outcomes)
    assert OPEN in found.outcomes.values()
    assert next_look(history.record(), LONG) is None
    seen = standings(history.record(), LONG)
    assert {standing.n for standing in seen.values()} == {5}
    words = describe(seen["noam"], "adam_l2", 0.5, build(history.record(), LONG).looks)
    assert "(5 searches, look 2)" in words


def test_a_cap_that_leaves_no_new_search_gives_no_look() -> None:
    history = Searches(LONG)
    history.searched(units(4, noam=UNSURE, adamw=UNSURE))
    history.look(1, 4, {"noam": OPEN, "adamw": OPEN})
    assert take_look(history.record(), LONG, 6) is None


@pytest.mark.parametrize("searches", [0, 1, 2])
def test_fewer_than_three_searches_give_no_look(searches: int) -> None:
    assert take_look(record_of(LONG, units(searches, noam=CLEAR, adamw=CLEAR)), LONG, 4) is None


def test_a_look_spends_alpha_as_if_the_searches_of_the_plan_were_still_to_come() -> None:
    capped = standings(record_of_capped(5), LONG)["noam"]
    planned = method_spec(looks="[5, 6, 8, 12]")
    expected = standings(record_of(planned, units(5, noam=UNSURE, adamw=UNSURE), looks=1), planned)["noam"]
    assert capped.level == pytest.approx(expected.level)


def record_of_capped(searches: int) -> Record:
    history = Searches(LONG)
    history.searched(units(searches, noam=UNSURE, adamw=UNSURE))
    found = take_look(history.record(), LONG, 4 if searches <= 4 else 6)
    assert found is not None
    history.look(found.look, found.searches, found.outcomes)
    return history.record()


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (BEATS, "beats adam_l2 by 1.40 ± 0.60 points (8 searches, look 3)"),
        (LOSES, "loses to adam_l2 by 1.40 ± 0.60 points (8 searches, look 3)"),
        (TIES, "ties with adam_l2: +1.40 points, shown to be within ±0.5 (8 searches, look 3)"),
        (
            FUTILE,
            "not settled, and more searches would hardly settle it: +1.40 ± 0.60 points (8 searches, look 3)",
        ),
        (OPEN, "not enough evidence: +1.40 ± 0.60 points (8 searches, look 3)"),
    ],
)
def test_the_words_of_every_outcome(outcome: Outcome, words: str) -> None:
    mean = -1.4 if outcome == LOSES else 1.4
    standing = Standing("noam", 8, mean, mean - 0.6, mean + 0.6, 0.01, 0.02, outcome, 3)
    assert describe(standing, "adam_l2", 0.5, (4, 6, 8)) == words


def test_a_difference_that_rounds_to_zero_has_no_sign_of_its_own() -> None:
    standing = Standing("noam", 8, -0.001, -0.6, 0.6, 0.9, 0.02, OPEN, 3)
    assert "+0.00 ± 0.60" in describe(standing, "adam_l2", 0.5, (4, 6, 8))


def test_the_placebo_is_never_among_the_beaten_nor_the_best() -> None:
    huge = tuple(points + 9 for points in CLEAR)
    record = record_of(WITH_PLACEBO, units(3, noam=CLEAR, adamw=UNSURE, placebo=huge), looks=1)
    board = build(record, WITH_PLACEBO)
    assert record.settled()["placebo"] == BEATS
    assert (board.beaten, board.best()) == (("noam",), "noam")
    warning = next(warning for warning in board.warnings if "placebo" in warning)
    assert warning.startswith("the placebo beats the baseline, and it is the baseline under another name")
    assert "about 5 % of sound jobs" in warning
    nothing = record_of(WITH_PLACEBO, units(3, noam=UNSURE, adamw=UNSURE, placebo=huge), looks=1)
    assert (build(nothing, WITH_PLACEBO).beaten, build(nothing, WITH_PLACEBO).best()) == ((), "adam_l2")


def test_a_placebo_that_is_like_the_baseline_gives_no_warning() -> None:
    record = record_of(WITH_PLACEBO, units(3, noam=CLEAR, adamw=UNSURE, placebo=UNSURE), looks=1)
    assert not any("placebo" in warning for warning in build(record, WITH_PLACEBO).warnings)


@pytest.mark.parametrize("best", ["noam", "adamw"])
def test_of_those_that_beat_the_baseline_validation_chooses_the_best(best: str) -> None:
    better = tuple(points + 1 for points in CLEAR)
    board = build(record_of(SPEC, units(3, noam=CLEAR, adamw=better), looks=1), SPEC)
    rows = tuple(replace(row, val=0.9 if row.arm == best else 0.8) for row in board.rows)
    assert (board.beaten, replace(board, rows=rows).best()) == (("noam", "adamw"), best)


def test_the_arm_that_was_confirmed_is_the_best_although_its_selection_took_a_setting_with_a_lower_value() -> None:
    better = tuple(points + 1 for points in CLEAR)
    board = build(record_of(SPEC, units(3, noam=CLEAR, adamw=better), looks=1), SPEC)
    rows = tuple(replace(row, val=0.9 if row.arm == "noam" else 0.8) for row in board.rows)
    assert replace(board, rows=rows).best() == "noam"
    confirmed = tuple(replace(row, confirmed=5 if row.arm == "adamw" else 0) for row in rows)
    assert replace(board, rows=confirmed, round=1).best() == "adamw"
    # A round whose runs were all lost, and one that confirmed the baseline before an extension, choose nothing.
    assert replace(board, rows=rows, round=1).best() == "noam"


def test_what_a_look_has_recorded_stays_whatever_comes_later() -> None:
    spec = method_spec(looks="[4, 6, 8, 12]")
    first = record_of(spec, units(4, noam=CLEAR, adamw=UNSURE), looks=1)
    later = record_of(spec, units(6, noam=(*CLEAR[:4], -60.0, -60.0), adamw=UNSURE), looks=2)
    assert later.looks[0] == first.looks[0]
    assert standings(later, spec)["noam"] == standings(first, spec)["noam"]
    assert (standings(later, spec)["noam"].look, standings(later, spec)["adamw"].look) == (1, 2)


def test_a_recorded_outcome_stands_though_the_rule_of_today_would_judge_otherwise() -> None:
    history = Searches(LONG)
    history.searched(units(4, noam=UNSURE, adamw=CLEAR))
    history.look(1, 4, {"noam": BEATS, "adamw": OPEN})
    found = standings(history.record(), LONG)
    assert {arm: standing.outcome for arm, standing in found.items()} == {"noam": BEATS, "adamw": OPEN}
    board = build(history.record(), LONG)
    assert board.beaten == ("noam",)
    assert active_arms(history.record(), LONG) == ["adam_l2", "adamw"]


def test_a_difference_below_the_rounding_of_the_test_set_is_no_evidence() -> None:
    # An exact difference of one image of a hundred in every search: without a floor the sd would be 0.
    record = record_of(SPEC, units(3, noam=(1.0,) * 3, adamw=UNSURE), looks=1)
    found = standings(record, SPEC)["noam"]
    assert found.p is not None
    assert found.p > 0.01
    assert floor(100) == pytest.approx(100 / 100 / 6**0.5)


def test_the_interval_of_a_look_is_wider_than_that_of_one_test() -> None:
    record = record_of(SPEC, units(3, noam=CLEAR, adamw=UNSURE), looks=1)
    seen = standings(record, SPEC)["adamw"]
    base, variant = (dict(enumerate(values)) for values in (BASE[:3], plus(UNSURE, 3)))
    (alone,) = compare(base, {"adamw": variant}, 0.5)
    assert None not in (seen.low, seen.high, alone.low, alone.high)
    assert (seen.high or 0) - (seen.low or 0) > (alone.high or 0) - (alone.low or 0)
