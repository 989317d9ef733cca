"""A job's lock in the database: one process at a time runs a job, on any machine.

It is an advisory lock on the job's id. Postgres releases it when the holder's connection ends for any reason. Each
holder has a number, its fence. The database refuses what a holder writes after another process has taken the job.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import NamedTuple

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from tuner.errors import NotFound, SpecError
from tuner.storage.file_lock import LockOwner, parse
from tuner.storage.postgres import JOBS, JOURNAL, Database, JobSummary, unusable

PATIENCE_S = 3.0
"""How long to try to lock a job that another process holds. Postgres notices a killed holder at once."""
ALIVE_S = 15.0
"""A job whose holder has not written for this long gets no share of a cluster."""
KEEPALIVE = "set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2; set tcp_keepalives_count = 5"
"""Makes the server notice within 15 s that a holder's machine is gone."""


class Fenced(SpecError):
    """Another process holds the job."""


class Instructions(NamedTuple):
    """The answer to a holder: whether to stop, and how many trials each job on the cluster wants, oldest first."""

    stop: bool
    wants: Mapping[str, int]


class PostgresLock:
    """A job that this process holds. One thread at a time may use it.

    Raises:
        SpecError: another process holds it.
        NotFound: there is no such job.
        ServiceError: the database cannot be used.
    """

    def __init__(self, database: Database, job_id: str, me: LockOwner) -> None:
        self.job = job_id
        self.database = database
        self._me = me
        self._connection: Connection | None = None
        try:
            self._fence = self._take()
        except SQLAlchemyError as error:
            self.release()
            raise unusable(database.shown, error) from error

    def send(self, lines: Sequence[tuple[int, bytes]], summary: JobSummary) -> Instructions:
        """Write numbered lines of the journal and a summary of the job, all in one transaction.

        Raises:
            Fenced: another process holds the job now.
            SQLAlchemyError: the database cannot be used; the next call connects again.
        """
        try:
            connection = self._renewed()
            with connection.begin():
                instructions = self._send(connection, lines, summary)
            if instructions is None:
                raise self._fenced(connection)
            return instructions
        except SQLAlchemyError:
            self.release()
            raise

    def release(self) -> None:
        """Release the job, so that other processes can hold it."""
        if self._connection is not None:
            with suppress(SQLAlchemyError):
                # There is no pool: closing ends the connection, and Postgres releases the lock.
                self._connection.close()
            self._connection = None

    def _send(
        self, connection: Connection, lines: Sequence[tuple[int, bytes]], summary: JobSummary
    ) -> Instructions | None:
        ours = (JOBS.c.id == self.job) & (JOBS.c.fence == self._fence)
        values = asdict(summary) | {"beat": func.clock_timestamp()}
        stop = connection.execute(update(JOBS).where(ours).values(values).returning(JOBS.c.stop)).scalar()
        if stop is None:
            return None
        if lines:
            rows = [{"job": self.job, "n": n, "line": line} for n, line in lines]
            # An earlier call may have succeeded although its answer was lost.
            connection.execute(upsert(JOURNAL).on_conflict_do_nothing(), rows)
        since = func.clock_timestamp() - text(f"interval '{ALIVE_S:g} s'")
        there = select(JOBS.c.id, JOBS.c.wants).where(JOBS.c.cluster == summary.cluster, JOBS.c.beat > since)
        return Instructions(
            stop, {row.id: row.wants for row in connection.execute(there.order_by(JOBS.c.ms, JOBS.c.id))}
        )

    def _take(self) -> int:
        connection = self._connected()
        deadline = time.monotonic() + PATIENCE_S
        while not self._locked(connection):
            if time.monotonic() > deadline:
                raise self._fenced(connection)
            time.sleep(0.1)
        with connection.begin():
            taken = update(JOBS).where(JOBS.c.id == self.job)
            values = {"fence": JOBS.c.fence + 1, "holder": json.dumps(asdict(self._me)), "stop": False}
            fence = connection.execute(taken.values(values).returning(JOBS.c.fence)).scalar()
        if fence is None:
            self.release()
            raise NotFound(f"no job {self.job!r} in {self.database.shown}")
        return int(fence)

    def _renewed(self) -> Connection:
        """The connection. A broken one is replaced and locks the job again, unless another process has it."""
        if self._connection is None:
            connection = self._connected()
            if not self._locked(connection):
                if self._fence_there(connection) != self._fence:
                    raise self._fenced(connection)
                raise OperationalError("the connection before this one still counts", None, BrokenPipeError())
        assert self._connection is not None
        return self._connection

    def _fence_there(self, connection: Connection) -> int | None:
        with connection.begin():
            return connection.execute(select(JOBS.c.fence).where(JOBS.c.id == self.job)).scalar()

    def _connected(self) -> Connection:
        self._connection = self.database.connect()
        with self._connection.begin():
            self._connection.execute(text(KEEPALIVE))
        return self._connection

    def _locked(self, connection: Connection) -> bool:
        with connection.begin():
            lock = func.pg_try_advisory_lock(func.hashtextextended(self.job, 0))
            return bool(connection.execute(select(lock)).scalar())

    def _fenced(self, connection: Connection) -> SpecError:
        holder = connection.execute(select(JOBS.c.holder).where(JOBS.c.id == self.job)).scalar()
        self.release()
        return Fenced(f"job {self.job} is held by {parse(holder or '')}; stop it there, or: tuner stop {self.job}")
