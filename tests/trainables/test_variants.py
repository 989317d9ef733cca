"""Every variant's update against the papers' formulas, and the rates that it really uses against the printed rates.

The updates come from a real training: hooks on its optimizer set the gradients before an update and copy the weights
after it. The reference is float64 NumPy and computes its own learning rate and decay; it never calls ``Schedule``.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.trainables.small import BATCH, STEPS, TOY, decoupled, smallest_trial
from trainables.config import TrialConfig
from trainables.data.splits import Splits
from trainables.hyper import Hyper
from trainables.schedules import Schedule
from trainables.space import Plan, Scalar
from trainables.training.trainer import Training
from trainables.variants import VARIANTS
from tuner.report.lr_schedule import points, variant_schedule

Weights = list[NDArray[np.float64]]
Gradients = Callable[[int, Tensor], Tensor]
"""Returns the gradient of one parameter at an update (from 0)."""

LOUD: Mapping[str, Scalar] = {"lr": 1e-2, "l2": 1e-2, "lambda_norm": 0.1, "beta2": 0.95}
"""Knobs that make every part of an update visible; with the defaults, decay would be lost in rounding errors."""
DECOUPLED = [name for name in VARIANTS if decoupled(name)]
COUPLED = [name for name in VARIANTS if not decoupled(name)]


class Update(NamedTuple):
    """The result of one update of a training."""

    gradients: list[Tensor]
    weights: list[Tensor]
    states: list[dict[str, Tensor]]
    groups: list[dict[str, Any]]


def loud_trial(name: str, updates: int) -> TrialConfig:
    knobs = {knob: value for knob, value in LOUD.items() if knob in VARIANTS[name].space}
    return smallest_trial(name, knobs, epochs=math.ceil(updates / STEPS), model=TOY)


def drive(training: Training, gradients: Gradients | None = None) -> tuple[list[Tensor], list[Update]]:
    """Train to the end with these gradients instead of the true ones; return the first weights and all updates."""
    parameters = list(training.model.parameters())
    updates: list[Update] = []

    def before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for parameter in parameters:
            if gradients is not None and parameter.grad is not None:
                parameter.grad.copy_(gradients(len(updates), parameter))

    def after(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        updates.append(
            Update(
                [p.grad.clone() for p in parameters if p.grad is not None],
                [p.detach().clone() for p in parameters],
                [{key: value.clone() for key, value in optimizer.state[p].items()} for p in parameters],
                [{key: group[key] for key in ("lr", "weight_decay", "decayed")} for group in optimizer.param_groups],
            )
        )

    training.optimizer.register_step_pre_hook(before)
    training.optimizer.register_step_post_hook(after)
    first = [p.detach().clone() for p in parameters]
    for _ in range(training.config.epochs):
        training.run_epoch()
    return first, updates


def random_gradients(seed: int) -> Gradients:
    """Normally distributed gradients; their scale moves up and down between 0.005 and 0.5 over the updates."""
    generator = torch.Generator().manual_seed(seed)
    return lambda step, p: 0.05 * 10 ** math.sin(0.4 * step) * torch.randn(p.shape, generator=generator)


def no_gradients(step: int, parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter)


def papers_factor(hyper: Hyper, t: int, plan: Plan) -> float:
    """The schedule's factor at update t, which starts at 1 as in the papers."""
    if hyper.schedule == "halving":  # the article: at 25, 50 and 100 of 200
        done = (t - 1) / plan.updates
        return 1.0 if done < 0.125 else 0.5 if done < 0.25 else 0.25 if done < 0.5 else 0.125
    if hyper.schedule == "noam":  # arXiv:1706.03762, eq. 3; our departure: divided by its peak
        return float(min(t**-0.5, t * hyper.warmup**-1.5) * hyper.warmup**0.5)
    assert hyper.schedule in ("cosine", "restarts")  # arXiv:1608.03983, eq. 5, eta_min = 0
    t_cur, t_i = papers_cycle(hyper, t, plan)
    return 0.5 + 0.5 * math.cos(math.pi * t_cur / t_i)


