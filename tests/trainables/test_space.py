"""Domains: their values, their form for a planned length, and the errors of invalid ones."""

import math
from collections.abc import Callable

import pytest

from trainables.errors import TrainableError
from trainables.space import (
    Choice,
    Cycles,
    Domain,
    Float,
    Int,
    MomentDecay,
    PerWidth,
    Plan,
    Scalar,
    UpdateShare,
    middle,
    near_restart_epochs,
    restart_pairs,
)
from trainables.variants import VARIANTS

PLAN = Plan(epochs=150, steps_per_epoch=450)


def test_a_plans_updates_are_epochs_times_steps() -> None:
    assert PLAN.updates == 67_500


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Float(0.1, 0.5), (0.1, 0.3, 0.5), (0.09, 0.51, math.nan, True, "0.3")),
        (Float(0, 2), (0, 1, 2.0), (-1, 3, False)),
        (Int(2, 8, step=3), (2, 5, 8), (3, 1, 11, 5.0, True, "5")),
        (Choice(("10x2", "50x1")), ("10x2",), ("10x1", 10)),
    ],
)
def test_a_domain_contains_its_values_only(
    domain: Domain, inside: tuple[Scalar, ...], outside: tuple[Scalar, ...]
) -> None:
    assert all(domain.contains(value) for value in inside)
    assert not any(domain.contains(value) for value in outside)


@pytest.mark.parametrize(
    ("domain", "by_hand"),
    [
        (Float(0.0, 3.0), 1.5),
        (Float(1e-4, 1e-2, "log"), 1e-3),
        (Float(0.9, 0.999, "one-minus-log"), 0.99),  # 1 - sqrt(0.1 * 0.001)
        (Int(1, 9), 5),
        (Int(1, 10, step=3), 7),  # 5.5 is 1.5 steps above 1, and Python rounds a half to the even 2
        (Int(1, 100, "log"), 10),
        (Choice(("b", "a")), "b"),
    ],
)
def test_the_middle_of_a_domain_is_on_its_own_scale(domain: Domain, by_hand: Scalar) -> None:
    assert middle(domain) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    "plain", [Float(0.1, 0.5), Int(1, 4), Choice((1, 2))], ids=lambda domain: type(domain).__name__
)
def test_a_plain_domain_is_the_same_for_every_plan(plain: Domain) -> None:
    assert plain.resolve(PLAN) is plain


def test_shares_of_the_updates_are_rounded_inwards() -> None:
    # 1 % to 30 % of 150 updates is 1.5 to 45 updates.
    assert UpdateShare(0.01, 0.3).resolve(Plan(15, 10)) == Int(2, 45, "log")


def test_a_share_of_a_single_update_becomes_a_choice() -> None:
    assert UpdateShare(0.01, 0.3).resolve(Plan(5, 1)) == Choice((1,))


@pytest.mark.parametrize(
    ("width", "range_"),
    [
        (1.0, Float(1.2e-4, 1.6e-3, "log")),
        (1 / 8, Float(9.6e-4, 1.3e-2, "log")),
        (1 / 16, Float(1.9e-3, 2.6e-2, "log")),
        (None, Float(1e-4, 1e-2, "log")),
    ],
)
def test_a_range_per_width_is_divided_by_the_width(width: float | None, range_: Float) -> None:
    domain = PerWidth(1.2e-4, 1.6e-3, without=Float(1e-4, 1e-2, "log"))
    assert domain.resolve(PLAN, width) == range_


@pytest.mark.parametrize(
    ("plan", "high"),
    [
        (Plan(12, 60), 0.986),  # 720 updates: 1 - 1 / 72 = 0.98611
        (Plan(12, 21), 0.96),  # 252 updates: 1 - 1 / 25.2 = 0.96032
        (Plan(30, 450), 0.99926),  # 13,500 updates
        (Plan(1000, 450), 0.9999),
        (Plan(1, 200), 0.95),
        (Plan(1, 1), 0.95),
    ],
)
def test_the_longest_memory_of_a_moment_is_a_tenth_of_the_training(plan: Plan, high: float) -> None:
    assert MomentDecay(0.9, 0.9999).resolve(plan) == Float(0.9, high, "one-minus-log")


