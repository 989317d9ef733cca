"""The journal: what is written is read back, whatever the moment the writer died at; what was altered is noticed."""

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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tuner.events import History, event_of, report
from tests.tuner.spec_texts import spec_of
from tests.tuner.whole_jobs import ROOT
from trainables.report import ConfirmResult
from tuner.errors import IntegrityError, NotFound, ServiceError
from tuner.jobs.record import load_record
from tuner.storage.events import Entry, Event, JobStateChanged, RoundBegun, State, TrialEnded
from tuner.storage.journal import (
    EMPTY,
    MOST_LINE,
    End,
    Journal,
    Recovered,
    UnknownEvent,
    encode,
    read,
    read_from,
    recover,
)

MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NOTES = ["ä", {"a": [1.5, None]}, "", 3, "x" * 50, "a byte of no text: \udc80"]


def note(value: Any) -> TrialEnded:
    """An event that holds a value, as text."""
    return TrialEnded("search/noam/0", State.FAILED, json.dumps(value, ensure_ascii=False), None)


def state(value: Any) -> JobStateChanged:
    """The same as an event that is on the disk at once."""
    return JobStateChanged("failed", json.dumps(value, ensure_ascii=False))


def note_of(entry: Entry) -> Any:
    assert isinstance(entry.event, TrialEnded | JobStateChanged)
    assert entry.event.reason is not None
    return json.loads(entry.event.reason)


def salvage(path: Path) -> Recovered:
    return recover(path, lambda line: None)


def written(path: Path, *values: Any) -> Path:
    journal = Journal(path)
    for value in values:
        journal.append(note(value))
    journal.close()
    return path


def notes_in(path: Path) -> list[Any]:
    entries = list(read(path))
    assert [entry.n for entry in entries] == list(range(len(entries)))
    return [note_of(entry) for entry in entries]


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process grows beyond ``size`` bytes, as if the disk were full then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(tmp_path_factory.mktemp("journal") / "j", *NOTES).read_bytes()


def test_what_is_appended_is_read_back_in_order_and_numbered(tmp_path: Path) -> None:
    heard: list[Entry] = []
    journal = Journal(tmp_path / "j", heard.append)
    begun: dict[str, Any] = {"stage": "search", "arm": "a", "number": 0, "seed": 0, "round": 0, "knobs": {}}
    journal.append(event_of("trial", trial="search/a/0", hyper={"lr": 1e-3, "name": "ü"}, **begun))
    journal.append(event_of("epoch", trial="search/a/0", attempt=1, **report(1, 0.5, 0.5)))
    journal.close()
    entries = list(read(tmp_path / "j"))
    assert entries == heard
    assert [(entry.n, entry.event.kind) for entry in entries] == [(0, "trial"), (1, "epoch")]
    assert entries[0].to_json()["hyper"] == {"lr": 1e-3, "name": "ü"}
    assert all(entry.ms > 1.6e12 for entry in entries)


def test_durations_survive_a_clock_that_steps_back(tmp_path: Path) -> None:
    wall, up = iter([1000.0, 2000.0, 500.0]), iter([7.0, 7.25, 9.5, 9.50049])
    journal = Journal(tmp_path / "j", clock=lambda: next(up), now=lambda: next(wall))
    for value in range(3):
        journal.append(note(value))
    journal.close()
    entries = list(read(tmp_path / "j"))
    assert [entry.ms for entry in entries] == [1_000_000, 2_000_000, 500_000]
    assert [entry.up for entry in entries] == [0.25, 2.5, 2.5]
    assert notes_in(tmp_path / "j") == [0, 1, 2]


def test_each_line_is_a_json_object_that_ends_with_its_checksum(tmp_path: Path) -> None:
    path = written(tmp_path / "j", "first", "second")
    lines = path.read_text().splitlines()
    fields = ["n", "ms", "up", "kind", "trial", "state", "reason", "result", "sum"]
    assert [list(json.loads(line)) for line in lines] == [fields] * 2
    assert b"".join(encode(entry) for entry in read(path)) == path.read_bytes()


@pytest.mark.parametrize("torn", [b'{"n": 2, "ms": 1, "kind": "no', b"\x00" * 5000, b'{"n": 2, "ms"' + b"\x00" * 9000])
def test_a_torn_last_line_is_ignored_then_cut_and_the_numbering_goes_on(tmp_path: Path, torn: bytes) -> None:
    path = written(tmp_path / "j", "first", "second")
    with path.open("ab") as file:
        file.write(torn)
    assert notes_in(path) == ["first", "second"]
    assert salvage(path).original is None
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
        b', "sum": "00000000"}\n',
    ],
)
def test_a_damaged_line_in_the_middle_is_named_by_its_place(tmp_path: Path, damage: bytes) -> None:
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


