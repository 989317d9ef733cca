"""Which trials go on: rungs and brackets by hand, where a value means something, and no arm against another."""

from collections.abc import Sequence
from typing import Any

import pytest

from trainables.hyper import Hyper
from trainables.schedules import LR_SCHEDULES, Schedule
from trainables.space import Plan
from tuner.search.asha import EarlyStopper, JudgedEpochs, Rungs, bracket, comparable_epochs, judged_epochs, rungs

STOP, CONTINUE = True, False


def schedule(epochs: int, steps_per_epoch: int = 10, **knobs: Any) -> Schedule:
    return Schedule(Hyper(1e-3, **knobs), Plan(epochs, steps_per_epoch))


@pytest.mark.parametrize(
    ("first", "factor", "epochs", "by_hand"),
    [
        (1, 3, 30, (1, 3, 9, 27)),
        (1, 3, 27, (1, 3, 9)),  # the last epoch is no rung
        (4, 2, 20, (4, 8, 16)),
        (5, 4, 5, ()),
    ],
)
def test_rungs_multiply_from_the_first_and_stay_below_the_last_epoch(
    first: int, factor: int, epochs: int, by_hand: tuple[int, ...]
) -> None:
    assert rungs(first, factor, epochs) == by_hand


def test_one_trial_in_three_skips_a_rung_and_one_in_nine_two() -> None:
    assert [bracket(number, 3, brackets=3) for number in range(18)] == [0, 0, 1, 0, 0, 1, 0, 0, 2] * 2


def test_no_trial_skips_more_rungs_than_there_are_brackets() -> None:
    assert [bracket(number, 2, brackets=2) for number in range(8)] == [0, 1] * 4
    assert {bracket(number, 2, brackets=1) for number in range(8)} == {0}


@pytest.mark.parametrize("name", sorted(set(LR_SCHEDULES) - {"noam", "restarts"}))
def test_a_plain_schedule_is_judged_at_its_rungs(name: str) -> None:
    assert judged_epochs(schedule(30, schedule=name), (1, 3, 9, 27)) == (1, 3, 9, 27)


def test_a_warmup_passes_the_rungs_before_its_end() -> None:
    # 31 updates of 10 an epoch end in epoch 4.
    assert judged_epochs(schedule(30, schedule="noam", warmup=31), (1, 3, 9, 27)) == (9, 27)
    assert judged_epochs(schedule(30, schedule="noam", warmup=30), (1, 3, 9, 27)) == (3, 9, 27)


@pytest.mark.parametrize(
    ("restarts", "epochs", "at", "by_hand"),
    [
        # Cycles end at 10, 30, 70 and 150, the last epoch: rungs 1, 3 and 9 move to 10, 27 to 30; 81 has none left.
        ("10x2", 150, (1, 3, 9, 27, 81), (10, 30)),
        ("10x2", 150, (10, 30, 70), (10, 30, 70)),
        ("5x1", 20, (1, 4, 16), (5,)),
        ("5x1", 20, (1, 6, 11), (5, 10, 15)),
        ("50x2", 150, (51, 100), ()),
    ],
)
def test_restarts_are_judged_at_the_first_cycle_end_at_or_after_a_rung(
    restarts: str, epochs: int, at: tuple[int, ...], by_hand: tuple[int, ...]
) -> None:
    assert judged_epochs(schedule(epochs, schedule="restarts", restarts=restarts), at) == by_hand


@pytest.mark.parametrize("knobs", [{}, {"schedule": "noam", "warmup": 25}, {"schedule": "restarts", "restarts": "3x1"}])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_no_trial_is_judged_at_its_last_epoch_or_where_it_is_not_comparable(knobs: dict[str, Any], factor: int) -> None:
    at, of = rungs(1, factor, 24), schedule(24, **knobs)
    assert max(judged_epochs(of, at)) < 24
    assert set(judged_epochs(of, at)) <= set(comparable_epochs(of, at))


def test_a_trial_with_restarts_is_comparable_at_all_its_inner_cycle_ends() -> None:
    assert comparable_epochs(schedule(150, schedule="restarts", restarts="10x2"), (27,)) == (10, 30, 70)


@pytest.mark.parametrize(
    ("factor", "seen", "value", "survives"),
    [
        (3, (0.5, 0.9), 0.5, True),  # too few to stop anyone
        (3, (0.1, 0.5, 0.9), 0.9, True),  # the best 1 of 3
        (3, (0.1, 0.5, 0.9), 0.5, False),
        (3, (0.1, 0.2, 0.5, 0.9), 0.5, True),  # the best 2 of 4: a third, rounded up
        (3, (0.1, 0.2, 0.5, 0.9), 0.2, False),
        (2, (0.5, 0.9), 0.5, True),  # two are too few, whatever the factor
        (2, (0.1, 0.5, 0.9), 0.5, True),  # the best 2 of 3: a half, rounded up
        (2, (0.1, 0.5, 0.9), 0.1, False),
        (4, (0.1, 0.5, 0.9), 0.1, True),  # a larger factor needs as many
        (2, (0.9, 0.9, 0.9), 0.9, True),  # a tie for the best is the best
    ],
)
def test_a_value_survives_among_the_best_of_its_rung(
    factor: int, seen: tuple[float, ...], value: float, survives: bool
) -> None:
    kept = Rungs(factor)
    for other in seen:
        kept.record(3, other)
    assert kept.survives(3, value) == survives
    assert kept.survives(9, value)  # nothing was recorded there


