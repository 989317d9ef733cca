"""Reading a journal once: it gives the record, the end and the offset after each line."""

import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from tests.faults.services import Postgres
from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from tuner.errors import IntegrityError
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.reading import Reading, read_and_recover, read_good_part
from tuner.jobs.record import load_record
from tuner.jobs.replication import pull
from tuner.jobs.workspace import Workspace
from tuner.storage.file_lock import me
from tuner.storage.journal import EMPTY, End, Journal, UnknownEvent, encode
from tuner.storage.postgres import JOURNAL, Database, JobSummary
from tuner.storage.postgres_lock import PostgresLock

START: dict[str, Any] = {"ms": 1, "spec": {}, "folder": "", "simulate": False}


@pytest.fixture
def history() -> History:
    """A job with two trials, one of which still runs."""
    made = History(spec_of())
    made.add("state", state="running")
    made.trial("noam", 0, [0.4, 0.5])
    made.trial("adam_l2", 0, [0.3], state=None)
    return made


@pytest.fixture
def lines(history: History) -> list[bytes]:
    return [encode(entry) for entry in history.entries]


def written(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def ends_of(lines: list[bytes]) -> list[int]:
    return [len(b"".join(lines[:count])) for count in range(1, len(lines) + 1)]


def check(reading: Reading, journal: Path, lines: list[bytes]) -> None:
    """The reading is that of a journal with exactly these lines."""
    assert journal.read_bytes() == b"".join(lines)
    assert reading.ends == ends_of(lines)
    assert reading.end == End(len(lines), len(b"".join(lines)))
    assert asdict(reading.record) == asdict(load_record(journal))


def test_one_read_gives_the_record_the_end_and_the_offsets(tmp_path: Path, lines: list[bytes]) -> None:
    path = written(tmp_path / "journal.jsonl", lines)
    for read in (read_and_recover, read_good_part):
        reading = read(path)
        check(reading, path, lines)
        assert reading.original is None
    assert list(reading.record.trials) == ["search/noam/0", "search/adam_l2/0"]


def test_a_missing_journal_is_an_empty_reading(tmp_path: Path) -> None:
    for read in (read_and_recover, read_good_part):
        reading = read(tmp_path / "journal.jsonl")
        assert (reading, reading.end, reading.record.begun) == (Reading(), EMPTY, False)
    assert list(tmp_path.iterdir()) == []


def test_the_journal_continues_at_the_end_of_its_reading(tmp_path: Path, history: History, lines: list[bytes]) -> None:
    path = written(tmp_path / "journal.jsonl", lines[:-1])
    with closing(Journal(path, end=read_and_recover(path).end)) as journal:
        journal.append(history.entries[-1].event)
    reading = read_and_recover(path)
    assert reading.end.n == len(lines)
    assert reading.record.trials.keys() == history.record().trials.keys()


def test_a_damaged_journal_is_cut_back_and_the_original_is_kept(tmp_path: Path, lines: list[bytes]) -> None:
    path = written(tmp_path / "journal.jsonl", [*lines[:4], b"garbage\n", *lines[5:]])
    damaged = path.read_bytes()
    reading = read_and_recover(path)
    check(reading, path, lines[:4])
    assert reading.original == tmp_path / "journal.jsonl.damaged-1"
    assert reading.original.read_bytes() == damaged


def test_reading_the_good_part_changes_nothing(tmp_path: Path, lines: list[bytes]) -> None:
    path = written(tmp_path / "journal.jsonl", [*lines[:4], b"garbage\n", *lines[5:]])
    damaged = path.read_bytes()
    reading = read_good_part(path)
    assert (reading.ends, reading.original) == (ends_of(lines[:4]), None)
    assert path.read_bytes() == damaged
    assert list(tmp_path.iterdir()) == [path]


class TestPull:
    """A reading of the journal here continues with the lines that only the database has."""

    @pytest.fixture
    def database(self, postgres: Postgres) -> Database:
        return Database(postgres.create(f"reading_{time.time_ns()}"))

    @pytest.fixture
    def folder(self, database: Database, tmp_path: Path, lines: list[bytes]) -> JobFolder:
        """A job whose journal is in the database; the folder here has none."""
        database.register("job-1", 1, "name: job", START, None)
        lock = PostgresLock(database, "job-1", me())
        lock.send(list(enumerate(lines)), JobSummary())
        lock.release()
        folder = Workspace(tmp_path / "home").put_job("job-1", "name: job", START)
        assert folder is not None
        return folder

    @pytest.mark.parametrize("here", [0, 1, 5])
    def test_it_continues_a_reading_with_the_lines_of_the_database(
        self, database: Database, folder: JobFolder, lines: list[bytes], here: int
    ) -> None:
        written(folder.journal, lines[:here])
        reading = read_and_recover(folder.journal)
        found, aside = pull(database, folder, reading)
        assert found is reading
        assert aside is None
        check(found, folder.journal, lines)

    def test_without_a_reading_it_reads_the_good_part(
        self, database: Database, folder: JobFolder, lines: list[bytes]
    ) -> None:
        written(folder.journal, [*lines[:3], b"torn"])
        found, aside = pull(database, folder)
        assert aside is None
        check(found, folder.journal, lines)

    def test_another_journal_is_set_aside_and_the_reading_starts_again(
        self, database: Database, folder: JobFolder, lines: list[bytes]
    ) -> None:
        other = History(spec_of(), "job-1")
        other.trial("noam", 1, [0.9])
        theirs = [encode(entry) for entry in other.entries]
        written(folder.journal, theirs)
        found, aside = pull(database, folder, read_and_recover(folder.journal))
        assert aside == folder.journal.with_name("journal.jsonl.fenced-1")
        assert aside.read_bytes() == b"".join(theirs)
        check(found, folder.journal, lines)

    @pytest.mark.parametrize(
        ("line", "error", "message"),
        [
            (b"garbage\n", IntegrityError, "^the journal of job job-1 in the database is damaged$"),
            (
                b'{"n": 1, "ms": 1, "up": 0.5, "kind": "note", "sum": "318f0427"}\n',
                UnknownEvent,
                r"^the journal of job job-1 in the database has an event that this version does not know; a newer tuner"
                r" may have written it \(no event of a known kind\)$",
            ),
        ],
        ids=["damaged", "unknown"],
    )
    def test_a_line_in_the_database_that_cannot_be_read_changes_nothing_here(
        self,
        database: Database,
        folder: JobFolder,
        lines: list[bytes],
        line: bytes,
        error: type[IntegrityError],
        message: str,
    ) -> None:
        with database.connect() as connection, connection.begin():
            connection.execute(update(JOURNAL).where(JOURNAL.c.n == 1).values(line=line))
        written(folder.journal, lines[:1])
        with pytest.raises(error, match=message):
            pull(database, folder)
        assert folder.journal.read_bytes() == lines[0]
