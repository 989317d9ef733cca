"""Schedules against numbers worked out by hand and the papers' own formulas."""

import math
from collections.abc import Mapping

import pytest

from trainables.errors import TrainableError
from trainables.hyper import Hyper
from trainables.schedules import (
    ARTICLE_DECAY_HALVINGS,
    ARTICLE_LR_HALVINGS,
    LR_SCHEDULES,
    Schedule,
    cosine_restarts,
    cycle,
    halvings,
    noam,
    normalized_decay,
    parse_restarts,
)
from trainables.space import Plan, Scalar

ARTICLE = Plan(epochs=150, steps_per_epoch=450)  # 45,000 images in batches of 100
SHORT = Plan(epochs=15, steps_per_epoch=2)
KNOBS: Mapping[str, Mapping[str, Scalar]] = {"noam": {"warmup": 5}, "restarts": {"restarts": "1x2"}}


def changes(factors: list[float]) -> dict[int, float]:
    """The steps at which a list of factors changes, each with its new factor."""
    return {step: factor for step, factor in enumerate(factors) if step and factor != factors[step - 1]}


def test_the_learning_rate_halves_at_an_eighth_a_quarter_and_a_half() -> None:
    factors = [halvings(step, 200, ARTICLE_LR_HALVINGS) for step in range(200)]
    assert factors[0] == 1
    assert changes(factors) == {25: 0.5, 50: 0.25, 100: 0.125}


def test_the_decay_halves_at_the_articles_shares() -> None:
    factors = [halvings(step, 200, ARTICLE_DECAY_HALVINGS) for step in range(200)]
    assert factors[0] == 1
    assert changes(factors) == {10: 0.5, 50: 0.25, 100: 0.125, 150: 0.0625}


def test_a_share_between_two_updates_takes_effect_at_the_later_one() -> None:
    # An eighth of 10 updates is 1.25: updates 1 and 2 (steps 0 and 1) come before it.
    assert [halvings(step, 10, (1 / 8,)) for step in range(3)] == [1, 1, 0.5]


def test_noam_peaks_at_one_when_warmup_ends() -> None:
    assert noam(step=9, warmup_steps=10) == max(noam(step, 10) for step in range(100)) == 1.0


