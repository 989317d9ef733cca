"""A spec from a file, a mapping or a ``Spec``, with some of its values replaced."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tuner.spec_texts import SPEC
from tuner.control.draft import changed, draft, setting_of
from tuner.errors import NotFound, SpecError
from tuner.spec.search_spec import fingerprint, from_document, load
from tuner.spec.strict_yaml import read_text

VALUES: dict[str, Any] = {
    "budget": {"trials": 8, "epochs": 12},
    "arms": ["adam_l2", {"variant": "adamw", "fixed": {"eps": 1e-8}}, {"name": "slow", "variant": "noam"}],
    "scheduler": "asha",
    "parameters": {"lr": {"min": 0.1, "max": 1.0}},
    "seed": 0,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC)
    return file


@pytest.mark.parametrize(
    ("key", "value", "place", "expected"),
    [
        ("budget", {"trials": 2}, ("budget",), {"trials": 2, "epochs": 12}),
        ("budget.trials", 2, ("budget",), {"trials": 2, "epochs": 12}),
        ("parameters", {"lr": {"values": [1]}}, ("parameters", "lr"), {"values": [1]}),
        ("scheduler.first_rung", 3, ("scheduler",), {"name": "asha", "first_rung": 3}),
        ("scheduler", "none", ("scheduler",), "none"),
        ("arms.adamw.fixed.eps", 1e-6, ("arms", 1, "fixed"), {"eps": 1e-6}),
        ("arms.slow.fixed", {"lr": 0.1}, ("arms", 2, "fixed"), {"lr": 0.1}),
        ("arms.0", "sgd", ("arms", 0), "sgd"),
        ("confirm.margin", np.float64(0.25), ("confirm",), {"margin": 0.25}),
        ("data.path", Path("images"), ("data",), {"path": "images"}),
    ],
)
def test_a_change_replaces_what_it_names(key: str, value: Any, place: tuple[str | int, ...], expected: Any) -> None:
    found: Any = changed(VALUES, {key: value})
    for part in place:
        found = found[part]
    assert found == expected
    assert VALUES["budget"] == {"trials": 8, "epochs": 12}
    assert VALUES["arms"][1]["fixed"] == {"eps": 1e-8}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed.low", 1, "seed is 0, which has no keys"),
        ("arms.nosuch.fixed", {}, "there is no item 'nosuch'; there are: adam_l2, adamw, slow"),
        ("arms.3", "sgd", "there is no item '3'"),
        ("budget..trials", 1, "not the place of a value"),
        ("budget", {1: object()}, "is an object; use plain values"),
        ("seed", float("nan"), "use plain values"),
    ],
)
def test_a_change_that_fits_nowhere_is_one_clear_error(key: str, value: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message) as raised:
        changed(VALUES, {key: value})
    assert "\n" not in str(raised.value)


def test_a_setting_of_the_command_line_is_yaml() -> None:
    assert setting_of("budget.trials=2") == ("budget.trials", 2)
    assert setting_of("parameters.lr={min: 1e-3, max: 1}") == ("parameters.lr", {"min": 1e-3, "max": 1})
    with pytest.raises(SpecError, match="is not KEY=VALUE"):
        setting_of("budget.trials")


def test_a_file_a_mapping_and_a_spec_give_the_same_spec(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    mapping = read_text(SPEC, "x").value
    drafts = [draft(given, {"budget.trials": 2}) for given in (file, str(file), mapping, load(file))]
    assert {fingerprint(one.spec) for one in drafts} == {fingerprint(drafts[0].spec)}
    assert drafts[0].spec.budget.trials == 2
    assert {one.folder for one in drafts} == {file.parent}


def test_the_text_that_a_job_keeps_is_the_spec(file: Path) -> None:
    assert draft(file).text == SPEC
    edited = draft(file, {"budget": {"trials": 2}})
    assert fingerprint(from_document(read_text(edited.text, "job"))) == fingerprint(edited.spec)


def test_a_mistake_in_a_change_is_told_without_a_wrong_line(file: Path) -> None:
    with pytest.raises(SpecError, match=r"spec\.yaml:\d+: budget\.trials: .*0"):
        draft(file, {"budget.trials": 0})
    with pytest.raises(SpecError, match=r"spec: budget\.trial: "):
        draft({**read_text(SPEC, "x").value}, {"budget.trial": 1})
    with pytest.raises(NotFound, match="no such file"):
        draft(file.with_name("other.yaml"))
