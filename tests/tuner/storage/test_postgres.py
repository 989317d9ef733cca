"""Records of jobs in Postgres: one holder at a time, nothing written by one that was replaced, journals that agree."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from tests.faults.services import Postgres
from tuner.errors import NotFound, SpecError
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.reading import read_and_recover
from tuner.jobs.record import replay
from tuner.jobs.replication import Replicator, pull, replicated
from tuner.jobs.stop import StopRequest
from tuner.jobs.workspace import Workspace
from tuner.storage.events import JobStateChanged
from tuner.storage.file_lock import LockOwner, me
from tuner.storage.journal import Journal, end_of, read
from tuner.storage.postgres import JOBS, Database, JobSummary
from tuner.storage.postgres_lock import Fenced, PostgresLock

OTHER = LockOwner("elsewhere", 7, "tuner work", "2026-01-01T00:00:00+00:00")
START = {"ms": 1, "spec": {}, "folder": "", "simulate": False}


@pytest.fixture
def database(postgres: Postgres) -> Database:
    return Database(postgres.create(f"jobs_{time.time_ns()}"))


@pytest.fixture
def job(database: Database, tmp_path: Path) -> JobFolder:
    """A job that is on record, and has a folder here."""
    database.register("job-1", 1, "name: job", START, b"code")
    folder = Workspace(tmp_path).put_job("job-1", "name: job", START)
    assert folder is not None
    return folder


def write(folder: JobFolder, count: int) -> None:
    journal = Journal(folder.journal)
    for _ in range(count):
        journal.append(JobStateChanged("running"))
    journal.close()


@contextmanager
def following(
    database: Database, folder: JobFolder, stop: StopRequest, announce: Callable[[str], None]
) -> Iterator[Replicator]:
    """Replicate a job's journal as a driver does, which has read it; the reading must agree with the file."""
    with replicated(database, folder, read_and_recover(folder.journal), stop, announce) as (replicator, reading):
        assert reading.end == end_of(folder.journal)
        assert reading.record == replay(read(folder.journal) if folder.journal.exists() else ())
        yield replicator


def lines(folder: JobFolder) -> list[bytes]:
    return folder.journal.read_bytes().splitlines(keepends=True)


def test_a_job_is_registered_once(database: Database) -> None:
    assert database.register("job-1", 5, "name: job", START, b"code")
    assert not database.register("job-1", 6, "name: other", START, None)
    (row,) = database.jobs()
    assert (row.id, row.ms, row.spec_text, row.holder, row.summary.state) == ("job-1", 5, "name: job", None, "new")
    assert database.code("job-1") == b"code"
    assert database.job("job-2") is None


def test_a_job_has_one_holder_who_is_named(database: Database, job: JobFolder) -> None:
    claim = PostgresLock(database, job.id, OTHER)
    row = database.job(job.id)
    assert row is not None
    assert row.holder == OTHER
    with pytest.raises(SpecError, match="held by pid 7 on host elsewhere"):
        PostgresLock(database, job.id, me())
    claim.release()
    assert database.jobs()[0].holder is None
    PostgresLock(database, job.id, me()).release()


def test_a_job_that_is_not_on_record_cannot_be_claimed(database: Database) -> None:
    with pytest.raises(NotFound, match="no job 'job-9'"):
        PostgresLock(database, "job-9", me())


def test_one_that_was_replaced_writes_nothing_more(database: Database, job: JobFolder) -> None:
    first = PostgresLock(database, job.id, OTHER)
    first.send([(0, b"a\n")], JobSummary())
    # As when its connection broke: Postgres releases its lock.
    first.release()
    second = PostgresLock(database, job.id, me())
    with pytest.raises(Fenced, match=f"held by pid {me().pid}"):
        first.send([(1, b"of the first\n")], JobSummary())
    second.send([(1, b"of the second\n")], JobSummary())
    second.release()
    with pytest.raises(Fenced):
        first.send([(2, b"of the first\n")], JobSummary())
    assert list(database.journal(job.id)) == [b"a\n", b"of the second\n"]


