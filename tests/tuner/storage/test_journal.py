"""The journal: every written event is read back, whenever the writer died, and every altered line is noticed."""

import errno
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tuner.events import History, event_of, report
from tests.tuner.spec_texts import spec_of
from tests.tuner.whole_jobs import ROOT
from trainables.report import ConfirmResult
from tuner.errors import IntegrityError, NotFound, ServiceError
from tuner.jobs.record import load_record
from tuner.storage.events import EarlierTrials, Entry, Event, Extended, JobStateChanged, State, TrialEnded
from tuner.storage.journal import (
    EMPTY,
    MOST_LINE,
    End,
    Journal,
    Line,
    Recovered,
    UnknownEvent,
    encode,
    end_of,
    read,
    read_from,
    recover,
)

MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NOTES = ["ä", '{"a": [1.5, null]}', "", "3", "x" * 50, "a byte of no text: \udc80"]
JOB = History(spec_of()).entries[0].event
LOOK = event_of("look", look=1, searches=4, outcomes={"noam": "beats"})
AT_ONCE = [
    JOB,
    event_of("confirm", round=1, seeds=[3, 4], winners={"noam": 0}),
    LOOK,
    Extended(1, 1, None),
    EarlierTrials("noam", "before-1a2b3c", ()),
    JobStateChanged("running"),
]
"""One event of each kind that ``append`` puts on the disk before it returns."""


def note(text: str) -> Event:
    """An event that holds this text. It shares its sync with others."""
    return TrialEnded("search/noam/0", State.FAILED, text, None)


def urgent(text: str) -> Event:
    """An event that holds this text. ``append`` puts it on the disk before it returns."""
    return JobStateChanged("failed", text)


def written(path: Path, *notes: str) -> Path:
    with closing(Journal(path)) as journal:
        for text in notes:
            journal.append(note(text))
    return path


def notes_in(path: Path) -> list[str | None]:
    entries = list(read(path))
    assert [entry.n for entry in entries] == list(range(len(entries)))
    return [text_of(entry) for entry in entries]


def text_of(entry: Entry) -> str | None:
    assert isinstance(entry.event, TrialEnded | JobStateChanged)
    return entry.event.reason


def line_of(values: Any) -> bytes:
    """A whole line with these values: its checksum fits."""
    body = json.dumps(values).encode()[:-1]
    return body + b', "sum": "%08x"}\n' % zlib.crc32(body)


def ignore(line: Line) -> None:
    pass


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process grows beyond ``size`` bytes, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(tmp_path_factory.mktemp("journal") / "j", *NOTES).read_bytes()


def test_appended_events_are_read_back_in_order_and_numbered(tmp_path: Path) -> None:
    heard: list[Entry] = []
    settings: dict[str, Any] = {"number": 0, "seed": 0, "round": 0, "hyper": {"lr": 1e-3, "name": "ü"}, "knobs": {}}
    trial = event_of("trial", trial="search/a/0", stage="search", arm="a", **settings)
    epoch = event_of("epoch", trial="search/a/0", attempt=1, **report(1, 0.5, 0.5))
    with closing(Journal(tmp_path / "j", heard.append)) as journal:
        journal.append(trial)
        journal.append(epoch)
    entries = list(read(tmp_path / "j"))
    assert entries == heard
    assert [(entry.n, entry.event) for entry in entries] == [(0, trial), (1, epoch)]
    assert entries[0].to_json()["hyper"] == {"lr": 1e-3, "name": "ü"}
    assert all(entry.ms > 1.6e12 for entry in entries)


def test_durations_survive_a_clock_that_steps_back(tmp_path: Path) -> None:
    wall, up = iter([1000.0, 2000.0, 500.0]), iter([7.0, 7.25, 9.5, 9.50049])
    journal = Journal(tmp_path / "j", clock=lambda: next(up), now=lambda: next(wall))
    for text in "abc":
        journal.append(note(text))
    journal.close()
    entries = list(read(tmp_path / "j"))
    assert [entry.ms for entry in entries] == [1_000_000, 2_000_000, 500_000]
    assert [entry.up for entry in entries] == [0.25, 2.5, 2.5]
    assert notes_in(tmp_path / "j") == ["a", "b", "c"]