def papers_cycle(hyper: Hyper, t: int, plan: Plan) -> tuple[int, int]:
    """(T_cur, T_i) in updates; without restarts the whole trial is one cycle."""
    t_cur, t_i, growth = t - 1, plan.updates, 1
    if hyper.schedule == "restarts":
        t_0, growth = (int(number) for number in hyper.restarts.split("x"))
        t_i = t_0 * plan.steps_per_epoch
    while t_cur >= t_i:
        t_cur, t_i = t_cur - t_i, t_i * growth
    return t_cur, t_i


def papers_updates(hyper: Hyper, plan: Plan, first: Weights, gradients: list[Weights]) -> list[Weights]:
    """The weights after every update, by the papers' formulas.

    Adam: arXiv:1412.6980, algorithm 1. Decoupled decay: arXiv:1711.05101, algorithm 2 and appendix B.1; lambda is not
    multiplied by alpha. AMSGrad: arXiv:1904.09237, algorithm 2. torch departs from it: AMSGrad's moments are
    bias-corrected, the second one after the maximum. We depart from the papers: biases and norms are not decayed.
    """
    assert hyper.decay_schedule == "constant"
    weights = [w.copy() for w in first]
    m, v, largest = ([np.zeros_like(w) for w in first] for _ in range(3))
    after = []
    for t, gradients_t in enumerate(gradients, start=1):
        eta = papers_factor(hyper, t, plan)
        epochs = papers_cycle(hyper, t, plan)[1] / plan.steps_per_epoch
        train_images = plan.steps_per_epoch * BATCH
        decay = hyper.lambda_norm * math.sqrt(BATCH / (train_images * epochs))
        for i, w in enumerate(weights):
            decayed = w.ndim >= 2
            g = gradients_t[i] + (hyper.l2 * w if decayed else 0)
            m[i] = hyper.beta1 * m[i] + (1 - hyper.beta1) * g
            v[i] = hyper.beta2 * v[i] + (1 - hyper.beta2) * g**2
            largest[i] = np.maximum(largest[i], v[i])
            m_hat = m[i] / (1 - hyper.beta1**t)
            v_hat = (largest[i] if hyper.amsgrad else v[i]) / (1 - hyper.beta2**t)
            step = hyper.lr * m_hat / (np.sqrt(v_hat) + hyper.eps)
            weights[i] = w - eta * (step + (decay * w if decayed else 0))
        after.append([w.copy() for w in weights])
    return after


def papers_run(training: Training, hyper: Hyper, first: list[Tensor], updates: list[Update]) -> list[Weights]:
    gradients = [as_float64(update.gradients) for update in updates]
    return papers_updates(hyper, training.plan, as_float64(first), gradients)


def as_float64(tensors: list[Tensor]) -> Weights:
    return [tensor.double().numpy() for tensor in tensors]


def largest_error(weights: list[Tensor], expected: Weights) -> float:
    """The largest of the parameters' errors, each relative to the parameter's norm."""
    pairs = zip(as_float64(weights), expected, strict=True)
    return max(float(np.linalg.norm(w - e) / np.linalg.norm(e)) for w, e in pairs)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_update_matches_the_papers(name: str, tiny: Splits) -> None:
    training = Training(loud_trial(name, updates=120), tiny)
    first, updates = drive(training, random_gradients(0))
    expected = papers_run(training, training.config.hyper, first, updates)
    for t in (1, 2, 100):
        assert largest_error(updates[t - 1].weights, expected[t - 1]) < 1e-6


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("adam_l2", {"l2": 0.0}),
        ("adam_l2", {"schedule": "cosine"}),
        ("adamw", {"lambda_norm": 0.0}),
        ("adamw", {"lambda_norm": 0.099}),
        ("amsgrad", {"amsgrad": False}),
        ("noam", {"warmup": 2}),
        ("adamw_restarts", {"schedule": "cosine"}),
        ("adamw_cosine", {"schedule": "halving"}),
        ("adam_l2_cosine", {"schedule": "halving"}),
        ("adam_beta2", {"beta2": 0.96}),
    ],
)
def test_the_reference_changes_with_every_knob(name: str, change: dict[str, Any], tiny: Splits) -> None:
    training = Training(loud_trial(name, updates=120), tiny)
    first, updates = drive(training, random_gradients(0))
    other = papers_run(training, replace(training.config.hyper, **change), first, updates)
    assert largest_error(updates[99].weights, other[99]) > 1e-4


