"""Every kind of event: its line is read and written byte for byte, and a line with another field is refused."""

import copy
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.tuner.events import report
from tuner.storage.events import Entry, EpochReported, Event, JobDescribed, JobStateChanged, State, TrialEnded
from tuner.storage.journal import decode, encode, read

MADE = Path(__file__).parents[2] / "fixtures" / "version_0_1"
JOURNALS = sorted(MADE.glob("*/home/jobs/*/journal.jsonl"))
WRITTEN_BY_HAND: Mapping[str, Any] = {
    "again": {"n": 9, "ms": 1, "up": 0.5, "kind": "again", "trial": "search/noam/0", "attempt": 2, "epoch": 3},
    "earlier": {
        "n": 9,
        "ms": 1,
        "up": 0.5,
        "kind": "earlier",
        "arm": "noam",
        "job": "older-job-123abc",
        "trials": [
            {"knobs": {"lr": 0.01, "schedule": "noam"}, "state": "complete", "epoch": 8, "value": 0.5},
            {"knobs": {"lr": 0.1, "schedule": "constant"}, "state": "failed", "epoch": 0, "value": None},
        ],
    },
    "look": {
        "n": 9,
        "ms": 1,
        "up": 0.5,
        "kind": "look",
        "look": 1,
        "searches": 4,
        "outcomes": {"noam": "beats", "adamw": "not enough evidence"},
    },
    "extend": {"n": 9, "ms": 1, "up": 0.5, "kind": "extend", "extension": 1, "look": 2, "until_s": 7200.5},
    "an extension without a cap": {
        "n": 9,
        "ms": 1,
        "up": 0.5,
        "kind": "extend",
        "extension": 2,
        "look": 3,
        "until_s": None,
    },
    "end with a maximum": {
        "n": 9,
        "ms": 1,
        "up": 0.5,
        "kind": "end",
        "trial": "confirm/amsgrad/1/3",
        "state": "complete",
        "reason": None,
        "result": {"test_acc": 0.5, "test_loss": 1.5, "weights_sha256": "a", "device": "cpu", "max_active": 0.25},
    },
}
"""One line of each kind that the journals of version 0.1 lack."""


def examples() -> dict[str, dict[str, Any]]:
    """One line of each kind as plain values; ``end of a confirm run`` is the one with a result."""
    found: dict[str, dict[str, Any]] = {}
    for journal in JOURNALS:
        for content in journal.read_bytes().splitlines(keepends=True):
            values = decode(content)
            assert values is not None
            found.setdefault("end of a confirm run" if values.get("result") else values["kind"], values)
    return {**found, **WRITTEN_BY_HAND}


LINES = examples()
each_line = pytest.mark.parametrize("line", LINES.values(), ids=LINES)


def test_there_is_an_example_of_every_kind() -> None:
    assert len(JOURNALS) == 2
    assert {line["kind"] for line in LINES.values()} == {kind.kind for kind in get_args(Event)}


@pytest.mark.parametrize("journal", JOURNALS, ids=lambda path: path.parent.name)
def test_every_line_of_version_0_1_is_read_and_written_byte_for_byte(journal: Path) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    assert [encode(entry) for entry in read(journal)] == lines


@each_line
def test_a_line_gives_an_entry_and_the_entry_gives_the_line(line: dict[str, Any]) -> None:
    entry = Entry.from_json(line)
    assert entry.event.kind == line["kind"]
    assert json.dumps(entry.to_json()) == json.dumps(line)
    assert Entry.from_json(entry.to_json()) == entry
    assert decode(encode(entry)) == line


@each_line
def test_a_missing_field_is_refused(line: dict[str, Any]) -> None:
    for name in line:
        with pytest.raises(ValueError, match=f"no field '{name}'|{name}\n.*[Mm]issing|{name}\n.*required"):
            Entry.from_json({key: value for key, value in line.items() if key != name})