def test_each_line_is_a_json_object_that_ends_with_its_checksum(tmp_path: Path) -> None:
    path = written(tmp_path / "j", "first", "second")
    lines = path.read_text().splitlines()
    names = ["n", "ms", "up", "kind", "trial", "state", "reason", "result", "sum"]
    assert [list(json.loads(line)) for line in lines] == [names] * 2
    assert b"".join(encode(entry) for entry in read(path)) == path.read_bytes()


@pytest.mark.parametrize("torn", [b'{"n": 2, "ms": 1, "kind": "en', b"\x00" * 5000, b'{"n": 2, "ms"' + b"\x00" * 9000])
def test_a_torn_last_line_is_ignored_then_cut_and_the_numbering_continues(tmp_path: Path, torn: bytes) -> None:
    path = written(tmp_path / "j", "first", "second")
    with path.open("ab") as file:
        file.write(torn)
    assert notes_in(path) == ["first", "second"]
    assert recover(path, ignore).original is None
    written(path, "third")
    assert notes_in(path) == ["first", "second", "third"]


@pytest.mark.parametrize(
    "damage",
    [
        b'{"n": 1, "ms"\n',
        b"\xff\xfe\n",
        b"\n",
        b"7\n",
        b'{"n": 1}\n',
        b"[]\n",
        b"\x00" * 4096 + b"\n",
        b"[" * 9999 + b"\n",
        line_of([1]),
        b', "sum": "00000000"}\n',
    ],
)
def test_the_error_of_a_damaged_line_in_the_middle_names_its_place(tmp_path: Path, damage: bytes) -> None:
    path = written(tmp_path / "j", "first", "second", "third")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + damage + lines[2])
    place = f"^{path}: line 2, which starts at byte {len(lines[0])}, is damaged: it is no event, or was altered$"
    with pytest.raises(IntegrityError, match=place):
        list(read(path))
    with pytest.raises(IntegrityError, match=place):
        list(read_from(path, len(lines[0])))
    with pytest.raises(IntegrityError, match=place):
        Journal(path)
    assert recover(path, ignore) == Recovered(End(1, len(lines[0])), tmp_path / "j.damaged-1")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"ms": 1, "kind": "note"}, "no field 'n'"),
        ({"n": 1, "ms": 1, "up": 0.5, "kind": "note"}, "no event of a known kind"),
        ({"n": 1, "ms": 1, "up": 0.5, "kind": ["state"]}, "no event of a known kind"),
        ({"n": 1, "ms": 1, "up": 0.5, "kind": "state", "state": "running", "colour": "red"}, ".*colour.*"),
    ],
)
def test_a_whole_line_with_an_unknown_event_is_refused_and_never_cut_off(
    tmp_path: Path, values: object, reason: str
) -> None:
    path = written(tmp_path / "j", "first")
    start = path.stat().st_size
    with path.open("ab") as file:
        file.write(line_of(values))
    whole = path.read_bytes()
    message = (
        f"^{path}: the line at byte {start} is no event that this version knows; a newer tuner may have written it"
        rf" \({reason}\)$"
    )
    taken: list[Line] = []
    for use in (lambda: list(read(path)), lambda: Journal(path), lambda: recover(path, taken.append)):
        with pytest.raises(UnknownEvent, match=message):
            use()
    assert [text_of(line.entry) for line in taken] == ["first"]
    assert path.read_bytes() == whole
    assert {file.name for file in tmp_path.iterdir()} == {"j"}


@pytest.mark.parametrize(
    ("order", "line", "found", "due"), [((0, 2), 2, 2, 1), ((0, 1, 1), 3, 1, 2), ((1, 2), 1, 1, 0)]
)
def test_the_number_of_a_line_shows_that_lines_were_lost_repeated_or_moved(
    tmp_path: Path, order: tuple[int, ...], line: int, found: int, due: int
) -> None:
    path = written(tmp_path / "j", "first", "second", "third")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[number] for number in order))
    with pytest.raises(IntegrityError, match=f"line {line}, .* is damaged: its number is {found} instead of {due}$"):
        list(read(path))


