"""The verdict on a metric of the user's: its direction, its size, its unit, and what stands for a lost value."""

from collections.abc import Mapping, Sequence

import pytest

from tests.tuner.own_jobs import RESULT, SETTING, OwnHistory, own_spec
from tuner.search.trial_request import search_key
from tuner.search.winners import confirm_values, search_values
from tuner.spec.experiment import MetricSpec
from tuner.spec.search_spec import SearchSpec
from tuner.spec.trial_config import SearchSeeds
from tuner.storage.events import Outcome, State
from tuner.verdict.leaderboard import Leaderboard, verdict_text
from tuner.verdict.method import least_sd, standings, take_look
from tuner.verdict.numbers import gain_text, mean_text, value_text
from tuner.verdict.paired_test import compare, paired_differences, prediction_interval
from tuner.verdict.ranking import build

SPEC = own_spec()
LOSS = SPEC.metric
SCORE = MetricSpec(choose="score", goal="maximize")
SHARE = MetricSpec(choose="f1", goal="maximize", unit="points")
RIDGE = (0.500, 0.520, 0.490, 0.510, 0.505)
BETTER = (0.400, 0.421, 0.389, 0.411, 0.404)
"""Lower losses than those of ``RIDGE``, by 0.1."""


def board_of(spec: SearchSpec, results: Mapping[str, Sequence[RESULT]]) -> Leaderboard:
    """The leaderboard of these searches, after one look at all of them."""
    history = OwnHistory(spec)
    history.searched(results)
    look = take_look(history.record(), spec, len(results["ridge"]))
    assert look is not None
    history.looked(look.look, look.searches, look.outcomes)
    return build(history.record(), spec)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e9, 1e90])
def test_a_lower_loss_beats_the_baseline_whatever_its_size(scale: float) -> None:
    ends = {arm: [scale * value for value in values] for arm, values in (("ridge", RIDGE), ("trees", BETTER))}
    board = board_of(SPEC, ends)
    row = board.rows[1]
    assert row.comparison is not None
    assert row.comparison.outcome == Outcome.BEATS
    assert row.comparison.mean_diff == pytest.approx(0.1 * scale, rel=1e-6)
    assert verdict_text(row, board).endswith("in test_loss (5 searches, look 1)")
    worse = board_of(SPEC, {"ridge": ends["trees"], "trees": ends["ridge"]})
    assert worse.rows[1].comparison is not None
    assert worse.rows[1].comparison.outcome == Outcome.LOSES


def test_differences_that_no_sum_can_hold_are_no_evidence() -> None:
    huge = board_of(SPEC, {"ridge": [1.5e308, 1.6e308, 1.7e308], "trees": [-1.5e308, -1.7e308, -1.6e308]})
    assert verdict_text(huge.rows[1], huge).startswith("not enough evidence: +1e+100 in test_loss")


def test_the_verdict_is_written_in_the_metrics_own_unit() -> None:
    board = board_of(SPEC, {"ridge": RIDGE, "trees": BETTER})
    assert verdict_text(board.rows[1], board).startswith("beats ridge by 0.1000 ± 0.0013 in test_loss")
    assert (board.metric, board.rows[0].test_text) == ("val_loss", "0.505 ± 0.011")
    values = board.to_dict()
    assert (values["judge"], values["goal"], values["unit"]) == ("test_loss", "minimize", "")
    assert values["rows"][0]["test_mean"] == pytest.approx(0.505)
    assert board.best() == "trees"


def test_a_share_is_shown_in_points() -> None:
    spec = own_spec(
        ("choose: val_loss, judge: test_loss, goal: minimize", "choose: f1, goal: maximize, unit: points"),
    )
    board = board_of(spec, {"ridge": BETTER, "trees": RIDGE})
    assert verdict_text(board.rows[1], board).startswith("beats ridge by 10.00 ± ")
    assert " points (" in verdict_text(board.rows[1], board)
    assert board.rows[0].test_text == "40.50 ± 1.20"
    assert not any("share" in warning for warning in board.warnings)
    percent = board_of(spec, {"ridge": [40.0, 41.0, 42.0], "trees": RIDGE[:3]})
    assert any("ridge is not always between 0 and 1, so it is no share" in warning for warning in percent.warnings)