def test_a_share_stays_below_the_planned_updates() -> None:
    assert UpdateShare(0.5, 1.0).resolve(Plan(10, 1)) == Int(5, 9, "log")


def test_a_share_below_one_update_is_refused() -> None:
    with pytest.raises(TrainableError, match="1% to 30% of 3 updates is less than one update; train for more epochs"):
        UpdateShare(0.01, 0.3).resolve(Plan(3, 1))


@pytest.mark.parametrize(
    ("epochs", "by_hand"),
    [
        # 12 = 4 + 8 = 6 + 6 = 4 * 3 = 3 * 4 = 2 * 6
        (12, [(4, 2), (6, 1), (4, 1), (3, 1), (2, 1)]),
        # 7 = 1 + 2 + 4 = 1 * 7
        (7, [(1, 2), (1, 1)]),
        # 150 = 50 + 100 = 75 * 2 = 50 * 3 = 10 + 20 + 40 + 80 = 30 * 5 = 25 * 6
        (150, [(50, 2), (75, 1), (50, 1), (10, 2), (30, 1), (25, 1)]),
        (11, []),
        (1, []),
    ],
)
def test_restart_pairs_match_those_worked_out_by_hand(epochs: int, by_hand: list[tuple[int, int]]) -> None:
    assert restart_pairs(epochs) == by_hand


def test_restart_pairs_are_all_pairs_that_an_exhaustive_search_finds() -> None:
    def search(epochs: int) -> set[tuple[int, int]]:
        return {
            (t_0, t_mult)
            for t_0 in range(1, epochs + 1)
            for t_mult in (1, 2)
            for cycles in range(2, 9)
            if sum(t_0 * t_mult**i for i in range(cycles)) == epochs
        }

    assert {epochs: set(restart_pairs(epochs)) for epochs in range(1, 200)} == {e: search(e) for e in range(1, 200)}


def test_the_lengths_nearest_to_eleven_epochs_that_have_restarts_are_ten_and_twelve() -> None:
    assert near_restart_epochs(11) == [10, 12]


def test_the_length_nearest_to_one_epoch_is_two() -> None:
    assert near_restart_epochs(1) == [2]


def test_a_length_without_restarts_is_refused_with_the_nearest_lengths() -> None:
    with pytest.raises(TrainableError, match="2 to 8 cycles end after 11 epochs; nearest that do: 10, 12"):
        Cycles().resolve(Plan(11, 450))


def test_cycles_are_offered_as_text_fewest_first() -> None:
    assert Cycles().resolve(Plan(7, 450)) == Choice(("1x2", "1x1"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Float(0.5, 0.1), "min 0.5 is above max 0.1"),
        (lambda: Float(0.5, 0.5), "both 0.5; put a single value under 'fixed'"),
        (lambda: Float(0.0, 1.0, "log"), "log needs min above 0"),
        (lambda: Float(0.0, 1.0, "one-minus-log"), "needs max below 1"),
        (lambda: Float(0.0, math.inf), "must be finite"),
        (lambda: Float(math.nan, 1.0), "must be finite"),
        (lambda: Int(1, 9, "one-minus-log"), "a whole number takes linear or log|needs max below 1"),
        (lambda: Int(1, 9, step=3), "step 3 does not divide"),
        (lambda: Int(1, 9, step=0), "step 0 does not divide"),
        (lambda: Int(1, 9, "log", step=2), "step cannot be combined"),
        (lambda: Choice(()), "at least one value"),
        (lambda: Choice((1, 2, 1)), "names a value twice"),
    ],
)
def test_an_invalid_domain_is_refused(make: Callable[[], Domain], message: str) -> None:
    with pytest.raises(TrainableError, match=message):
        make()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variants_space_contains_its_middle_and_its_default(name: str) -> None:
    row = VARIANTS[name]
    space = {knob: domain.resolve(PLAN) for knob, domain in row.space.items()}
    assert all(domain.contains(middle(domain)) for domain in space.values())
    assert all(space[knob].contains(value) for knob, value in row.default.items())