def test_a_missing_journal_is_not_found_and_has_an_empty_end(tmp_path: Path) -> None:
    path = tmp_path / "none"
    for reading in (read(path), read_from(path, 0)):
        with pytest.raises(NotFound, match=f"no journal at {path}"):
            next(iter(reading))
    taken: list[Line] = []
    assert recover(path, taken.append) == Recovered(EMPTY, None)
    assert taken == []
    assert end_of(path) == EMPTY
    assert not path.exists()


def test_a_journal_continues_at_the_end_that_its_caller_has_read(tmp_path: Path) -> None:
    path = written(tmp_path / "j", "first", "second")
    end = end_of(path)
    assert end == End(2, path.stat().st_size)
    with closing(Journal(path, end=end)) as journal:
        journal.append(note("third"))
    assert notes_in(path) == ["first", "second", "third"]


def test_a_journal_that_cannot_be_opened_is_a_service_error(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="cannot be read: Is a directory"):
        Journal(tmp_path)
    with pytest.raises(ServiceError, match="none/j: cannot be written: No such file or directory"):
        Journal(tmp_path / "none" / "j")


def test_reading_continues_from_an_offset(tmp_path: Path) -> None:
    path = written(tmp_path / "j", *"abcde")
    lines = list(read_from(path, 0))
    assert b"".join(line.content for line in lines) == path.read_bytes()
    assert [len(b"".join(line.content for line in lines[:count])) for count in range(1, 6)] == [
        line.end for line in lines
    ]
    assert list(read_from(path, lines[2].end)) == lines[3:]
    assert [text_of(line.entry) for line in lines[3:]] == ["d", "e"]
    assert list(read_from(path, lines[4].end)) == []


def test_an_offset_where_no_line_starts_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "j", *"abc")
    size = path.stat().st_size
    starts = {0, *(line.end for line in read_from(path, 0))}
    for offset in set(range(size + 3)) - starts:
        with pytest.raises(IntegrityError, match=f"{path}: no line starts at byte {offset} of {size}"):
            list(read_from(path, offset))


def test_numbers_that_are_not_finite_survive_into_the_record(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    key = "search/noam/0"
    settings: dict[str, Any] = {"number": 0, "seed": 0, "round": 0, "hyper": {"lr": 0.1}, "knobs": {"lr": 0.1}}
    journal.append(event_of("trial", trial=key, stage="search", arm="noam", **settings))
    journal.append(event_of("attempt", trial=key, attempt=1, epoch=0))
    bad = report(1, math.nan, math.inf) | {"train_loss": -math.inf}
    journal.append(event_of("epoch", trial=key, attempt=1, **bad))
    result = ConfirmResult(0.1, math.inf, "a" * 64, "cpu")
    journal.append(TrialEnded(key, State.DIVERGED, "it did", result))
    journal.close()
    trial = load_record(tmp_path / "j").trials[key]
    last = trial.epochs[-1]
    assert (math.isnan(last.metric("val_acc")), last.metric("val_loss"), last.metric("train_loss")) == (
        True,
        math.inf,
        -math.inf,
    )
    assert trial.result == result
    assert all(json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "j").read_text().splitlines())


@MANY
@given(share=st.floats(0, 1))
def test_any_prefix_reopens_with_its_whole_events_and_continues(tmp_path: Path, whole: bytes, share: float) -> None:
    path = tmp_path / "j"
    path.write_bytes(prefix := whole[: round(share * len(whole))])
    kept = NOTES[: prefix.count(b"\n")]
    assert notes_in(path) == kept
    written(path, "next")
    assert notes_in(path) == [*kept, "next"]


def test_any_flipped_bit_is_noticed(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(whole)
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(whole):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), place)
                check_noticed(path, torn=place == len(whole) - 1)
            os.pwrite(file.fileno(), bytes([byte]), place)
    assert notes_in(path) == NOTES