@pytest.mark.parametrize("metric", [LOSS, SCORE, SHARE])
def test_equal_differences_are_no_evidence(metric: MetricSpec) -> None:
    base = dict(enumerate(RIDGE))
    shifted = {seed: value + 0.1 for seed, value in base.items()}
    assert len(set(paired_differences(base, shifted, metric))) == 1
    [found] = compare(base, {"arm": shifted}, margin=0.0, metric=metric)
    assert (found.outcome, found.p, found.note) == (
        Outcome.NOT_ENOUGH,
        None,
        "every seed gave the same difference",
    )


def test_searches_with_equal_differences_are_no_evidence_and_the_verdict_says_why() -> None:
    board = board_of(SPEC, {"ridge": [0.5, 0.6, 0.7], "trees": [0.4, 0.5, 0.6]})
    assert verdict_text(board.rows[1], board) == (
        "not enough evidence: +0.1 in test_loss (3 searches, look 1) [every search gave the same difference]"
    )


@pytest.mark.parametrize(("unit", "floor"), [(", unit: points", 1 / 6**0.5), ("", 0.0)])
def test_shares_have_a_spread_of_at_least_their_smallest_gap(unit: str, floor: float) -> None:
    spec = own_spec(("choose: val_loss, judge: test_loss, goal: minimize", f"choose: f1, goal: maximize{unit}"))
    record = OwnHistory(spec).record()
    values = {"ridge": {1: 0.5, 2: 0.53, 3: 0.1 + 0.2}, "trees": {1: 0.3, 2: 0.51}}
    assert least_sd(record, spec, values) == pytest.approx(floor)
    assert least_sd(record, spec, {"ridge": {1: 0.5}}) == 0


def test_a_run_that_diverged_counts_as_the_worst_value_so_far() -> None:
    history = OwnHistory(SPEC)
    history.searched({"ridge": [0.5, 0.6, 0.7], "trees": [0.4, State.DIVERGED, 0.3]})
    assert search_values(history.record(), SPEC, "trees") == {1: 0.4, 2: 0.7, 3: 0.3}
    assert search_values(history.record(), SPEC, "trees", at=2) == {1: 0.4, 2: 0.6}
    history.lost("trees", 4)
    assert search_values(history.record(), SPEC, "trees")[4] == 0.7
    [told] = [
        warning for warning in build(history.record(), SPEC).warnings if "diverged (" in warning and "test" in warning
    ]
    assert told == (
        "confirm runs diverged (trees 1): test_loss of such a run counts as the worst one so far (0.7000 now)"
    )


def test_without_any_value_a_run_that_diverged_is_missing() -> None:
    history = OwnHistory(SPEC)
    history.searched({"ridge": [State.DIVERGED], "trees": [State.DIVERGED]})
    history.lost("trees", 2)
    assert search_values(history.record(), SPEC, "trees") == {}
    assert any("is missing, because no run has a value" in text for text in build(history.record(), SPEC).warnings)


def test_later_rounds_do_not_change_what_a_lost_value_counts_as() -> None:
    spec = own_spec(SETTING)
    history = OwnHistory(spec)
    for arm in ("ridge", "trees"):
        history.run(f"search/{arm}/0", arm, 0, 1.0, State.COMPLETE)
    winners = {"ridge": 0, "trees": 0}
    history.confirmed({"ridge": {1: 0.5, 2: 0.6, 3: 0.5}, "trees": {1: State.DIVERGED, 2: 0.4, 3: 0.4}}, winners)
    history.confirmed({"ridge": {4: 9.0}, "trees": {4: State.DIVERGED}}, winners, round_=2)
    assert confirm_values(history.record(), "trees", 1) == {1: 0.6, 2: 0.4, 3: 0.4}
    assert confirm_values(history.record(), "trees", 2) == {4: 9.0}
    board = build(history.record(), spec)
    assert verdict_text(board.rows[1], board).startswith("not enough evidence: +0.06667 in test_loss, 3 seeds")
    assert any("estimates the differences in test_loss as trees +0;" in text for text in board.warnings)