def test_noam_rises_linearly_and_falls_with_the_inverse_square_root() -> None:
    assert [noam(step, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert noam(step=39, warmup_steps=10) == pytest.approx(0.5)  # sqrt(10 / 40)
    assert noam(step=89, warmup_steps=10) == pytest.approx(1 / 3)  # sqrt(10 / 90)


@pytest.mark.parametrize("warmup", [1, 7, 4000])
def test_noam_is_the_papers_formula_divided_by_its_peak(warmup: int) -> None:
    # arXiv:1706.03762, eq. 3: d^-0.5 * min(s^-0.5, s * w^-1.5), whose peak is (d * w)^-0.5.
    for s in (1, 2, warmup, warmup + 1, 10 * warmup):
        paper = 512**-0.5 * min(s**-0.5, s * warmup**-1.5)
        assert noam(s - 1, warmup) == pytest.approx(paper / (512 * warmup) ** -0.5)


def test_a_cosine_cycles_first_update_runs_at_exactly_one_and_its_middle_at_half() -> None:
    assert cosine_restarts(0, 100, 1) == 1
    assert cosine_restarts(50, 100, 1) == pytest.approx(0.5)
    assert cosine_restarts(25, 100, 1) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    # 1 + cos(pi - x) is x^2 / 2 for a small x: the last update runs at (pi / 100)^2 / 4.
    assert cosine_restarts(99, 100, 1) == pytest.approx((math.pi / 100) ** 2 / 4, rel=1e-3)


@pytest.mark.parametrize(
    ("step", "by_hand"), [(0, (0, 10)), (9, (0, 10)), (10, (10, 20)), (29, (10, 20)), (30, (30, 40)), (70, (70, 80))]
)
def test_cycles_of_ten_that_double_begin_at_ten_thirty_and_seventy(step: int, by_hand: tuple[int, int]) -> None:
    assert cycle(step, 10, 2) == by_hand


def test_restarts_of_ten_doubling_end_at_epochs_10_30_70_and_150() -> None:
    assert Schedule(Hyper(1e-3, schedule="restarts", restarts="10x2"), ARTICLE).cycle_ends() == (10, 30, 70, 150)


def test_a_cycle_that_training_cuts_short_has_no_end() -> None:
    assert Schedule(Hyper(1e-3, schedule="restarts", restarts="10x2"), Plan(149, 450)).cycle_ends() == (10, 30, 70)


def test_the_learning_rate_jumps_back_to_the_peak_at_restarts_and_nowhere_else() -> None:
    schedule = Schedule(Hyper(1e-3, schedule="restarts", restarts="10x2"), ARTICLE)
    rates = [schedule.lr(step) for step in range(ARTICLE.updates)]
    rises = [step for step in range(1, ARTICLE.updates) if rates[step] > rates[step - 1]]
    assert rises == [10 * 450, 30 * 450, 70 * 450]
    assert {rates[step] for step in (0, *rises)} == {1e-3}
    assert max(rates[step - 1] for step in rises) < 1e-3 * 1e-6


def test_plain_cosine_is_one_cycle_over_the_whole_trial() -> None:
    schedule = Schedule(Hyper(2e-3, schedule="cosine"), SHORT)
    by_hand = [1e-3 * (1 + math.cos(math.pi * step / 30)) for step in range(30)]
    assert [schedule.lr(step) for step in range(30)] == pytest.approx(by_hand)
    assert schedule.cycle_ends() is None


@pytest.mark.parametrize(
    ("epochs", "factor"), [(30, 0.00861), (50, 0.00667), (100, 0.00471), (150, 0.00385), (200, 0.00333)]
)
def test_the_normalised_decay_matches_the_paper(epochs: int, factor: float) -> None:
    # arXiv:1711.05101, appendix B.1: lambda_norm * sqrt(b / (B * T)) with b = 100 and B = 45,000.
    decay = normalized_decay(0.05, updates=450 * epochs)
    assert decay == pytest.approx(0.05 * math.sqrt(100 / (45_000 * epochs)))
    assert decay == pytest.approx(0.05 * factor, abs=0.05 * 5e-6)


def test_an_update_decays_by_the_papers_rate_times_the_schedules_factor() -> None:
    # lr is divided out: at the peak the decay is lambda alone, 0.05 * 0.00861 at 30 epochs, for every lr.
    for lr in (1e-4, 1e-2):
        schedule = Schedule(Hyper(lr, lambda_norm=0.05, schedule="cosine"), Plan(30, 450))
        acting = [schedule.lr(step) * schedule.weight_decay(step) for step in (0, 6750)]
        assert acting == pytest.approx([4.303e-4, 4.303e-4 / 2], rel=1e-4)


def test_the_decay_is_renormalised_for_every_cycle() -> None:
    schedule = Schedule(Hyper(1e-3, lambda_norm=0.05, schedule="restarts", restarts="10x2"), ARTICLE)
    acting = [schedule.lr(450 * epoch) * schedule.weight_decay(450 * epoch) for epoch in (0, 10, 30, 70)]
    # 0.05 / sqrt(4,500), and each next cycle is twice as long.
    assert acting == pytest.approx([7.4536e-4, 5.2705e-4, 3.7268e-4, 2.6352e-4], rel=1e-4)
    assert schedule.weight_decay(450 * 10 - 1) == schedule.weight_decay(0)


def test_the_decay_halves_at_its_own_shares_under_a_constant_learning_rate() -> None:
    hyper = Hyper(1e-3, lambda_norm=0.1, decay_schedule="halving", schedule="constant")
    schedule = Schedule(hyper, Plan(20, 20))
    decays = [schedule.weight_decay(step) for step in range(400)]
    assert decays[0] == pytest.approx(0.1 / 20 / 1e-3)
    assert changes(decays) == pytest.approx({20: 2.5, 100: 1.25, 200: 0.625, 300: 0.3125})


def test_there_is_no_decoupled_decay_without_a_lambda() -> None:
    assert Schedule(Hyper(1e-3, l2=1e-2), SHORT).weight_decay(0) == 0


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_every_schedule_reaches_the_peak_and_stays_between_zero_and_one(name: str) -> None:
    schedule = Schedule(Hyper.of({"lr": 1.0, "schedule": name, **KNOBS.get(name, {})}), SHORT)
    factors = [schedule.lr(step) for step in range(SHORT.updates)]
    assert max(factors) == 1
    assert min(factors) > 0


@pytest.mark.parametrize("warmup", [0, 30, 31])
def test_a_warmup_that_is_not_shorter_than_training_is_refused(warmup: int) -> None:
    with pytest.raises(TrainableError, match=rf"warmup of {warmup} updates must be .* shorter .* \(30 updates\)"):
        Schedule(Hyper(1e-3, schedule="noam", warmup=warmup), SHORT)


@pytest.mark.parametrize(("warmup", "epochs"), [(1, 1), (450, 1), (451, 2), (4000, 9)])
def test_warmup_epochs_are_rounded_up(warmup: int, epochs: int) -> None:
    assert Schedule(Hyper(1e-3, schedule="noam", warmup=warmup), ARTICLE).warmup_epochs() == epochs


def test_only_noam_warms_up() -> None:
    assert Schedule(Hyper(1e-3, warmup=900), ARTICLE).warmup_epochs() == 0


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(TrainableError, match=r"no schedule named 'linear' .*halving"):
        Schedule(Hyper(1e-3, schedule="linear"), SHORT)


def test_restarts_are_read_as_epochs_and_growth() -> None:
    assert parse_restarts("10x2") == (10, 2)


@pytest.mark.parametrize("text", ["", "10", "10x", "x2", "0x2", "10x0", "-1x2", "1.5x2", "10x2x2", "10 x 2"])
def test_other_forms_of_restarts_are_refused(text: str) -> None:
    with pytest.raises(TrainableError, match="must be written T_0xT_mult"):
        Schedule(Hyper(1e-3, schedule="restarts", restarts=text), SHORT)