@pytest.mark.parametrize(
    ("order", "line", "found", "due"), [((0, 2), 2, 2, 1), ((0, 1, 1), 3, 1, 2), ((1, 2), 1, 1, 0)]
)
def test_a_line_lost_repeated_or_moved_is_noticed_by_its_number(
    tmp_path: Path, order: tuple[int, ...], line: int, found: int, due: int
) -> None:
    path = written(tmp_path / "j", "first", "second", "third")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[number] for number in order))
    with pytest.raises(IntegrityError, match=f"line {line}, .* is damaged: its number is {found} instead of {due}"):
        list(read(path))


def test_a_journal_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no journal at"):
        list(read(tmp_path / "none"))
    assert salvage(tmp_path / "none") == (EMPTY, None)


@pytest.mark.parametrize(
    "unknown",
    [
        {"n": 1, "ms": 1, "up": 0.0, "kind": "dance"},
        {"n": 1, "ms": 1, "up": 0.0, "kind": "state", "state": "running", "mood": "good"},
        {"n": 1, "ms": 1, "up": 0.0, "kind": "state"},
        {"ms": 1, "up": 0.0, "kind": "state", "state": "running"},
        {"n": 1, "ms": 1, "up": 0.0, "kind": "attempt", "trial": "a", "attempt": "first", "epoch": 0},
    ],
)
def test_a_whole_line_of_an_unknown_event_is_refused_and_never_cut_off(tmp_path: Path, unknown: dict[str, Any]) -> None:
    path = written(tmp_path / "j", "first")
    body = json.dumps(unknown).encode()[:-1]
    with path.open("ab") as file:
        file.write(body + b', "sum": "%08x"}\n' % zlib.crc32(body))
    whole = path.read_bytes()
    for reading in (lambda: list(read(path)), lambda: salvage(path), lambda: Journal(path)):
        with pytest.raises(UnknownEvent, match="no event that this version knows; a newer tuner may have written it"):
            reading()
    assert path.read_bytes() == whole


def test_a_journal_that_cannot_be_opened_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="cannot be read: Is a directory"):
        Journal(tmp_path)
    with pytest.raises(ServiceError, match="none/j: cannot be written: No such file or directory"):
        Journal(tmp_path / "none" / "j")


def test_reading_goes_on_from_an_offset(tmp_path: Path) -> None:
    path = written(tmp_path / "j", *range(5))
    offsets = [line.end for line in read_from(path, 0)]
    assert [note_of(line.entry) for line in read_from(path, offsets[2])] == [3, 4]
    assert list(read_from(path, offsets[4])) == []


def test_an_offset_where_no_line_starts_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "j", *range(3))
    size = path.stat().st_size
    starts = {0, *(line.end for line in read_from(path, 0))}
    for offset in set(range(size + 3)) - starts:
        with pytest.raises(IntegrityError, match=f"{path}: no line starts at byte {offset} of {size}"):
            list(read_from(path, offset))


def test_numbers_that_are_not_finite_survive_through_the_record(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    key = "search/noam/0"
    begun: dict[str, Any] = {"stage": "search", "arm": "noam", "number": 0, "seed": 0, "round": 0}
    journal.append(event_of("trial", trial=key, hyper={"lr": 0.1}, knobs={"lr": 0.1}, **begun))
    journal.append(event_of("attempt", trial=key, attempt=1, epoch=0))
    bad = report(1, math.nan, math.inf) | {"train_loss": -math.inf}
    journal.append(event_of("epoch", trial=key, attempt=1, **bad))
    result: dict[str, Any] = {"test_acc": 0.1, "test_loss": math.inf, "weights_sha256": "a" * 64, "device": "cpu"}
    journal.append(event_of("end", trial=key, state="diverged", reason="it did", result=result))
    journal.close()
    trial = load_record(tmp_path / "j").trials[key]
    last = trial.epochs[-1]
    assert (math.isnan(last.val_acc), last.val_loss, last.train_loss) == (True, math.inf, -math.inf)
    assert trial.result == ConfirmResult(**result)
    assert all(json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "j").read_text().splitlines())


