"""The records of jobs in Postgres, where every machine finds them: the spec, the journal, and who runs the job.

A job's journal is first a file on the driver's disk. The process that holds the job's lock sends it here line by line
(``tuner.storage.postgres_lock``). All other processes only read, and may ask the holder to stop.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    create_engine,
    delete,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from tuner.errors import IntegrityError, ServiceError, Unreachable, without_password
from tuner.storage.database_url import is_down
from tuner.storage.file_lock import LockOwner, parse

CONNECT_S = 5
PAGE = 1000

_TABLES = MetaData()
JOBS = Table(
    "tuner_jobs",
    _TABLES,
    Column("id", Text, primary_key=True),
    Column("ms", BigInteger, nullable=False),
    Column("spec_text", Text, nullable=False),
    Column("start", Text, nullable=False),
    Column("code", LargeBinary),
    Column("fence", Integer, nullable=False, default=0),
    Column("holder", Text),
    Column("beat", DateTime(timezone=True)),
    Column("stop", Boolean, nullable=False, default=False),
    Column("state", Text, nullable=False, default="new"),
    Column("arms", Integer, nullable=False, default=0),
    Column("trials", Integer, nullable=False, default=0),
    Column("cluster", Text, nullable=False, default=""),
    Column("wants", Integer, nullable=False, default=0),
    Column("waits", Text, nullable=False, default=""),
    Column("tracked", LargeBinary),
)
JOURNAL = Table(
    "tuner_journal",
    _TABLES,
    Column("job", Text, primary_key=True),
    Column("n", BigInteger, primary_key=True),
    Column("line", LargeBinary, nullable=False),
)
_MAKING = 7_309_845
"""Number of the lock that is held while the tables are created."""
_LOCKED = text(
    "exists (select 1 from pg_locks where locktype = 'advisory' and objsubid = 1 and granted"
    " and database = (select oid from pg_database where datname = current_database())"
    " and classid::bigint = (hashtextextended(tuner_jobs.id, 0) >> 32) & 4294967295"
    " and objid::bigint = hashtextextended(tuner_jobs.id, 0) & 4294967295) as held"
)


@dataclass(frozen=True)
class JobSummary:
    """What a holder reports about its job.

    Args:
        state: the job's state.
        arms, trials: how many there are.
        cluster: the Ray cluster that the job runs on; empty if the job started its own Ray.
        wants: the most trials that the job could run at once there.
        waits: why none of its trials runs now; empty if one runs.
    """

    state: str = "running"
    arms: int = 0
    trials: int = 0
    cluster: str = ""
    wants: int = 0
    waits: str = ""


@dataclass(frozen=True)
class JobRow:
    """A job's record without its journal and its code.

    Args:
        id: the job's id.
        ms: when the job was submitted, in Unix milliseconds.
        spec_text: the spec as the user wrote it.
        start: the mapping that ``JobFolder.started`` returns.
        holder: the process that runs the job, or None.
        summary: the last report of a holder.
    """

    id: str
    ms: int
    spec_text: str
    start: Mapping[str, Any]
    holder: LockOwner | None
    summary: JobSummary


class Database:
    """A Postgres database with the records of jobs. Missing tables are created.

    Args:
        url: SQLAlchemy URL without a password.

    Raises:
        ServiceError: the database cannot be reached or refuses us. Every method may raise it.
    """

    def __init__(self, url: str) -> None:
        self.shown = without_password(url)
        self._engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": CONNECT_S})
        with self._begin() as connection:
            connection.execute(select(func.pg_advisory_xact_lock(_MAKING)))
            _TABLES.create_all(connection)

    def register(self, job_id: str, ms: int, spec_text: str, start: Mapping[str, Any], code: bytes | None) -> bool:
        """Write a new job; False if a job with this id exists."""
        values = {"id": job_id, "ms": ms, "spec_text": spec_text, "start": json.dumps(dict(start)), "code": code}
        with self._begin() as connection:
            made = connection.execute(upsert(JOBS).values(values).on_conflict_do_nothing().returning(JOBS.c.id))
            return made.first() is not None

    def jobs(self) -> list[JobRow]:
        """All jobs, oldest first."""
        with self._begin() as connection:
            return [_row(row) for row in connection.execute(select(JOBS, _LOCKED).order_by(JOBS.c.ms, JOBS.c.id))]

    def job(self, job_id: str) -> JobRow | None:
        """One job, or None."""
        with self._begin() as connection:
            found = connection.execute(select(JOBS, _LOCKED).where(JOBS.c.id == job_id)).first()
            return None if found is None else _row(found)

    def code(self, job_id: str) -> bytes | None:
        """The user's own code of a job, as ``tuner.jobs.code_archive`` packed it."""
        return self._one(job_id, "code")

    def tracked(self, job_id: str) -> bytes | None:
        """The last holder's note of how much of the journal MLflow has."""
        return self._one(job_id, "tracked")

    def note_tracked(self, job_id: str, note: bytes) -> None:
        """Store a note of how much of the journal MLflow has."""
        with self._begin() as connection:
            connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(tracked=note))

    def ask_to_stop(self, job_id: str) -> None:
        """Ask the process that runs a job to stop it."""
        with self._begin() as connection:
            connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(stop=True))

    def forget(self, job_id: str) -> None:
        """Delete a job: its record, its journal and its code."""
        with self._begin() as connection:
            connection.execute(delete(JOURNAL).where(JOURNAL.c.job == job_id))
            connection.execute(delete(JOBS).where(JOBS.c.id == job_id))

    def journal(self, job_id: str, start: int = 0) -> Iterator[bytes]:
        """The lines of a job's journal from number ``start`` on."""
        while True:
            with self._begin() as connection:
                wanted = select(JOURNAL.c.line).where(JOURNAL.c.job == job_id, JOURNAL.c.n >= start)
                lines = connection.execute(wanted.order_by(JOURNAL.c.n).limit(PAGE)).scalars().all()
            yield from lines
            if len(lines) < PAGE:
                return
            start += PAGE

    def journal_length(self, job_id: str) -> int:
        """The number of lines of a job's journal in the database."""
        with self._begin() as connection:
            return int(connection.execute(select(func.count()).where(JOURNAL.c.job == job_id)).scalar_one())

    def connect(self) -> Connection:
        """A new connection. Its errors are SQLAlchemy's own."""
        return self._engine.connect()

    def _one(self, job_id: str, column: str) -> bytes | None:
        with self._begin() as connection:
            found = connection.execute(select(JOBS.c[column]).where(JOBS.c.id == job_id)).scalar()
            return None if found is None else bytes(found)

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise unusable(self.shown, error) from error


def unusable(shown: str, error: SQLAlchemyError) -> ServiceError:
    """The error to show for a database that cannot be used."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    kind = Unreachable if is_down(error) else ServiceError
    return kind(f"the database {shown} cannot be used: {lines[0] if lines else type(error).__name__}")


def _row(row: Row[Any]) -> JobRow:
    try:
        start = json.loads(row.start)
    except ValueError as error:
        raise IntegrityError(f"the record of job {row.id} in the database is damaged") from error
    summary = JobSummary(row.state, row.arms, row.trials, row.cluster, row.wants, row.waits)
    return JobRow(row.id, row.ms, row.spec_text, start, parse(row.holder or "") if row.held else None, summary)
