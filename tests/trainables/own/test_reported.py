"""Reading a report: which numbers stay, which are withheld, and what cannot be used."""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from trainables.errors import CodeError
from trainables.own.reported import MOST_NUMBERS, Reported, judged_number, read_report
from trainables.own.trial import OwnTrial

TRIAL = OwnTrial("mine:Train", {}, 3, 0, (), "val_loss", "test_loss")


def read(report: dict[Any, Any], trial: OwnTrial = TRIAL, confirms: bool = False) -> Reported:
    return read_report(trial, report, confirms=confirms, not_theirs={"time_total_s", "config", "done"})


@pytest.mark.parametrize(
    "value", [2, 2.0, np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2), torch.tensor(2.0), Fraction(2)]
)
def test_every_kind_of_real_number_is_a_number(value: Any) -> None:
    assert read({"val_loss": value}).values == {"val_loss": 2.0}


@pytest.mark.parametrize(
    "value", ["2", None, True, np.bool_(True), 2j, [2.0], np.array([2.0]), torch.ones(1), Decimal(2), object()]
)
def test_everything_else_is_dropped_and_refused_as_a_metric(value: Any) -> None:
    assert read({"val_loss": 1.0, "other": value}).values == {"val_loss": 1.0}
    with pytest.raises(CodeError, match=r"^mine:Train reported 'val_loss' as .*, which is no number$") as caught:
        read({"val_loss": value})
    assert "\n" not in str(caught.value)


def test_dicts_are_flattened_and_rays_own_names_are_dropped() -> None:
    report = {"val_loss": 1.0, "a": {"b": {"c": 3}}, 5: 6, "config": {"lr": 0.1}, "time_total_s": 9.0, "done": True}
    assert read(report).values == {"val_loss": 1.0, "a/b/c": 3.0, "5": 6.0}


def test_a_metric_may_be_nested_or_one_of_rays_own() -> None:
    trial = OwnTrial("mine:Train", {}, 3, 0, (), "val/loss", "time_total_s")
    found = read({"val": {"loss": 1.0}, "time_total_s": 9.0}, trial, confirms=True)
    assert (dict(found.values), found.judged) == ({"val/loss": 1.0}, 9.0)


@pytest.mark.parametrize("confirms", [False, True])
def test_the_judge_metric_is_never_among_the_values(confirms: bool) -> None:
    found = read({"val_loss": 1.0, "test_loss": 2.0}, confirms=confirms)
    assert found.values == {"val_loss": 1.0}
    assert found.judged == (2.0 if confirms else None)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, np.float32("nan"), 10**400], ids=["nan", "inf", "-inf", "numpy", "huge"]
)
def test_a_metric_that_is_not_finite_has_diverged(value: Any) -> None:
    assert str(read({"val_loss": value}).diverged).startswith("val_loss is ")
    assert read({"val_loss": 1.0, "other": value}).diverged is None
    assert read({"val_loss": 1.0, "test_loss": value}).diverged is None
    placeholder = read({"val_loss": 1.0, "test_loss": value}, confirms=True)
    assert placeholder.diverged is None
    assert not math.isfinite(judged_number(TRIAL, placeholder.judged, ()))


def test_a_judge_that_is_no_number_is_refused_in_the_last_report_only() -> None:
    found = read({"val_loss": 1.0, "test_loss": None}, confirms=True)
    with pytest.raises(CodeError, match=r"^mine:Train reported 'test_loss' as None, which is no number$"):
        judged_number(TRIAL, found.judged, found.values)
    with pytest.raises(CodeError, match="reported no metric 'test_loss'"):
        judged_number(TRIAL, read({"val_loss": 1.0}, confirms=True).judged, found.values)


def test_a_report_without_the_metric_names_the_one_that_may_be_meant() -> None:
    with pytest.raises(CodeError) as caught:
        read({"validation_loss": 1.0, "vall_loss": 1.0, "b": "text"})
    assert str(caught.value) == (
        "mine:Train reported no metric 'val_loss'; did you mean 'vall_loss'? (it reported: validation_loss, vall_loss)"
    )


def test_a_report_that_is_too_large_is_refused() -> None:
    many = {str(number): 1.0 for number in range(MOST_NUMBERS)}
    assert len(read({**many, "val_loss": 1.0, "0": "text"}).values) == MOST_NUMBERS
    with pytest.raises(CodeError, match=r"reported 1,001 numbers at once; a report may have 1,000"):
        read({**many, "val_loss": 1.0})
    with pytest.raises(CodeError, match="too large a report: its names have"):
        read({"val_loss": 1.0, "x" * 200_000: 1.0})
    endless: dict[str, Any] = {"val_loss": 1.0}
    endless["again"] = endless
    with pytest.raises(CodeError, match="dicts in dicts"):
        read(endless)


class Broken:
    def __repr__(self) -> str:
        raise ValueError("no")

    __str__ = __repr__


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"val_loss": 1.0, "a\udcff": 2.0}, r"reported a number whose name is not UTF-8: 'a\\udcff'$"),
        ({"val_loss": 1.0, Broken(): 2.0}, "reading its report raised ValueError: no"),
        ({"val_loss": Broken()}, "reported 'val_loss' as an object of type Broken, which is no number$"),
    ],
)
def test_odd_names_and_values_are_one_line(report: dict[Any, Any], message: str) -> None:
    with pytest.raises(CodeError, match=message) as caught:
        read(report)
    assert "\n" not in str(caught.value)
