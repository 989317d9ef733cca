"""Simulated curves: equal for the same trial, similar in shape to real ones, and fair to all variants."""

import dataclasses
import statistics
from typing import Any

import pytest

from tests.trainables.small import smallest_trial
from trainables.config import ModelConfig
from trainables.hyper import Hyper
from trainables.own.trial import OwnTrial
from trainables.report import EpochReport, OwnReport
from trainables.simulated import TOO_LARGE_LR, SimulatedTraining, best_lr, simulated
from trainables.space import Plan
from trainables.variants import VARIANTS

PLAN = Plan(12, 10)
BEST_LR = best_lr(smallest_trial("adam_l2"))


def final(hyper: Hyper, seed: int = 0, plan: Plan = PLAN) -> float:
    config = dataclasses.replace(smallest_trial("adam_l2"), hyper=hyper, seed=seed, epochs=plan.epochs)
    return SimulatedTraining(config, plan).report(plan.epochs).val_acc


def test_a_report_has_the_fields_of_a_real_one_and_can_be_repeated() -> None:
    training, again = (SimulatedTraining(smallest_trial("adam_l2"), PLAN) for _ in range(2))
    report = training.report(3)
    assert isinstance(report, EpochReport)
    assert [again.report(epoch) for epoch in (1, 2, 3)][-1] == report


def test_accuracy_rises_with_the_epochs_and_depends_on_the_learning_rate() -> None:
    training = SimulatedTraining(dataclasses.replace(smallest_trial("adam_l2"), hyper=Hyper(BEST_LR)), PLAN)
    assert training.report(12).val_acc > training.report(4).val_acc > training.report(1).val_acc
    assert final(Hyper(BEST_LR)) > final(Hyper(BEST_LR / 100)) + 0.2


@pytest.mark.parametrize("name", VARIANTS)
def test_no_variant_is_better_than_another(name: str) -> None:
    variant = VARIANTS[name]
    knobs = {knob: domain.resolve(PLAN) for knob, domain in variant.space.items()}
    settings: dict[str, Any] = {"lr": BEST_LR, **variant.fixed}
    if "warmup" in knobs:
        settings["warmup"] = 5
    if "restarts" in knobs:
        settings["restarts"] = "4x2"
    runs = [final(Hyper(**settings), seed) for seed in range(200)]
    baseline = [final(Hyper(BEST_LR), seed) for seed in range(200)]
    error = (statistics.variance(runs) / 200 + statistics.variance(baseline) / 200) ** 0.5
    assert abs(statistics.fmean(runs) - statistics.fmean(baseline)) < 5 * error


def test_a_seed_has_the_same_effect_on_every_setting_so_pairing_shows() -> None:
    seeds = range(200)
    ours = [final(Hyper(BEST_LR, l2=1e-4), seed) for seed in seeds]
    theirs = [final(Hyper(BEST_LR, lambda_norm=0.05, schedule="cosine"), seed) for seed in seeds]
    assert statistics.correlation(ours, theirs) > 0.8
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    assert 0 < statistics.stdev(differences) < 0.7 * statistics.stdev(ours)


def test_a_setting_adds_a_little_noise_of_its_own_to_a_seed() -> None:
    shifts = {final(Hyper(BEST_LR, l2=l2), seed=0) for l2 in (1e-6, 1e-5, 1e-4)}
    assert len(shifts) == 3


def test_the_best_learning_rate_is_inverse_to_the_width() -> None:
    def best_of(width: float) -> float:
        return best_lr(dataclasses.replace(smallest_trial("adam_l2"), model=ModelConfig("elu_net", {"width": width})))

    assert best_of(1 / 8) == pytest.approx(8 * best_of(1))
    own = dataclasses.replace(smallest_trial("adam_l2"), model=ModelConfig("my.code:net", {"width": 4}))
    assert best_lr(own) == best_lr(dataclasses.replace(own, model=ModelConfig("my.code:net")))


def test_a_much_too_large_learning_rate_diverges() -> None:
    config = dataclasses.replace(smallest_trial("adam_l2"), hyper=Hyper(2 * TOO_LARGE_LR))
    assert SimulatedTraining(config, PLAN).report(1).diverged is None
    assert SimulatedTraining(config, PLAN).report(2).diverged == "training loss is nan"


def own(seed: int = 0, **config: Any) -> OwnTrial:
    return OwnTrial("mine:Train", config, PLAN.epochs, seed, (), "val_loss", "test_loss")


@pytest.mark.parametrize("maximize", [True, False])
def test_a_trial_of_an_own_trainable_gets_better_and_withholds_its_judge_metric(maximize: bool) -> None:
    training, again = (simulated(own(lr=0.1), PLAN, maximize=maximize) for _ in range(2))
    reports = [training.report(epoch) for epoch in range(1, 13)]
    assert reports == [again.report(epoch) for epoch in range(1, 13)]
    assert all(isinstance(report, OwnReport) and set(report.values) == {"val_loss"} for report in reports)
    first, last = (reports[at].metric("val_loss") for at in (0, -1))
    assert (last > first) == maximize
    assert training.test().metric("test_loss") == pytest.approx(last, abs=0.05)


def test_a_setting_and_a_seed_change_an_own_trainables_curve() -> None:
    lasts = [simulated(own(lr=10.0**power), PLAN).report(12).metric("val_loss") for power in range(-4, 1)]
    assert max(lasts) - min(lasts) > 0.1
    seeds = [simulated(own(seed, lr=0.1), PLAN).report(12).metric("val_loss") for seed in range(9)]
    assert 0.001 < statistics.stdev(seeds) < 0.05
    assert simulated(own(text="a"), PLAN).report(1) != simulated(own(text="b"), PLAN).report(1)