LOST = State.DIVERGED
GAINS = [0.400, 0.421, 0.389, 0.411, 0.404]
LOSSES = [0.600, 0.621, 0.589, 0.611, 0.604]


@pytest.mark.parametrize(
    ("ridge", "trees", "outcome", "note"),
    [
        (RIDGE, [LOST] * 5, Outcome.LOSES, "diverged on 5 of 5 searches"),
        ([0.5001, 0.5002, 0.5003], [LOST] * 3, Outcome.NOT_ENOUGH, "diverged on 3 of 3 searches"),
        ([LOST, *RIDGE[1:]], GAINS, Outcome.NOT_ENOUGH, "the baseline diverged on 1 of 5 searches"),
        ([LOST, *RIDGE[1:]], LOSSES, Outcome.NOT_ENOUGH, "the baseline diverged on 1 of 5 searches"),
        (RIDGE, [LOST, *GAINS[1:]], Outcome.NOT_ENOUGH, "diverged on 1 of 5 searches"),
        (RIDGE, [LOST, *LOSSES[1:]], Outcome.LOSES, "diverged on 1 of 5 searches"),
        ([LOST, 0.5, 0.5], [LOST, 0.5, 0.5001], Outcome.NOT_ENOUGH, "the baseline diverged on 1 of 3 searches"),
    ],
)
def test_an_arm_that_diverged_can_only_lose_and_against_a_baseline_that_diverged_there_is_no_verdict(
    ridge: Sequence[RESULT], trees: Sequence[RESULT], outcome: Outcome, note: str
) -> None:
    spec = own_spec(("searches: {at: [3, 4, 5]}\n", "searches: {at: [3, 5]}\nconfirm: {margin: 0.02}\n"))
    history = OwnHistory(spec)
    history.searched({"ridge": ridge, "trees": trees})
    look = take_look(history.record(), spec, len(ridge))
    assert look is not None
    history.looked(look.look, look.searches, look.outcomes)
    board = build(history.record(), spec)
    found = Outcome.NOT_ENOUGH if look.outcomes["trees"] == Outcome.FUTILE else look.outcomes["trees"]
    assert found == outcome
    assert note in verdict_text(board.rows[1], board)
    assert board.beaten == ()


@pytest.mark.parametrize(
    ("ridge", "trees", "outcome", "note"),
    [
        (RIDGE, [LOST] * 5, Outcome.LOSES, "diverged on 5 of 5 seeds"),
        ([0.5, 0.5001, 0.4999], [LOST] * 3, Outcome.NOT_ENOUGH, "diverged on 3 of 3 seeds"),
        ([LOST, *RIDGE[1:]], GAINS, Outcome.NOT_ENOUGH, "the baseline diverged on 1 of 5 seeds"),
        ([LOST, *RIDGE[1:]], LOSSES, Outcome.NOT_ENOUGH, "the baseline diverged on 1 of 5 seeds"),
        (RIDGE, [LOST, *LOSSES[1:]], Outcome.LOSES, "diverged on 1 of 5 seeds"),
    ],
)
def test_so_it_is_with_a_setting(ridge: Sequence[RESULT], trees: Sequence[RESULT], outcome: Outcome, note: str) -> None:
    spec = own_spec((SETTING[0], SETTING[1].replace("seeds: 3", "seeds: 3, margin: 0.02")))
    history = OwnHistory(spec)
    for arm in ("ridge", "trees"):
        history.run(f"search/{arm}/0", arm, 0, 1.0, State.COMPLETE)
    ends = {arm: dict(enumerate(values)) for arm, values in (("ridge", ridge), ("trees", trees))}
    history.confirmed(ends, {"ridge": 0, "trees": 0})
    board = build(history.record(), spec)
    assert board.rows[1].comparison is not None
    assert board.rows[1].comparison.outcome == outcome
    assert note in verdict_text(board.rows[1], board)


