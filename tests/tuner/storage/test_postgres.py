"""Records of jobs in Postgres: one holder at a time, no writes by a replaced holder, journals that agree."""

import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from tests.faults.services import Postgres
from tuner.errors import NotFound, SpecError
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.reading import Reading, read_good_part
from tuner.jobs.replication import Replicator, pull, replicated
from tuner.jobs.stop import StopRequest
from tuner.jobs.workspace import Workspace
from tuner.storage.events import JobStateChanged
from tuner.storage.file_lock import LockOwner, me
from tuner.storage.journal import Journal, read
from tuner.storage.postgres import JOBS, Database, JobSummary
from tuner.storage.postgres_lock import Fenced, PostgresLock

OTHER = LockOwner("elsewhere", 7, "tuner work", "2026-01-01T00:00:00+00:00")
START = {"ms": 1, "spec": {}, "folder": "", "simulate": False}


@pytest.fixture
def database(postgres: Postgres) -> Database:
    return Database(postgres.create(f"jobs_{time.time_ns()}"))


@pytest.fixture
def job(database: Database, tmp_path: Path) -> JobFolder:
    """A job that is in the database and has a folder here."""
    database.register("job-1", 1, "name: job", START, b"code")
    folder = Workspace(tmp_path).put_job("job-1", "name: job", START)
    assert folder is not None
    return folder


def write(folder: JobFolder, count: int) -> None:
    with closing(Journal(folder.journal)) as journal:
        for _ in range(count):
            journal.append(JobStateChanged("running"))


def ends(folder: JobFolder) -> list[int]:
    """The offset after each line of the journal here."""
    return [end for end, byte in enumerate(folder.journal.read_bytes(), start=1) if byte == ord("\n")]


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


def test_a_job_that_is_not_in_the_database_cannot_be_held(database: Database) -> None:
    with pytest.raises(NotFound, match="no job 'job-9'"):
        PostgresLock(database, "job-9", me())


def test_a_holder_that_was_replaced_writes_nothing_more(database: Database, job: JobFolder) -> None:
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


def test_a_holder_whose_connection_broke_continues(postgres: Postgres, database: Database, job: JobFolder) -> None:
    claim = PostgresLock(database, job.id, me())
    claim.send([(0, b"a\n")], JobSummary())
    postgres.stop()
    with pytest.raises(SQLAlchemyError):
        claim.send([(1, b"b\n")], JobSummary())
    postgres.start()
    claim.send([(0, b"a\n"), (1, b"b\n")], JobSummary())
    claim.release()
    assert list(database.journal(job.id)) == [b"a\n", b"b\n"]


def test_a_holder_receives_requests_to_stop_and_the_wants_of_others(database: Database, job: JobFolder) -> None:
    database.register("job-2", 2, "name: job", START, None)
    ours, other = PostgresLock(database, job.id, me()), PostgresLock(database, "job-2", OTHER)
    other.send([], JobSummary(cluster="c", wants=3))
    database.ask_to_stop(job.id)
    assert ours.send([], JobSummary(cluster="c", wants=8)) == (True, {"job-1": 8, "job-2": 3})
    assert ours.send([], JobSummary(cluster="elsewhere", wants=8)).wants == {"job-1": 8}
    ours.release()
    other.release()
    # An old request does not stop the next holder.
    again = PostgresLock(database, job.id, me())
    assert not again.send([], JobSummary()).stop
    again.release()


def test_the_journal_is_sent_to_the_database_as_it_grows(database: Database, job: JobFolder) -> None:
    stop = StopRequest()
    with replicated(database, job, read_good_part(job.journal), stop, pytest.fail) as (replicator, reading):
        assert isinstance(replicator, Replicator)
        assert reading == Reading()
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


def test_a_job_that_another_machine_has_taken_over_stops(database: Database, job: JobFolder) -> None:
    stop = StopRequest()
    with replicated(database, job, read_good_part(job.journal), stop, lambda text: None):
        # Another machine does this when it takes the job over, once the lock is free.
        with database.connect() as connection, connection.begin():
            connection.execute(update(JOBS).values(fence=JOBS.c.fence + 1))
        deadline = time.monotonic() + 20
        while not stop:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert isinstance(stop.failure, Fenced)


def test_events_written_while_the_database_is_down_are_sent_when_it_is_up_again(
    postgres: Postgres, database: Database, job: JobFolder
) -> None:
    announced: list[str] = []
    with replicated(database, job, read_good_part(job.journal), StopRequest(), announced.append):
        write(job, 2)
        postgres.stop()
        write(job, 20)
        time.sleep(2)
        postgres.start()
    assert announced == []
    assert list(database.journal(job.id)) == lines(job)


def test_another_machine_gets_the_journal(database: Database, job: JobFolder, tmp_path: Path) -> None:
    write(job, 5)
    with replicated(database, job, read_good_part(job.journal), StopRequest(), pytest.fail):
        pass
    elsewhere = Workspace(tmp_path / "elsewhere").put_job(job.id, "name: job", START)
    assert elsewhere is not None
    reading, aside = pull(database, elsewhere)
    assert (reading.end.n, reading.ends, aside) == (5, ends(elsewhere), None)
    assert lines(elsewhere) == lines(job)
    write(elsewhere, 2)
    reading, aside = pull(database, elsewhere)
    assert (reading.ends, aside) == (ends(elsewhere), None)
    assert len(lines(elsewhere)) == 7
    with replicated(database, elsewhere, read_good_part(elsewhere.journal), StopRequest(), pytest.fail):
        pass
    reading, aside = pull(database, job)
    assert (reading.ends, aside) == (ends(job), None)
    assert lines(job) == lines(elsewhere)


def test_a_journal_that_another_machine_continued_without_is_set_aside(
    database: Database, job: JobFolder, tmp_path: Path
) -> None:
    write(job, 3)
    with replicated(database, job, read_good_part(job.journal), StopRequest(), pytest.fail):
        pass
    elsewhere = Workspace(tmp_path / "elsewhere").put_job(job.id, "name: job", START)
    assert elsewhere is not None
    pull(database, elsewhere)
    # The first machine wrote more lines, lost its connection and never sent them. The second machine continued.
    write(job, 4)
    lost = job.journal.read_bytes()
    write(elsewhere, 2)
    announced: list[str] = []
    with replicated(database, elsewhere, read_good_part(elsewhere.journal), StopRequest(), pytest.fail):
        pass
    with replicated(database, job, read_good_part(job.journal), StopRequest(), announced.append) as (_, reading):
        assert reading.ends == ends(job)
    aside = job.journal.with_name("journal.jsonl.fenced-1")
    assert announced == [f"warning: the journal here was no longer the job's journal; it is kept as {aside}"]
    assert aside.read_bytes() == lost
    assert lines(job) == lines(elsewhere)
    assert len(list(read(job.journal))) == 5
