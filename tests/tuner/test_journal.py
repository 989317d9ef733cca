"""The journal: what is written is read back, whatever the moment the writer died at."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tuner.events import History, report
from tests.tuner.spec_texts import spec_of
from tuner.errors import IntegrityError, NotFound
from tuner.journal import Event, Journal, read, read_from
from tuner.record import load_record


def written(path: Path, *notes: Any) -> Path:
    journal = Journal(path)
    for note in notes:
        journal.append("note", note=note)
    journal.close()
    return path


def notes_in(path: Path) -> list[Any]:
    return [event["note"] for event in read(path)]


def test_what_is_appended_is_read_back_in_order_and_numbered(tmp_path: Path) -> None:
    heard: list[Event] = []
    journal = Journal(tmp_path / "j", heard.append)
    journal.append("trial", trial="search/a/0", hyper={"lr": 1e-3, "name": "ü"})
    journal.append("epoch", trial="search/a/0", val_acc=0.5)
    journal.close()
    events = list(read(tmp_path / "j"))
    assert events == heard
    assert [(event["n"], event["kind"]) for event in events] == [(0, "trial"), (1, "epoch")]
    assert events[0]["hyper"] == {"lr": 1e-3, "name": "ü"}
    assert all(event["ms"] > 1.6e12 for event in events)


def test_a_torn_last_line_is_ignored_then_cut_and_the_numbering_goes_on(tmp_path: Path) -> None:
    path = written(tmp_path / "j", "first", "second")
    with path.open("ab") as file:
        file.write(b'{"n": 2, "ms": 1, "kind": "no')
    assert notes_in(path) == ["first", "second"]
    written(path, "third")
    assert notes_in(path) == ["first", "second", "third"]
    assert [event["n"] for event in read(path)] == [0, 1, 2]


@pytest.mark.parametrize("damage", [b'{"n": 1, "ms"\n', b"\xff\xfe\n", b"\n", b"7\n", b'{"n": 1}\n', b"[]\n"])
def test_a_damaged_line_in_the_middle_is_named_by_its_place(tmp_path: Path, damage: bytes) -> None:
    path = written(tmp_path / "j", "first", "second", "third")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + damage + lines[2])
    place = len(lines[0]) + len(damage)
    with pytest.raises(IntegrityError, match=f"{path}: the line that ends at byte {place} is damaged"):
        list(read(path))
    with pytest.raises(IntegrityError):
        Journal(path)


def test_a_journal_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no journal at"):
        list(read(tmp_path / "none"))


def test_reading_goes_on_from_an_offset(tmp_path: Path) -> None:
    path = written(tmp_path / "j", *range(5))
    offsets = [offset for _, offset in read_from(path, 0)]
    assert [event["note"] for event, _ in read_from(path, offsets[2])] == [3, 4]
    assert list(read_from(path, offsets[4])) == []


def test_numbers_that_are_not_finite_survive_through_the_record(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    history = History(spec_of())
    history.trial("noam", 0, [0.1], state=None)
    bad = report(2, math.nan, math.inf) | {"train_loss": -math.inf}
    for event in history.events:
        journal.append(event["kind"], **{key: event[key] for key in event if key not in ("n", "ms", "kind")})
    journal.append("epoch", trial="search/noam/0", **bad)
    result = {"test_acc": 0.1, "test_loss": math.inf}
    journal.append("end", trial="search/noam/0", state="diverged", reason="it did", result=result)
    journal.close()
    trial = load_record(tmp_path / "j").trials["search/noam/0"]
    last = trial.epochs[-1]
    assert (math.isnan(last["val_acc"]), last["val_loss"], last["train_loss"]) == (True, math.inf, -math.inf)
    assert trial.result == result
    assert all(json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "j").read_text().splitlines())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(tmp_path_factory.mktemp("journal") / "j", "ä", {"a": [1.5, None]}, "", 3, "x" * 50).read_bytes()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_any_prefix_of_its_bytes_reads_as_a_prefix_of_its_events(tmp_path: Path, whole: bytes, share: float) -> None:
    path = tmp_path / "j"
    path.write_bytes(whole)
    events = list(read(path))
    path.write_bytes(prefix := whole[: round(share * len(whole))])
    assert list(read(path)) == events[: prefix.count(b"\n")]
