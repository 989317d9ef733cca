"""The leaderboard: its rows, its warnings, and which arm it says to use."""

import json

import pytest

from tests.tuner.events import History
from tests.tuner.spec_texts import more, spec_of
from trainables.data.request import ImageCounts
from tuner.storage.events import Outcome, State
from tuner.verdict.leaderboard import Leaderboard, verdict_text
from tuner.verdict.ranking import build

THREE = spec_of(("- variant: noam", "- variant: noam\n  - adamw"))
TWO = spec_of()
WINNERS = {"adam_l2": 0, "noam": 0, "adamw": 0}
BASE = {1: 0.50, 2: 0.51, 3: 0.52}


def plus(points: float, *noise: float) -> dict[int, float]:
    return {seed: BASE[seed] + points / 100 + extra / 100 for seed, extra in zip(BASE, noise, strict=True)}


def searched(epochs: int = 2) -> History:
    history = History(THREE)
    for arm in history.arms:
        history.trial(arm, 0, [0.5] * epochs)
    return history


def board(history: History) -> Leaderboard:
    return build(history.record(), THREE)


def test_a_row_counts_what_became_of_an_arms_trials() -> None:
    history = History(TWO)
    history.trial("noam", 0, [0.1, 0.4])
    history.trial("noam", 1, [0.2, 0.3, 0.6])
    history.trial("noam", 2, [0.2], State.PRUNED)
    history.trial("noam", 3, [0.2], State.DIVERGED)
    history.trial("noam", 4, [], State.FAILED)
    history.trial("noam", 5, [0.9], state=None)
    row = build(history.record(), TWO).rows[1]
    assert (row.arm, row.variant, row.knobs) == ("noam", "noam", 3)
    assert (row.trials, row.complete, row.pruned, row.diverged, row.failed) == (6, 2, 1, 1, 1)
    assert (row.epochs, row.seconds, row.winner, row.val) == (8, 8.0, 1, 0.6)
    assert (row.test_mean, row.test_sd, row.comparison) == (None, None, None)


def test_the_baseline_comes_first_and_is_called_so() -> None:
    found = board(searched())
    assert [row.arm for row in found.rows] == ["adam_l2", "noam", "adamw"]
    assert [verdict_text(row, found) for row in found.rows] == ["baseline", "not confirmed yet", "not confirmed yet"]


def test_mean_and_spread_are_in_points() -> None:
    history = searched()
    history.confirm(1, WINNERS, dict.fromkeys(WINNERS, BASE))
    row = board(history).rows[0]
    assert [row.test_mean, row.test_sd] == pytest.approx([51.0, 1.0])


def test_the_best_by_validation_that_beats_the_baseline_is_the_arm_to_use() -> None:
    history = History(THREE)
    for arm, val in (("adam_l2", 0.9), ("noam", 0.5), ("adamw", 0.6)):
        history.trial(arm, 0, [0.1, val])
    tests = {"adam_l2": BASE, "noam": plus(9, 0, 0.1, -0.1), "adamw": plus(5, 0, 0.1, -0.1)}
    history.confirm(1, WINNERS, tests)
    found = board(history)
    assert found.beaten == ("noam", "adamw")
    assert found.best() == "adamw"


def test_when_nothing_beats_the_baseline_it_is_the_arm_to_use() -> None:
    history = searched()
    history.confirm(1, WINNERS, {"adam_l2": BASE, "noam": plus(20, 25, -25, 0), "adamw": plus(-5, 0, 0.1, -0.1)})
    found = board(history)
    outcomes = [row.comparison.outcome for row in found.rows if row.comparison]
    assert outcomes == [Outcome.NOT_ENOUGH, Outcome.LOSES]
    assert (found.beaten, found.best()) == ((), "adam_l2")


def test_before_any_confirm_run_the_baseline_is_the_arm_to_use() -> None:
    found = board(searched())
    assert (found.best(), found.round, found.seeds) == ("adam_l2", 0, ())