@pytest.mark.parametrize("name", VARIANTS)
def test_the_optimizer_uses_the_printed_rates_at_every_update(name: str, tiny: Splits) -> None:
    training = Training(smallest_trial(name), tiny)
    _, updates = drive(training)
    printed = points(variant_schedule(name, training.config.epochs, STEPS, {}), every=1)
    assert len(updates) == len(printed) == training.plan.updates
    for update, point in zip(updates, printed, strict=True):
        assert [group["lr"] for group in update.groups] == [point.lr] * len(update.groups)
        used = [group["weight_decay"] for group in update.groups if group["decayed"]]
        # The printed decay is the decoupled decay. L2 is part of the gradient and equal at every update.
        assert used == [point.weight_decay if decoupled(name) else training.config.hyper.l2]
    assert isinstance(training.optimizer, torch.optim.AdamW) == decoupled(name)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_report_gives_the_rates_of_the_epochs_last_update(name: str, tiny: Splits) -> None:
    training = Training(smallest_trial(name, model=TOY), tiny)
    printed = points(variant_schedule(name, training.config.epochs, STEPS, {}), every=1)
    for epoch in range(1, training.config.epochs + 1):
        report, point = training.run_epoch(), printed[epoch * STEPS - 1]
        assert (report.lr, report.weight_decay) == (point.lr, point.weight_decay)


@pytest.mark.parametrize("name", DECOUPLED)
def test_without_gradients_decoupled_decay_shrinks_weights_by_the_printed_factor_exactly(
    name: str, tiny: Splits
) -> None:
    trial = loud_trial(name, updates=24)
    first, updates = drive(Training(trial, tiny), no_gradients)
    printed = points(Schedule(trial.hyper, Plan(trial.epochs, STEPS)), every=1)
    matrices = [i for i, w in enumerate(first) if w.ndim >= 2]
    for before, update, point in zip([first, *(u.weights for u in updates)], updates, printed, strict=False):
        # torch computes 1 - lr * wd in float64, rounds it to float32 and multiplies. We do the same, to the same bits.
        shrink = torch.tensor(point.shrink, dtype=torch.float32)
        assert 0 < shrink < 1
        assert all(torch.equal(update.weights[i], before[i] * shrink) for i in matrices)


@pytest.mark.parametrize("name", COUPLED)
def test_without_gradients_l2_moves_every_weight_by_the_learning_rate_for_any_size(name: str, tiny: Splits) -> None:
    # The L2 gradient passes through the moments, and Adam's first step is lr * g / |g|.
    trial = loud_trial(name, updates=24)
    training = Training(trial, tiny)
    (before, *_), (update, *_) = drive(training, no_gradients)
    large = before.abs() > 1e-2
    moved = (before - update.weights[0])[large]
    expected = update.groups[0]["lr"] * before.sign()[large]
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=0)
    ratio = (update.weights[0] / before)[large]
    assert ratio.max() - ratio.min() > 1e-3