def test_an_earlier_look_does_not_see_runs_that_an_extension_adds_to_earlier_searches() -> None:
    spec = own_spec(("budget:", "  - {name: more, trainable: mine:More, parameters: {a: {min: 1, max: 2}}}\nbudget:"))
    history = OwnHistory(spec)
    history.searched({"ridge": [0.5, 0.52, 0.6], "trees": [0.4, LOST, 0.3], "more": [0.5, 0.55]})
    history.looked(1, 3, {"trees": Outcome.NOT_ENOUGH, "more": Outcome.FUTILE})
    before = standings(history.record(), spec)["trees"]
    for number in (0, 1):
        history.run(search_key("more", 3, number), "more", number, 1.0 - number / 10, State.COMPLETE, 3)
    [seed] = SearchSeeds.of(spec, 3).confirm
    history.run(f"confirm/more/3/{seed}", "more", 1, 0.9, 7.0, 3, seed)
    assert search_values(history.record(), spec, "trees", 3)[2] == 7.0
    assert standings(history.record(), spec)["trees"] == before


@pytest.mark.parametrize(
    ("ridge", "trees", "asked"),
    [
        ([0.5, 0.6, 0.7], [500.0, 610.0, 700.0], True),
        ([-0.5, -0.6, -0.7], [0.5, 0.61, 0.7], True),
        ([-0.5, -600.0, -0.7], [500.0, 610.0, 700.0], True),
        ([0.5, 0.6, 0.7], [400.0, 410.0, 420.0], False),
        ([0.0, 0.0, 0.0], [0.5, 0.61, 0.7], False),
        ([-0.5, 0.6, 0.7], [0.5, 0.61, -0.7], False),
    ],
)
def test_arms_that_report_on_different_scales_are_asked_about(
    ridge: list[float], trees: list[float], asked: bool
) -> None:
    board = board_of(SPEC, {"ridge": ridge, "trees": trees})
    assert any("are they the same quantity?" in warning for warning in board.warnings) == asked


@pytest.mark.parametrize(
    ("gain", "half", "text"),
    [
        (0.0123456, 0.00456, "+0.0123 ± 0.0046 in test_loss"),
        (-12.3456, 1.5, "-12.3 ± 1.5 in test_loss"),
        (123456.0, 4000.0, "+123456 ± 4000 in test_loss"),
        (1.5e-9, 2e-10, "+1.5e-09 ± 2e-10 in test_loss"),
        (2.5e12, None, "+2.5e+12 in test_loss"),
        (0.0, None, "+0 in test_loss"),
    ],
)
def test_a_gain_has_the_digits_that_its_interval_makes_sense_of(gain: float, half: float | None, text: str) -> None:
    assert gain_text(LOSS, gain, half) == text


def test_values_are_short_whatever_their_size() -> None:
    assert [value_text(value) for value in (0.5, 0.0, 1e-7, 123456789.0, -2.25)] == [
        "0.5000",
        "0.0000",
        "1e-07",
        "1.235e+08",
        "-2.2500",
    ]
    assert mean_text(LOSS, [53.0]) == "53"


def test_a_prediction_interval_of_a_users_metric_knows_no_limits() -> None:
    low, high = prediction_interval([40.0, 42.0, 44.0], metric=LOSS)
    assert low < 30
    assert high > 54
    assert prediction_interval([40.0], repeated=40.0, metric=LOSS) == (40.0, 40.0)