@each_line
def test_an_unknown_field_is_refused(line: dict[str, Any]) -> None:
    for name in ("colour", "sum", "report", "diverged"):
        with pytest.raises(ValueError, match=name):
            Entry.from_json({**line, name: "red"})


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("job", ("plan",)),
        ("job", ("data_images",)),
        ("job", ("arms", 0)),
        ("earlier", ("trials", 0)),
        ("end of a confirm run", ("result",)),
    ],
)
def test_an_unknown_field_inside_a_field_is_refused(kind: str, place: tuple[str | int, ...]) -> None:
    line = copy.deepcopy(LINES[kind])
    inner: Any = line
    for key in place:
        inner = inner[key]
    inner["colour"] = "red"
    with pytest.raises(ValueError, match="colour"):
        Entry.from_json(line)


def wrong_values(line: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """For each field, values of the wrong type."""
    for name, value in line.items():
        if not isinstance(value, str) and not (name == "reason" and value is None):
            yield name, "text"
        if not isinstance(value, list):
            yield name, [value]
        if not isinstance(value, dict):
            yield name, {"a": value}
        if name not in ("reason", "result", "until_s"):
            yield name, None


@each_line
def test_a_value_of_the_wrong_type_is_refused(line: dict[str, Any]) -> None:
    for name, wrong in wrong_values(line):
        problem = {"kind": "no event of a known kind"}.get(name, name)
        if name in ("n", "ms", "up"):
            problem = "its number and its times must be numbers"
        with pytest.raises(ValueError, match=problem):
            Entry.from_json({**line, name: wrong})


@pytest.mark.parametrize("kind", ["", "note", "Job", None, 7, ["state"], {"state": 1}])
def test_an_unknown_kind_is_refused(kind: object) -> None:
    with pytest.raises(ValueError, match="no event of a known kind"):
        Entry.from_json({**LINES["state"], "kind": kind})


@pytest.mark.parametrize(
    ("kind", "name"), [("state", "state"), ("end", "state"), ("trial", "stage")], ids=["job", "end", "stage"]
)
def test_an_unknown_state_or_stage_is_refused(kind: str, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Entry.from_json({**LINES[kind], name: "sleeping"})


def test_numbers_that_are_not_finite_survive() -> None:
    values = report(1, math.nan, math.inf) | {"train_loss": -math.inf}
    written = {name: value if math.isfinite(value) else repr(value) for name, value in values.items()}
    line = {"n": 0, "ms": 1, "up": 0.5, "kind": "epoch", "trial": "search/noam/0", "attempt": 1, **written}
    entry = Entry.from_json(line)
    assert isinstance(entry.event, EpochReported)
    found = entry.event.report
    assert math.isnan(found.metric("val_acc"))
    assert (found.metric("val_loss"), found.metric("train_loss")) == (math.inf, -math.inf)
    assert (line["val_acc"], line["val_loss"], line["train_loss"]) == ("nan", "inf", "-inf")
    assert entry.to_json() == decode(encode(entry)) == line


def test_half_of_a_surrogate_pair_survives_in_a_folder_and_in_a_reason() -> None:
    text = "a byte of no text: \udc80"
    described, ended, state = (
        Entry.from_json({**LINES[kind], name: text})
        for kind, name in (("job", "folder"), ("end", "reason"), ("state", "reason"))
    )
    assert isinstance(described.event, JobDescribed)
    assert isinstance(ended.event, TrialEnded)
    assert isinstance(state.event, JobStateChanged)
    assert described.event.folder == ended.event.reason == state.event.reason == text
    for entry in (described, ended, state):
        line = decode(encode(entry))
        assert line is not None
        assert Entry.from_json(line) == entry


def test_an_end_without_a_result_has_an_empty_mapping_and_a_state_without_a_reason_has_none() -> None:
    assert TrialEnded("search/noam/0", State.COMPLETE, None, None).to_json()["result"] == {}
    assert JobStateChanged("finished").to_json() == {"state": "finished"}