def test_the_first_round_gives_the_verdict_and_later_ones_are_estimates() -> None:
    history = searched()
    history.confirm(1, WINNERS, dict.fromkeys(WINNERS, BASE))
    second = {11: 0.5, 12: 0.6, 13: 0.7}
    better = {seed: value + 0.09 + 0.001 * (seed - 12) for seed, value in second.items()}
    history.confirm(2, WINNERS, {"adam_l2": second, "noam": better, "adamw": second})
    found = board(history)
    assert (found.round, found.seeds, found.beaten) == (1, (1, 2, 3), ())
    assert found.rows[1].tests == BASE
    assert (
        "round 2 of confirm runs, on 3 other seeds, estimates the differences in points as noam +9.00 ±"
        in "\n".join(found.warnings)
    )


def test_an_arm_without_a_winner_has_a_row_and_a_warning() -> None:
    history = searched()
    history.entries = [entry for entry in history.entries if getattr(entry.event, "trial", "") != "search/noam/0"]
    history.trial("noam", 0, [0.5], State.DIVERGED)
    others = {arm: 0 for arm in WINNERS if arm != "noam"}
    history.confirm(1, others, dict.fromkeys(others, BASE))
    found = board(history)
    row = found.rows[1]
    assert (row.winner, row.val, row.tests) == (None, None, {})
    assert (
        verdict_text(row, found) == "not enough evidence [no seed to compare; 3 of 3 seeds lost: the variant "
        "has no result for seeds 1, 2, 3]"
    )
    assert "noam has no winner: none of its 1 trials trained to the end" in found.warnings


def test_the_row_of_an_arm_names_the_confirm_seeds_it_lost() -> None:
    history = searched()
    history.confirm(1, WINNERS, {"adam_l2": BASE, "noam": {1: 0.6, 3: 0.62}, "adamw": BASE})
    found = board(history)
    row = found.rows[1]
    assert row.tests == {1: 0.6, 3: 0.62}
    assert row.comparison is not None
    assert row.comparison.n == 2
    assert "1 of 3 seeds lost: the variant has no result for seed 2" in verdict_text(row, found)


def test_if_the_baseline_lost_its_confirm_runs_nothing_is_judged() -> None:
    history = searched()
    history.confirm(1, WINNERS, {"adam_l2": {}, "noam": BASE, "adamw": BASE})
    found = board(history)
    assert (found.beaten, found.best()) == ((), "adam_l2")
    assert all("no seed to compare" in verdict_text(row, found) for row in found.rows[1:])


@pytest.mark.parametrize(("epochs", "warned"), [(8, False), (7, True)])
def test_a_fifth_more_epochs_in_one_arm_is_warned_of(epochs: int, warned: bool) -> None:
    history = History(TWO)
    history.trial("adam_l2", 0, [0.5] * 10)
    history.trial("noam", 0, [0.5] * epochs)
    warnings = build(history.record(), TWO).warnings
    expected = f"(adam_l2 10, noam {epochs}); to give every arm the same epochs, set scheduler: none"
    assert any(warning.endswith(expected) for warning in warnings) == warned


def test_unequal_numbers_of_knobs_are_warned_of() -> None:
    warnings = board(searched()).warnings
    assert "the arms searched unequal numbers of knobs (adam_l2 2, noam 3)" in warnings
    same = spec_of(("- variant: noam", "- adamw"))
    assert not any("unequal" in warning for warning in build(History(same).record(), same).warnings)


def test_lost_trials_are_warned_of() -> None:
    history = searched()
    history.trial("adamw", 1, [0.1, 0.1], State.DIVERGED)
    history.trial("adamw", 2, [0.1, 0.1], State.FAILED)
    assert "trials diverged or failed (adamw 2 of 3); they count towards the trial budget" in board(history).warnings


def test_as_data_it_is_json_with_the_verdict_in_words() -> None:
    history = searched()
    # On few images, equal results are no evidence of a tie.
    history.alter_job(data_images=ImageCounts(200, 100, 10_000))
    history.confirm(1, WINNERS, dict.fromkeys(WINNERS, BASE))
    values = json.loads(json.dumps(board(history).to_dict(), allow_nan=False))
    assert values["best"] == "adam_l2"
    assert [row["verdict"].split(":")[0] for row in values["rows"]] == [
        "baseline",
        "this setting ties",
        "this setting ties",
    ]
    assert values["rows"][0]["test_mean"] == pytest.approx(51)


def test_by_loss_the_winners_loss_is_shown() -> None:
    spec = spec_of(more("metric: {name: val/loss}\n"))
    history = History(spec)
    history.trial("noam", 0, [0.5], losses=[1.25])
    assert build(history.record(), spec).rows[1].val == 1.25
