"""Knobs: their types and ranges; a knob at its default does nothing."""

import pytest

from trainables.errors import TrainableError
from trainables.hyper import KNOBS, RANGES, Hyper
from trainables.space import Scalar


def test_a_knob_at_its_default_does_nothing() -> None:
    hyper = Hyper.of({"lr": 1e-3})
    assert (hyper.l2, hyper.lambda_norm, hyper.amsgrad, hyper.warmup, hyper.restarts) == (0.0, 0.0, False, 0, "")
    assert (hyper.beta1, hyper.beta2, hyper.eps) == (0.9, 0.999, 1e-8)  # Adam's own (arXiv:1412.6980)


@pytest.mark.parametrize("knob", KNOBS)
def test_every_knob_has_a_text_about_its_allowed_values(knob: str) -> None:
    assert RANGES[knob].startswith("must be")


def test_a_whole_number_becomes_a_real_number() -> None:
    lr = Hyper.of({"lr": 1}).lr
    assert (lr, type(lr)) == (1.0, float)


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("lr", 0.0),
        ("lr", -1e-3),
        ("lr", float("nan")),
        ("lr", "1e-3"),
        ("lr", True),
        ("beta1", 1.0),
        ("beta1", -0.1),
        ("beta2", 1),
        ("eps", 0.0),
        ("l2", -1e-4),
        ("lambda_norm", -0.05),
        ("decay_schedule", "cosine"),
        ("warmup", -1),
        ("warmup", 2.0),
        ("amsgrad", 1),
        ("restarts", 10),
    ],
)
def test_a_value_outside_a_knobs_range_is_refused_with_the_knobs_name(knob: str, value: Scalar) -> None:
    with pytest.raises(TrainableError, match=f"{knob} is .*; {RANGES[knob]}"):
        Hyper.of({"lr": 1e-3, knob: value})


def test_an_unknown_knob_is_refused_with_the_known_knobs() -> None:
    with pytest.raises(TrainableError, match=r"no knob named 'wd' .*lambda_norm"):
        Hyper.of({"lr": 1e-3, "wd": 0.1})


def test_two_kinds_of_decay_are_refused() -> None:
    with pytest.raises(TrainableError, match="one kind of decay"):
        Hyper(1e-3, l2=1e-4, lambda_norm=0.05)
