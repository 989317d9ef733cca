"""The note of the events that were sent: it counts only if it is whole and fits the journal."""

import json
from pathlib import Path

import pytest

from tests.tuner.small_journals import Told
from tuner.errors import ServiceError
from tuner.storage.journal import read_from
from tuner.tracking.sync_state import SyncState, load, save


@pytest.fixture
def told(tmp_path: Path) -> Told:
    """A job with a few events."""
    told = Told(tmp_path / "job")
    told.job()
    told.trial("search/noam/0")
    told.epochs("search/noam/0", 1, 3)
    return told


def note_of(told: Told, events: int) -> SyncState:
    """The note after this number of events was sent."""
    *_, before, last = list(read_from(told.folder.journal, 0))[:events]
    return SyncState("http://h", "1", {"": "r"}, ["k"], before.end, last.end, last.entry.n, last.entry.ms)


def test_a_note_is_read_as_it_was_written(told: Told) -> None:
    note = note_of(told, 3)
    save(told.folder.tracked, note)
    assert load(told.folder.tracked) == note


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"offset": "5"}', b"9" * 9999])
def test_with_a_damaged_note_nothing_counts_as_sent(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tracked.json").write_bytes(content)
    assert load(tmp_path / "tracked.json") == SyncState()


def test_with_a_truncated_note_nothing_counts_as_sent(told: Told) -> None:
    save(told.folder.tracked, note_of(told, 3))
    whole = told.folder.tracked.read_bytes()
    for length in range(len(whole)):
        told.folder.tracked.write_bytes(whole[:length])
        assert load(told.folder.tracked) == SyncState()


def test_the_error_of_a_note_that_cannot_be_written_names_the_file(told: Told) -> None:
    with pytest.raises(ServiceError, match=r"missing/tracked\.json: cannot be written: No such file"):
        save(told.folder.path / "missing" / "tracked.json", SyncState())


def test_a_note_fits_a_journal_that_has_grown_but_not_one_that_was_cut_back(told: Told) -> None:
    events = len(list(read_from(told.folder.journal, 0)))
    note = note_of(told, events)
    assert SyncState().fits(told.folder.journal)
    assert note.fits(told.folder.journal)
    told.epochs("search/noam/0", 4, 4)
    assert note.fits(told.folder.journal)
    whole = told.folder.journal.read_bytes()
    for length in range(note.offset):
        told.folder.journal.write_bytes(whole[:length])
        assert not note.fits(told.folder.journal)


def test_a_note_does_not_fit_another_event_in_the_same_place(told: Told) -> None:
    note = note_of(told, 7)
    assert note.fits(told.folder.journal)
    assert not SyncState(**{**vars(note), "ms": note.ms + 1}).fits(told.folder.journal)
    assert not SyncState(**{**vars(note), "n": note.n - 1}).fits(told.folder.journal)
    assert not SyncState(**{**vars(note), "offset": note.offset - 1}).fits(told.folder.journal)


def test_a_note_is_plain_json(told: Told) -> None:
    save(told.folder.tracked, note_of(told, 3))
    assert json.loads(told.folder.tracked.read_bytes())["runs"] == {"": "r"}
