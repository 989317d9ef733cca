"""The check of a user's trainable before a job: the errors it raises, and the lines it announces."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from trainables.errors import CodeError
from trainables.own.check import check_trainable
from trainables.own.trial import OwnTrial

Trial = Callable[..., OwnTrial]


def told(trial: OwnTrial) -> list[str]:
    """The lines after the first, which says that the check begins."""
    lines: list[str] = []
    check_trainable(trial, lines.append)
    assert lines[0].startswith(f"checking the trainable: {trial.trainable} makes 2 reports")
    return lines[1:]


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("Decay", {"factor": 0.5}, ["warning: .*: the seed changes nothing"]),
        ("decay", {"factor": 0.5}, ["the seed changes nothing"]),
        ("Forgetful", {"factor": 0.5}, ["makes no checkpoint, so an interrupted trial starts again", "the seed"]),
        ("Empty", {"factor": 0.5}, ["makes no checkpoint, so an interrupted trial starts again", "the seed"]),
        ("Unloadable", {"factor": 0.5}, ["saves checkpoints but does not load them, so", "the seed"]),
        ("late_judge", {}, ["reported no metric 'test_loss' in its first 2 reports", "makes no", "the seed"]),
        ("seeded", {}, ["makes no", "the seed changes nothing: .*; with pass: .seed. they differ"]),
        ("judged_by_luck", {}, []),
        ("Draws", {}, ["reported no metric 'test_loss'", "makes no checkpoint"]),
        ("reports", {"reports": [{"val_loss": float("nan"), "test_loss": 1.0}]}, ["val_loss is nan in report 1"]),
    ],
)
def test_the_user_is_told_what_to_expect(
    name: str, config: Mapping[str, Any], expected: list[str], trial_of: Trial, tmp_path: Path
) -> None:
    lines = told(trial_of(name, config, epochs=9))
    for line, text in zip(lines, expected, strict=True):
        assert re.search(text, line), (line, text)
        assert "\n" not in line
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize(
    ("name", "metrics", "message"),
    [
        ("Decay", {"choose": "val_los"}, "reported no metric 'val_los'; did you mean 'val_loss'"),
        ("Decay", {"judge": "tst_loss"}, "reported no metric 'tst_loss'; did you mean 'test_loss'"),
        ("returned", {}, "reported no metric 'test_loss'"),
        ("number_report", {}, r"raised TypeError: reported 3; a report is a dict of numbers \(.*theirs.py:"),
        ("silent", {}, "ended without a report"),
        ("failing", {"judge": "val_loss"}, "raised Odd: odd 3"),
        ("number", {}, "must be a ray.tune.Trainable subclass"),
        ("two", {}, "must be callable with one argument, the config"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(
    name: str, metrics: Mapping[str, str], message: str, trial_of: Trial
) -> None:
    with pytest.raises(CodeError, match=message) as caught:
        told(trial_of(name, {"factor": 0.5}, **metrics))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "passed", "hint"), [("seed", (), True), ("read_test", ("seed",), True), ("k", (), False)]
)
def test_a_key_that_the_spec_can_pass_is_named_as_such(
    key: str, passed: tuple[str, ...], hint: bool, trial_of: Trial
) -> None:
    with pytest.raises(CodeError, match=f"raised KeyError: '{key}'") as caught:
        told(trial_of("needs", {"key": key}, passed=passed))
    assert str(caught.value).endswith("; list it under pass") == hint