def judged(
    name: str, arm: str, judged: tuple[int, ...], comparable: tuple[int, ...] | None = None, in_bracket: int = 0
) -> JudgedEpochs:
    return JudgedEpochs(name, arm, in_bracket, judged, judged if comparable is None else comparable)


def decisions(early_stopper: EarlyStopper, arm: str, *values: float, in_bracket: int = 0) -> list[bool]:
    """What it says at epoch 3 of new trials of an arm, one after the other."""
    return [
        early_stopper.stops(judged(f"{arm}-{value}", arm, (3,), in_bracket=in_bracket), 3, value) for value in values
    ]


def halving_stopper(maximize: bool = True) -> EarlyStopper:
    return EarlyStopper("val_acc", maximize, reduction_factor=2)


def test_the_worst_of_three_trials_of_an_arm_is_stopped() -> None:
    early_stopper = halving_stopper()
    assert decisions(early_stopper, "adam", 0.9, 0.8) == [CONTINUE, CONTINUE]
    assert decisions(early_stopper, "adam", 0.7, 0.95) == [STOP, CONTINUE]


def test_two_arms_are_never_held_against_each_other() -> None:
    early_stopper = halving_stopper()
    assert decisions(early_stopper, "a", 0.9, 0.95) == [CONTINUE, CONTINUE]
    assert decisions(early_stopper, "b", 0.1, 0.2, 0.05, 0.15) == [CONTINUE, CONTINUE, STOP, CONTINUE]


def test_two_brackets_are_never_held_against_each_other() -> None:
    early_stopper = halving_stopper()
    assert decisions(early_stopper, "adam", 0.9, 0.95) == [CONTINUE, CONTINUE]
    assert decisions(early_stopper, "adam", 0.1, in_bracket=1) == [CONTINUE]
    assert decisions(early_stopper, "adam", 0.5) == [STOP]


def test_nobody_is_stopped_between_rungs() -> None:
    early_stopper = halving_stopper()
    for name, value in (("a", 0.9), ("b", 0.1), ("c", 0.0), ("d", 0.0)):
        assert early_stopper.stops(judged(name, "adam", (3,)), 2, value) == CONTINUE


def test_cycles_are_compared_only_with_cycles_that_end_at_the_same_epoch() -> None:
    early_stopper = halving_stopper()
    five, ten = (5, 10, 15), (10,)
    assert early_stopper.stops(judged("a", "restarts", five), 5, 0.9) == CONTINUE
    assert early_stopper.stops(judged("d", "restarts", five), 5, 0.9) == CONTINUE
    # Its cycle ends at 10: at 5 it is in mid-cycle, so a low value neither stops it nor counts.
    assert early_stopper.stops(judged("b", "restarts", ten), 5, 0.1) == CONTINUE
    assert early_stopper.stops(judged("c", "restarts", five), 5, 0.95) == CONTINUE
    assert early_stopper.stops(judged("b", "restarts", ten), 10, 0.2) == CONTINUE
    assert early_stopper.stops(judged("d", "restarts", five), 10, 0.3) == CONTINUE
    assert early_stopper.stops(judged("a", "restarts", five), 10, 0.1) == STOP


def test_a_cycle_end_that_is_no_rung_counts_for_others_but_stops_no_one() -> None:
    early_stopper = halving_stopper()
    assert early_stopper.stops(judged("a", "restarts", (30,), (10, 30)), 10, 0.9) == CONTINUE
    assert early_stopper.stops(judged("b", "restarts", (30,), (10, 30)), 10, 0.1) == CONTINUE
    assert early_stopper.stops(judged("c", "restarts", (10,)), 10, 0.05) == STOP


def test_a_loss_is_minimized() -> None:
    found = decisions(halving_stopper(maximize=False), "adam", 0.9, 0.8, 0.95, 0.1)
    assert found == [CONTINUE, CONTINUE, STOP, CONTINUE]


def test_a_retried_trial_neither_counts_twice_nor_is_judged_again() -> None:
    early_stopper = halving_stopper()
    first = judged("a", "adam", (3,))
    assert [early_stopper.stops(first, 3, 0.5) for _ in range(3)] == [CONTINUE] * 3
    assert early_stopper.stops(judged("b", "adam", (3,)), 3, 0.9) == CONTINUE
    assert early_stopper.stops(first, 3, 0.5) == CONTINUE


def test_a_judge_who_hears_the_past_again_decides_as_one_who_never_forgot() -> None:
    trials = [judged(name, "adam", (1, 3)) for name in "abcdef"]
    values = [(trial, epoch, (7 * index + epoch) % 5) for epoch in (1, 3) for index, trial in enumerate(trials)]
    for cut in range(len(values)):
        whole, before, after = halving_stopper(), halving_stopper(), halving_stopper()
        said = [whole.stops(*value) for value in values]
        assert hear(before, values[:cut]) == said[:cut]
        # In another order, as the record tells it.
        hear(after, sorted(values[:cut], key=lambda value: value[0].key))
        assert hear(after, values[cut:]) == said[cut:]


def hear(early_stopper: EarlyStopper, values: Sequence[tuple[JudgedEpochs, int, float]]) -> list[bool]:
    return [early_stopper.stops(*value) for value in values]