@MANY
@given(share=st.floats(0, 1, exclude_max=True), byte=st.binary(min_size=1, max_size=1))
def test_any_changed_byte_is_noticed(tmp_path: Path, whole: bytes, share: float, byte: bytes) -> None:
    place = int(share * len(whole))
    altered = whole[:place] + byte + whole[place + 1 :]
    if altered != whole:
        (tmp_path / "j").write_bytes(altered)
        check_noticed(tmp_path / "j", torn=place == len(whole) - 1)


def check_noticed(path: Path, torn: bool) -> None:
    if torn:
        assert notes_in(path) == NOTES[:-1]
    else:
        with pytest.raises(IntegrityError):
            list(read(path))


@MANY
@given(data=st.data())
def test_any_damage_is_cut_back_to_a_good_beginning(whole: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    damaged = whole[:start] + data.draw(st.binary(max_size=300)) + whole[end:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        path.write_bytes(damaged)
        taken: list[Line] = []
        good_end, original = recover(path, taken.append)
        notes = notes_in(path)
        assert [text_of(line.entry) for line in taken] == notes
        assert good_end.n == len(notes)
        assert notes == NOTES[: len(notes)]
        assert len(notes) >= whole.count(b"\n", 0, start)
        if original is None:
            assert path.read_bytes() == damaged
        else:
            assert good_end.offset == path.stat().st_size
            assert original.read_bytes() == damaged
            assert {file.name for file in Path(folder).iterdir()} == {"journal.jsonl", "journal.jsonl.damaged-1"}
        written(path, "next")
        assert notes_in(path) == [*notes, "next"]
        assert recover(path, ignore).original is None


@pytest.mark.parametrize("block", [b"x", b"\x00", b"[", b"\x00\n", bytes(range(256))], ids=repr)
def test_a_hundred_megabytes_of_garbage_are_cut_off_within_seconds(tmp_path: Path, block: bytes) -> None:
    path = written(tmp_path / "j", "first", "second")
    with path.open("ab") as file:
        file.write(block * (100 * 2**20 // len(block)))
    began = time.monotonic()
    end, original = recover(path, ignore)
    assert time.monotonic() - began < 5
    assert original
    assert end.n == 2
    assert original.stat().st_size > 100 * 2**20
    assert notes_in(path) == ["first", "second"]


def test_each_damaged_original_is_kept_under_its_own_name(tmp_path: Path) -> None:
    path = written(tmp_path / "j", "first")
    good = path.read_bytes()
    for number in (1, 2, 3):
        path.write_bytes(good + b"%d\n" % number)
        assert recover(path, ignore) == Recovered(End(1, len(good)), tmp_path / f"j.damaged-{number}")
    assert [(tmp_path / f"j.damaged-{number}").read_bytes() for number in (1, 2, 3)] == [
        good + b"1\n",
        good + b"2\n",
        good + b"3\n",
    ]


def test_a_recovery_without_room_leaves_the_journal_and_can_be_repeated(tmp_path: Path) -> None:
    path = written(tmp_path / "j", "first" * 1000)
    size = path.stat().st_size
    damaged = path.read_bytes() + b"\n"
    path.write_bytes(damaged)
    with room_for(100), pytest.raises(ServiceError, match=f"{path}: its good beginning cannot be written: File too"):
        recover(path, ignore)
    assert path.read_bytes() == damaged
    assert recover(path, ignore) == Recovered(End(1, size), tmp_path / "j.damaged-1")
    assert {file.name for file in tmp_path.iterdir()} == {"j", "j.damaged-1"}


def test_threads_that_append_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")

    def append(thread: int) -> None:
        for number in range(50):
            journal.append(note(f"{thread} {number} " + "x" * 100 * thread))

    threads = [threading.Thread(target=append, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    notes = [text.split(" ") for text in notes_in(tmp_path / "j") if text]
    for wanted in range(8):
        assert [int(number) for by, number, _ in notes if int(by) == wanted] == list(range(50))


@pytest.mark.parametrize("room", [0, 1, 40])
def test_a_full_disk_gives_an_error_and_leaves_no_half_line(tmp_path: Path, room: int) -> None:
    path = tmp_path / "j"
    heard: list[Entry] = []
    journal = Journal(path, heard.append)
    journal.append(note("first"))
    size = path.stat().st_size
    with room_for(size + room):
        for _ in range(2):
            with pytest.raises(ServiceError, match=rf"{path}: cannot write \d+ bytes: File too large; once it can be"):
                journal.append(note("lost"))
            assert path.stat().st_size == size
    journal.append(note("second"))
    journal.close()
    assert notes_in(path) == [text_of(entry) for entry in heard] == ["first", "second"]


@pytest.mark.parametrize("write_next", [Journal.append, lambda journal, event: written(journal.path, event.reason)])
def test_a_half_line_that_could_not_be_cut_is_cut_by_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_next: Callable[[Journal, Event], object]
) -> None:
    def broken(journal: Journal) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "j"
    journal = Journal(path)
    journal.append(note("first"))
    size = path.stat().st_size
    with monkeypatch.context() as patch, room_for(size + 40):
        patch.setattr(Journal, "_cut", broken)
        with pytest.raises(ServiceError, match="File too large"):
            journal.append(note("lost"))
    assert path.stat().st_size == size + 40
    assert notes_in(path) == ["first"]
    write_next(journal, note("second"))
    journal.close()
    assert notes_in(path) == ["first", "second"]


@pytest.mark.parametrize("raised", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_an_urgent_event_that_did_not_reach_the_disk_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException
) -> None:
    def broken(file: int) -> None:
        raise raised

    path = tmp_path / "j"
    journal = Journal(path)
    journal.append(urgent("first"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises((ServiceError, KeyboardInterrupt)):
            journal.append(urgent("lost"))
    assert notes_in(path) == ["first"]
    journal.append(urgent("second"))
    journal.close()
    assert notes_in(path) == ["first", "second"]


class Disk:
    """Stands for ``os.fsync``: notes the file's size at each sync, and may be slow or broken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.broken = False
        self.ready = threading.Event()
        self.ready.set()
        self.asked = threading.Semaphore(0)
        monkeypatch.setattr(os, "fsync", self._sync)

    def _sync(self, file: int) -> None:
        size = os.fstat(file).st_size
        self.asked.release()
        assert self.ready.wait(10)
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        self.sizes.append(size)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def is_idle(journal: Journal) -> bool:
    with journal._lock:
        return not journal._syncing


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_few_kinds_of_events_are_urgent() -> None:
    assert {type(event) for event in AT_ONCE} == {kind for kind in get_args(Event) if kind.at_once}


@pytest.mark.parametrize("event", AT_ONCE, ids=lambda event: event.kind)
def test_an_urgent_event_is_on_the_disk_when_it_is_announced(tmp_path: Path, disk: Disk, event: Event) -> None:
    journal = Journal(tmp_path / "j", lambda entry: synced.append(disk.sizes[-1]))
    synced: list[int] = []
    for _ in range(3):
        journal.append(event)
    assert synced == [line.end for line in read_from(tmp_path / "j", 0)]
    journal.close()


def test_other_events_are_in_the_file_at_once_and_share_the_next_sync(tmp_path: Path, disk: Disk) -> None:
    path, journal = tmp_path / "j", Journal(tmp_path / "j")
    disk.sizes.clear()
    disk.ready.clear()
    while disk.asked.acquire(blocking=False):
        pass
    journal.append(note("0"))
    assert disk.asked.acquire(timeout=10)
    for number in range(1, 100):
        journal.append(note(str(number)))
    assert notes_in(path) == [str(number) for number in range(100)]
    assert disk.sizes == []
    disk.ready.set()
    journal.close()
    ends = [line.end for line in read_from(path, 0)]
    assert disk.sizes == [ends[0], ends[-1]]


def test_the_sync_of_an_urgent_event_covers_the_events_before_it(tmp_path: Path, disk: Disk) -> None:
    journal = Journal(tmp_path / "j")
    for number in range(20):
        journal.append(note(str(number)))
    journal.append(urgent("last"))
    assert disk.sizes[-1] == (tmp_path / "j").stat().st_size
    assert not journal._behind
    journal.close()


def test_a_journal_that_is_not_durable_is_never_synced(tmp_path: Path, disk: Disk) -> None:
    history = History(spec_of())
    history.trial("noam", 0, [0.5])
    history.add("state", state="finished")
    with closing(Journal(tmp_path / "j", durable=False)) as journal:
        for entry in history.entries:
            journal.append(entry.event)
    assert disk.sizes == []


def test_the_error_of_a_disk_that_fails_later_is_raised_by_each_write_until_the_disk_works(
    tmp_path: Path, disk: Disk
) -> None:
    path, journal = tmp_path / "j", Journal(tmp_path / "j")
    journal.append(urgent("first"))
    disk.broken = True
    journal.append(note("second"))
    wait_until(lambda: is_idle(journal))
    for lost in (note("lost"), urgent("lost")):
        with pytest.raises(ServiceError, match=rf"{path}: cannot write \d+ bytes: Input/output error; once it can be"):
            journal.append(lost)
    assert notes_in(path) == ["first", "second"]
    # The kernel drops the data that it could not write. It reports this once: the next sync succeeds.
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(whole.index(b"second"))
        file.write(bytes(len(b"second")))
    disk.broken = False
    journal.append(note("third"))
    journal.close()
    assert notes_in(path) == ["first", "second", "third"]
    assert disk.sizes[-1] == path.stat().st_size


def test_a_disk_that_fails_when_the_journal_is_closed_gives_an_error(tmp_path: Path, disk: Disk) -> None:
    path, journal = tmp_path / "j", Journal(tmp_path / "j")
    disk.broken = True
    journal.append(note("first"))
    with pytest.raises(ServiceError, match=f"{path}: cannot be written: Input/output error"):
        journal.close()
    assert notes_in(path) == ["first"]


def test_a_line_that_is_cut_off_is_not_written_again(tmp_path: Path, disk: Disk) -> None:
    path, journal = tmp_path / "j", Journal(tmp_path / "j")
    journal.append(note("first"))
    wait_until(lambda: is_idle(journal))
    with room_for(path.stat().st_size + 40), pytest.raises(ServiceError, match="File too large"):
        journal.append(note("lost"))
    journal.append(note("second"))
    disk.broken = True
    journal.append(note("third"))
    wait_until(lambda: is_idle(journal))
    disk.broken = False
    journal.close()
    assert notes_in(path) == ["first", "second", "third"]


def test_an_event_too_long_to_be_read_back_is_not_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    with pytest.raises(ValueError, match="an event of kind end is longer"):
        journal.append(note("x" * MOST_LINE))
    room = MOST_LINE - len(encode(Entry(0, 10**12, 0.001, note("")))) - 20
    journal.append(note("x" * room))
    journal.close()
    assert notes_in(tmp_path / "j") == ["x" * room]


# Appends lines of all lengths up to a power of ten, and prints the number of each written line.
APPENDS = """
import random, sys
from pathlib import Path
from tuner.storage.events import State, TrialEnded
from tuner.storage.journal import Journal
path, durable, power = Path(sys.argv[1]), sys.argv[2] == "True", float(sys.argv[3])
journal = Journal(path, lambda entry: print(entry.n, flush=True), durable=durable)
while True:
    text = "x" * int(10 ** random.uniform(0, power))
    journal.append(TrialEnded("search/noam/0", State.FAILED, text, None))
"""


# If nothing waits for the disk, long lines take most of the time, and a few of these kills tear one.
@pytest.mark.parametrize(("durable", "power"), [(True, 5.5), (False, 7.0)])
def test_a_process_killed_as_it_appends_keeps_all_announced_events(tmp_path: Path, durable: bool, power: float) -> None:
    path, chance = tmp_path / "j", random.Random(0)
    events = 0
    for _ in range(20):
        with subprocess.Popen(
            [sys.executable, "-c", APPENDS, str(path), str(durable), str(power)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            first = process.stdout.readline()
            assert int(first) == events
            time.sleep(chance.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            announced = [first, *process.stdout.read().split()]
        events = len(notes_in(path))
        assert events > int(announced[-1])
    written(path, "last")
    assert notes_in(path)[-1] == "last"