@MANY
@given(share=st.floats(0, 1))
def test_any_prefix_reopens_to_the_whole_events_in_it_and_goes_on(tmp_path: Path, whole: bytes, share: float) -> None:
    path = tmp_path / "j"
    path.write_bytes(prefix := whole[: round(share * len(whole))])
    kept = NOTES[: prefix.count(b"\n")]
    assert notes_in(path) == kept
    written(path, "next")
    assert notes_in(path) == [*kept, "next"]


def test_any_bit_that_flips_is_noticed(tmp_path: Path, whole: bytes) -> None:
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
def test_any_byte_that_changes_is_noticed(tmp_path: Path, whole: bytes, share: float, byte: bytes) -> None:
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
def test_whatever_damage_is_salvaged_to_a_good_beginning(whole: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    damaged = whole[:start] + data.draw(st.binary(max_size=300)) + whole[end:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        path.write_bytes(damaged)
        salvaged = salvage(path)
        notes = notes_in(path)
        assert notes == NOTES[: len(notes)]
        assert len(notes) >= whole.count(b"\n", 0, start)
        assert salvaged.end.n == len(notes)
        if salvaged.original is None:
            assert path.read_bytes() == damaged
        else:
            assert salvaged.original.read_bytes() == damaged
            assert {file.name for file in Path(folder).iterdir()} == {"journal.jsonl", "journal.jsonl.damaged-1"}
        written(path, "next")
        assert notes_in(path) == [*notes, "next"]
        assert salvage(path).original is None


@pytest.mark.parametrize("block", [b"x", b"\x00", b"[", b"\x00\n", bytes(range(256))], ids=repr)
def test_a_hundred_megabytes_of_garbage_are_salvaged_without_delay(tmp_path: Path, block: bytes) -> None:
    path = written(tmp_path / "j", "first", "second")
    with path.open("ab") as file:
        file.write(block * (100 * 2**20 // len(block)))
    began = time.monotonic()
    salvaged = salvage(path)
    assert time.monotonic() - began < 5
    assert salvaged.end.n == 2
    assert salvaged.original is not None
    assert salvaged.original.stat().st_size > 100 * 2**20
    assert notes_in(path) == ["first", "second"]


def test_each_damaged_original_is_kept_under_a_name_of_its_own(tmp_path: Path) -> None:
    path = written(tmp_path / "j", "first")
    good = path.read_bytes()
    for number in (1, 2, 3):
        path.write_bytes(good + b"%d\n" % number)
        assert salvage(path) == (End(1, len(good)), tmp_path / f"j.damaged-{number}")
    assert [(tmp_path / f"j.damaged-{number}").read_bytes() for number in (1, 2, 3)] == [
        good + b"1\n",
        good + b"2\n",
        good + b"3\n",
    ]


def test_a_salvage_for_which_there_is_no_room_leaves_the_journal_and_can_be_done_again(tmp_path: Path) -> None:
    path = written(tmp_path / "j", "first" * 1000)
    damaged = path.read_bytes() + b"\n"
    path.write_bytes(damaged)
    with room_for(100), pytest.raises(ServiceError, match=f"{path}: its good beginning cannot be written: File too"):
        salvage(path)
    assert path.read_bytes() == damaged
    assert salvage(path) == (End(1, len(damaged) - 1), tmp_path / "j.damaged-1")
    assert {file.name for file in tmp_path.iterdir()} == {"j", "j.damaged-1"}


def test_threads_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")

    def append(thread: int) -> None:
        for number in range(50):
            journal.append(note([thread, number, "x" * 100 * thread]))

    threads = [threading.Thread(target=append, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    notes = notes_in(tmp_path / "j")
    for wanted in range(8):
        assert [number for by, number, _ in notes if by == wanted] == list(range(50))


@pytest.mark.parametrize("room", [0, 1, 40])
def test_a_full_disk_is_named_and_leaves_no_half_line(tmp_path: Path, room: int) -> None:
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
    assert notes_in(path) == [note_of(entry) for entry in heard] == ["first", "second"]


@pytest.mark.parametrize("go_on", [Journal.append, lambda journal, event: written(journal.path, "second")])
def test_a_half_line_that_could_not_be_cut_is_cut_by_whoever_writes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, go_on: Callable[..., None]
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
    go_on(journal, note("second"))
    journal.close()
    assert notes_in(path) == ["first", "second"]


@pytest.mark.parametrize("raised", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_an_event_that_is_waited_for_and_did_not_reach_the_disk_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException
) -> None:
    def broken(file: int) -> None:
        raise raised

    path = tmp_path / "j"
    journal = Journal(path)
    journal.append(state("first"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises((ServiceError, KeyboardInterrupt)):
            journal.append(state("lost"))
    assert notes_in(path) == ["first"]
    journal.append(state("second"))
    journal.close()
    assert notes_in(path) == ["first", "second"]


class Disk:
    """Takes what is synced, counts it, and may be slow or broken."""

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


@pytest.mark.parametrize(
    "event", [JobStateChanged("running"), RoundBegun(1, (7,), {"noam": 0}), History(spec_of()).record().job]
)
def test_events_that_others_rest_on_are_on_the_disk_when_they_are_told_of(
    tmp_path: Path, disk: Disk, event: Event
) -> None:
    journal = Journal(tmp_path / "j", lambda event: told.append(disk.sizes[-1]))
    told: list[int] = []
    for _ in range(3):
        journal.append(event)
    assert told == [line.end for line in read_from(tmp_path / "j", 0)]
    journal.close()


def test_other_events_are_in_the_file_at_once_and_share_the_next_sync(tmp_path: Path, disk: Disk) -> None:
    path, journal = tmp_path / "j", Journal(tmp_path / "j")
    disk.sizes.clear()
    disk.ready.clear()
    while disk.asked.acquire(blocking=False):
        pass
    journal.append(note(0))
    assert disk.asked.acquire(timeout=10)
    for value in range(1, 100):
        journal.append(note(value))
    assert notes_in(path) == list(range(100))
    assert disk.sizes == []
    disk.ready.set()
    journal.close()
    ends = [line.end for line in read_from(path, 0)]
    assert disk.sizes == [ends[0], ends[-1]]


def test_an_event_that_is_waited_for_takes_those_before_it_along(tmp_path: Path, disk: Disk) -> None:
    journal = Journal(tmp_path / "j")
    for value in range(20):
        journal.append(note(value))
    journal.append(state("last"))
    assert disk.sizes[-1] == (tmp_path / "j").stat().st_size
    assert not journal._behind
    journal.close()


def test_a_journal_that_need_not_last_is_never_synced(tmp_path: Path, disk: Disk) -> None:
    journal = Journal(tmp_path / "j", durable=False)
    for event in (note("first"), state("second")):
        journal.append(event)
    journal.close()
    assert disk.sizes == []


def test_a_disk_that_fails_later_is_told_to_whoever_writes_next_until_it_has_taken_all(
    tmp_path: Path, disk: Disk
) -> None:
    path, journal = tmp_path / "j", Journal(tmp_path / "j")
    journal.append(state("first"))
    disk.broken = True
    journal.append(note("second"))
    wait_until(lambda: is_idle(journal))
    for kind in (note, state):
        with pytest.raises(ServiceError, match=rf"{path}: cannot write \d+ bytes: Input/output error; once it can be"):
            journal.append(kind("lost"))
    assert notes_in(path) == ["first", "second"]
    # The kernel drops what it could not write, and says so once; the next sync tells nothing of it.
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(whole.index(b"second"))
        file.write(bytes(len(b"second")))
    disk.broken = False
    journal.append(note("third"))
    journal.close()
    assert notes_in(path) == ["first", "second", "third"]
    assert disk.sizes[-1] == path.stat().st_size


def test_a_disk_that_fails_as_the_journal_is_closed_is_told(tmp_path: Path, disk: Disk) -> None:
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


# Appends lines of all lengths up to a tenth power, and says each that has returned.
APPENDS = """
import random, sys
from pathlib import Path
from tests.tuner.storage.test_journal import note
from tuner.storage.journal import Journal
path, durable, power = Path(sys.argv[1]), sys.argv[2] == "True", float(sys.argv[3])
journal = Journal(path, lambda entry: print(entry.n, flush=True), durable=durable)
while True:
    journal.append(note("x" * int(10 ** random.uniform(0, power))))
"""


# Where nothing waits for the disk, a long line takes most of the time, and a few of these kills tear one.
@pytest.mark.parametrize(("durable", "power"), [(True, 5.5), (False, 7.0)])
def test_killed_while_it_appends_it_keeps_all_that_was_told(tmp_path: Path, durable: bool, power: float) -> None:
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
            told = [first, *process.stdout.read().split()]
        events = len(notes_in(path))
        assert events > int(told[-1])
    written(path, "last")
    assert notes_in(path)[-1] == "last"