@pytest.mark.parametrize("name", VARIANTS)
def test_biases_and_norms_are_not_decayed(name: str, tiny: Splits) -> None:
    training = Training(loud_trial(name, updates=24), tiny)
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter.add_(1)  # a bias of zero would stay zero under any decay
    first, updates = drive(training, no_gradients)
    stayed = [torch.equal(before, after) for before, after in zip(first, updates[-1].weights, strict=True)]
    assert stayed == [before.ndim < 2 for before in first]
    assert {before.ndim for before in first} == {1, 2, 4}


def second_moments(name: str, key: str, tiny: Splits) -> list[list[Tensor]]:
    _, updates = drive(Training(loud_trial(name, updates=52), tiny), random_gradients(1))
    return [[state[key] for state in update.states] for update in updates[:50]]


def falls(moments: list[list[Tensor]]) -> bool:
    pairs = itertools.pairwise(moments)
    return any((now < before).any().item() for old, new in pairs for before, now in zip(old, new, strict=True))


@pytest.mark.parametrize("name", [name for name, row in VARIANTS.items() if row.fixed.get("amsgrad")])
def test_amsgrads_maximum_never_falls_in_any_coordinate(name: str, tiny: Splits) -> None:
    assert not falls(second_moments(name, "max_exp_avg_sq", tiny))
    assert falls(second_moments(name, "exp_avg_sq", tiny))


def test_the_second_moment_of_the_control_without_the_maximum_falls(tiny: Splits) -> None:
    assert falls(second_moments("adam_beta2", "exp_avg_sq", tiny))


@pytest.mark.parametrize("name", ["adamw", "amsgrad", "adam_beta2"])
def test_variants_without_their_own_schedule_use_the_baselines(name: str) -> None:
    plan = Plan(40, 5)
    hyper, baseline = (smallest_trial(variant, {"lr": 1e-3}, epochs=40).hyper for variant in (name, "adam_l2"))
    rates, baselines = ([Schedule(h, plan).lr(step) for step in range(plan.updates)] for h in (hyper, baseline))
    assert rates == baselines


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_searches_the_baselines_learning_rates(name: str) -> None:
    assert VARIANTS[name].space["lr"] == VARIANTS["adam_l2"].space["lr"]


@pytest.mark.parametrize("name", COUPLED)
def test_every_coupled_variant_searches_the_baselines_l2(name: str) -> None:
    assert VARIANTS[name].space["l2"] == VARIANTS["adam_l2"].space["l2"]
    assert {"noam", "amsgrad", "adam_beta2"} < set(COUPLED)


@pytest.mark.parametrize("name", DECOUPLED)
def test_every_decoupled_variant_searches_adamws_decay(name: str) -> None:
    assert VARIANTS[name].space["lambda_norm"] == VARIANTS["adamw"].space["lambda_norm"]
    assert "l2" not in VARIANTS[name].space


@pytest.mark.parametrize(
    ("name", "other", "change"),
    [
        ("amsgrad", "adam_beta2", {"amsgrad"}),
        ("noam", "adam_l2", {"schedule", "warmup"}),
        ("adamw", "adam_l2", {"l2", "lambda_norm"}),
        ("adamw_cosine", "adamw", {"schedule"}),
        ("adam_l2_cosine", "adam_l2", {"schedule"}),
        ("adamw_restarts", "adamw_cosine", {"schedule", "restarts"}),
        ("adam_beta2", "adam_l2", set()),
    ],
)
def test_a_variants_default_differs_from_its_controls_by_one_change(name: str, other: str, change: set[str]) -> None:
    ours, theirs = (vars(smallest_trial(variant).hyper) for variant in (name, other))
    assert {knob for knob in ours if ours[knob] != theirs[knob]} == change


@pytest.mark.parametrize("name", VARIANTS)
def test_no_variant_searches_a_knob_that_it_fixes(name: str) -> None:
    row = VARIANTS[name]
    assert not set(row.fixed) & set(row.space)
    assert set(row.default) <= set(row.space)
    assert row.paper.startswith("arXiv:")
    assert row.note
