"""A job's claim in the database: one process at a time runs a job, whatever machine it is on.

It is an advisory lock of the job's name, which Postgres releases when the holder's connection ends, however that came
about. Each holder has a number, its fence: what one still writes that has been replaced is refused.
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
"""How long a job that is held is tried for: a holder that was killed is noticed at once."""
ALIVE_S = 15.0
"""A job whose holder has not written for so long takes no part in sharing a cluster."""
KEEPALIVE = "set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2; set tcp_keepalives_count = 5"
"""Has the server notice in 15 s that a holder's machine is gone."""


class Fenced(SpecError):
    """Another process holds the job."""


class Instructions(NamedTuple):
    """What a holder is told in turn: whether to stop, and what each job on the same cluster wants, oldest first."""

    stop: bool
    wants: Mapping[str, int]


class PostgresLock:
    """A job that this process holds; used by one thread at a time.

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
        """Write lines of the journal, with their numbers, and what is to be said of the job; all of it or nothing.

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
        """Let others have the job."""
        if self._connection is not None:
            with suppress(SQLAlchemyError):
                # Closing would put it back into no pool, and end it: with it goes the lock.
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
            # A call whose answer was lost may have gone through.
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
        """The connection; a new one if it broke, with the lock, unless another process has the job by now."""
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
