"""Data, a net and trials that are small enough to train inside a test."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from trainables.config import ModelConfig, TrialConfig
from trainables.data.request import DataRequest
from trainables.hyper import Hyper
from trainables.space import Plan, Scalar, middle
from trainables.variants import VARIANTS

REQUEST = DataRequest("digits", train_images=200, val_images=100, test_images=100)
EPOCHS, BATCH = 6, 50
STEPS = 4
"""Updates per epoch: 200 / 50."""

NARROW = ModelConfig("elu_net", {"width": 0.05})
TOY = ModelConfig("tests.trainables.small:toy")


def smallest_trial(variant: str, knobs: Mapping[str, Scalar] | None = None, **changes: Any) -> TrialConfig:
    """A trial of a variant on ``REQUEST``.

    Args:
        variant: a row of ``VARIANTS``; the trial uses its default and fixed knobs, and the middle of the ranges that
            depend on the trial's length.
        knobs: hyperparameters that replace these.
        changes: fields of ``TrialConfig`` that replace the usual ones.
    """
    row = VARIANTS[variant]
    batch_size = changes.get("batch_size", BATCH)
    plan = Plan(changes.get("epochs", EPOCHS), max(1, (REQUEST.train_images or 0) // batch_size))
    planned = {knob: middle(domain.resolve(plan)) for knob, domain in row.space.items() if knob not in row.default}
    hyper = Hyper.of({**row.default, **planned, **row.fixed, **(knobs or {})})
    return replace(TrialConfig(REQUEST, NARROW, hyper, EPOCHS, BATCH, seed=0), **changes)


def toy(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """A net that trains fast and has every kind of parameter: a convolution, a matrix, a norm and biases."""
    channels, height, width = shape
    return nn.Sequential(
        nn.AvgPool2d(8),
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ELU(),
        nn.Flatten(),
        nn.Linear(4 * (height // 8) * (width // 8), classes),
    )


def decoupled(variant: str) -> bool:
    """Whether a variant decays the weights directly, and not through the gradient."""
    return "lambda_norm" in VARIANTS[variant].space