def test_a_holder_whose_connection_broke_goes_on(postgres: Postgres, database: Database, job: JobFolder) -> None:
    claim = PostgresLock(database, job.id, me())
    claim.send([(0, b"a\n")], JobSummary())
    postgres.stop()
    with pytest.raises(SQLAlchemyError):
        claim.send([(1, b"b\n")], JobSummary())
    postgres.start()
    claim.send([(0, b"a\n"), (1, b"b\n")], JobSummary())
    claim.release()
    assert list(database.journal(job.id)) == [b"a\n", b"b\n"]


def test_a_holder_hears_that_it_is_to_stop_and_what_others_want(database: Database, job: JobFolder) -> None:
    database.register("job-2", 2, "name: job", START, None)
    ours, other = PostgresLock(database, job.id, me()), PostgresLock(database, "job-2", OTHER)
    other.send([], JobSummary(cluster="c", wants=3))
    database.ask_to_stop(job.id)
    assert ours.send([], JobSummary(cluster="c", wants=8)) == (True, {"job-1": 8, "job-2": 3})
    assert ours.send([], JobSummary(cluster="elsewhere", wants=8)).wants == {"job-1": 8}
    ours.release()
    other.release()
    # Who takes it up again is not stopped by what was asked before.
    again = PostgresLock(database, job.id, me())
    assert not again.send([], JobSummary()).stop
    again.release()


def test_the_journal_comes_to_the_database_as_it_grows(database: Database, job: JobFolder) -> None:
    stop = StopRequest()
    with following(database, job, stop, pytest.fail) as replicator:
        assert replicator.follower.problem is None
        write(job, 700)
        deadline = time.monotonic() + 20
        while database.journal_length(job.id) < 700:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        database.ask_to_stop(job.id)
        while not stop:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        write(job, 3)
    assert list(database.journal(job.id)) == lines(job)
    assert database.jobs()[0].summary.state == "running"


def test_a_job_that_another_has_taken_over_stops(database: Database, job: JobFolder) -> None:
    stop = StopRequest()
    with following(database, job, stop, lambda text: None):
        # As whoever takes it over does, once the lock is free.
        with database.connect() as connection, connection.begin():
            connection.execute(update(JOBS).values(fence=JOBS.c.fence + 1))
        deadline = time.monotonic() + 20
        while not stop:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert isinstance(stop.failure, Fenced)


def test_what_was_written_while_the_database_was_away_is_sent_when_it_is_back(
    postgres: Postgres, database: Database, job: JobFolder
) -> None:
    said: list[str] = []
    with following(database, job, StopRequest(), said.append):
        write(job, 2)
        postgres.stop()
        write(job, 20)
        time.sleep(2)
        postgres.start()
    assert said == []
    assert list(database.journal(job.id)) == lines(job)


def test_another_machine_gets_the_journal(database: Database, job: JobFolder, tmp_path: Path) -> None:
    write(job, 5)
    with following(database, job, StopRequest(), pytest.fail):
        pass
    elsewhere = Workspace(tmp_path / "elsewhere").put_job(job.id, "name: job", START)
    assert elsewhere is not None
    assert pull(database, elsewhere)[1] is None
    assert lines(elsewhere) == lines(job)
    write(elsewhere, 2)
    assert pull(database, elsewhere)[1] is None
    assert len(lines(elsewhere)) == 7
    with following(database, elsewhere, StopRequest(), pytest.fail):
        pass
    assert pull(database, job)[1] is None
    assert lines(job) == lines(elsewhere)


def test_a_journal_that_others_went_on_without_is_set_aside(database: Database, job: JobFolder, tmp_path: Path) -> None:
    write(job, 3)
    with following(database, job, StopRequest(), pytest.fail):
        pass
    elsewhere = Workspace(tmp_path / "elsewhere").put_job(job.id, "name: job", START)
    assert elsewhere is not None
    pull(database, elsewhere)
    # The first machine wrote more, which never came to the database, and was cut off; the second went on.
    write(job, 4)
    lost = job.journal.read_bytes()
    write(elsewhere, 2)
    said: list[str] = []
    with following(database, elsewhere, StopRequest(), pytest.fail):
        pass
    with following(database, job, StopRequest(), said.append):
        pass
    aside = job.journal.with_name("journal.jsonl.fenced-1")
    assert said == [f"warning: the journal here was no longer the job's journal; it is kept as {aside}"]
    assert aside.read_bytes() == lost
    assert lines(job) == lines(elsewhere)
    assert len(list(read(job.journal))) == 5
