"""Records of jobs in Postgres: one holder at a time, nothing written by one that was replaced, journals that agree."""

import time
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from tests.faults.services import Postgres
from tuner.claim import Claim, Fenced
from tuner.database import JOBS, Database, Told
from tuner.errors import NotFound, SpecError
from tuner.home import Home, JobFolder
from tuner.journal import Journal, read
from tuner.lease import Holder, me
from tuner.mirror import Mirror, catch_up, mirrored
from tuner.work import Stop

OTHER = Holder("elsewhere", 7, "tuner work", "2026-01-01T00:00:00+00:00")
START = {"ms": 1, "spec": {}, "folder": "", "simulate": False}


@pytest.fixture
def database(postgres: Postgres) -> Database:
    return Database(postgres.create(f"jobs_{time.time_ns()}"))


@pytest.fixture
def job(database: Database, tmp_path: Path) -> JobFolder:
    """A job that is on record, and has a folder here."""
    database.register("job-1", 1, "name: job", START, b"code")
    folder = Home(tmp_path).put_job("job-1", "name: job", START)
    assert folder is not None
    return folder


def write(folder: JobFolder, count: int) -> None:
    journal = Journal(folder.journal)
    for _ in range(count):
        journal.append("state", state="running")
    journal.close()


def lines(folder: JobFolder) -> list[bytes]:
    return folder.journal.read_bytes().splitlines(keepends=True)


def test_a_job_is_registered_once(database: Database) -> None:
    assert database.register("job-1", 5, "name: job", START, b"code")
    assert not database.register("job-1", 6, "name: other", START, None)
    (row,) = database.jobs()
    assert (row.id, row.ms, row.spec_text, row.holder, row.told.state) == ("job-1", 5, "name: job", None, "new")
    assert database.code("job-1") == b"code"
    assert database.job("job-2") is None


def test_a_job_has_one_holder_who_is_named(database: Database, job: JobFolder) -> None:
    claim = Claim(database, job.id, OTHER)
    row = database.job(job.id)
    assert row is not None
    assert row.holder == OTHER
    with pytest.raises(SpecError, match="held by pid 7 on host elsewhere"):
        Claim(database, job.id, me())
    claim.release()
    assert database.jobs()[0].holder is None
    Claim(database, job.id, me()).release()


def test_a_job_that_is_not_on_record_cannot_be_claimed(database: Database) -> None:
    with pytest.raises(NotFound, match="no job 'job-9'"):
        Claim(database, "job-9", me())


def test_one_that_was_replaced_writes_nothing_more(database: Database, job: JobFolder) -> None:
    first = Claim(database, job.id, OTHER)
    first.send([(0, b"a\n")], Told())
    # As when its connection broke: Postgres releases its lock.
    first.release()
    second = Claim(database, job.id, me())
    with pytest.raises(Fenced, match=f"held by pid {me().pid}"):
        first.send([(1, b"of the first\n")], Told())
    second.send([(1, b"of the second\n")], Told())
    second.release()
    with pytest.raises(Fenced):
        first.send([(2, b"of the first\n")], Told())
    assert list(database.journal(job.id)) == [b"a\n", b"of the second\n"]


def test_a_holder_whose_connection_broke_goes_on(postgres: Postgres, database: Database, job: JobFolder) -> None:
    claim = Claim(database, job.id, me())
    claim.send([(0, b"a\n")], Told())
    postgres.stop()
    with pytest.raises(SQLAlchemyError):
        claim.send([(1, b"b\n")], Told())
    postgres.start()
    claim.send([(0, b"a\n"), (1, b"b\n")], Told())
    claim.release()
    assert list(database.journal(job.id)) == [b"a\n", b"b\n"]


def test_a_holder_hears_that_it_is_to_stop_and_what_others_want(database: Database, job: JobFolder) -> None:
    database.register("job-2", 2, "name: job", START, None)
    ours, other = Claim(database, job.id, me()), Claim(database, "job-2", OTHER)
    other.send([], Told(cluster="c", wants=3))
    database.ask_to_stop(job.id)
    assert ours.send([], Told(cluster="c", wants=8)) == (True, {"job-1": 8, "job-2": 3})
    assert ours.send([], Told(cluster="elsewhere", wants=8)).wants == {"job-1": 8}
    ours.release()
    other.release()
    # Who takes it up again is not stopped by what was asked before.
    again = Claim(database, job.id, me())
    assert not again.send([], Told()).stop
    again.release()


def test_the_journal_comes_to_the_database_as_it_grows(database: Database, job: JobFolder) -> None:
    stop = Stop()
    with mirrored(database, job, stop, pytest.fail) as mirror:
        assert isinstance(mirror, Mirror)
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
    assert database.jobs()[0].told.state == "running"


def test_a_job_that_another_has_taken_over_stops(database: Database, job: JobFolder) -> None:
    stop = Stop()
    with mirrored(database, job, stop, lambda text: None):
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
    with mirrored(database, job, Stop(), said.append):
        write(job, 2)
        postgres.stop()
        write(job, 20)
        time.sleep(2)
        postgres.start()
    assert said == []
    assert list(database.journal(job.id)) == lines(job)


def test_another_machine_gets_the_journal(database: Database, job: JobFolder, tmp_path: Path) -> None:
    write(job, 5)
    with mirrored(database, job, Stop(), pytest.fail):
        pass
    elsewhere = Home(tmp_path / "elsewhere").put_job(job.id, "name: job", START)
    assert elsewhere is not None
    assert catch_up(database, elsewhere) is None
    assert lines(elsewhere) == lines(job)
    write(elsewhere, 2)
    assert catch_up(database, elsewhere) is None
    assert len(lines(elsewhere)) == 7
    with mirrored(database, elsewhere, Stop(), pytest.fail):
        pass
    assert catch_up(database, job) is None
    assert lines(job) == lines(elsewhere)


def test_a_journal_that_others_went_on_without_is_set_aside(database: Database, job: JobFolder, tmp_path: Path) -> None:
    write(job, 3)
    with mirrored(database, job, Stop(), pytest.fail):
        pass
    elsewhere = Home(tmp_path / "elsewhere").put_job(job.id, "name: job", START)
    assert elsewhere is not None
    catch_up(database, elsewhere)
    # The first machine wrote more, which never came to the database, and was cut off; the second went on.
    write(job, 4)
    lost = job.journal.read_bytes()
    write(elsewhere, 2)
    said: list[str] = []
    with mirrored(database, elsewhere, Stop(), pytest.fail):
        pass
    with mirrored(database, job, Stop(), said.append):
        pass
    aside = job.journal.with_name("journal.jsonl.fenced-1")
    assert said == [f"warning: the journal here was not the job's any more; it is kept as {aside}"]
    assert aside.read_bytes() == lost
    assert lines(job) == lines(elsewhere)
    assert len(list(read(job.journal))) == 5
