"""The studies' database: opened, waited for while it is away, set aside where it is damaged, and written.

Studies are asked in memory (``tuner.study``). Here is what Optuna and its dashboard see of them, and what a driver that
goes on finds: Optuna's own tables. Optuna writes a trial in some twenty transactions; here its beginning is one, and
its end.
"""

import itertools
import json
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.storages._rdb.models import (
    BaseModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialValueModel,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, create_engine, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from tuner.errors import ServiceError, without_password

IN_MEMORY = "memory:"
"""The URL of studies that end with this process."""
OUTAGE_S = 45.0
"""How long a database may be away: less than the 60 s after which a worker that nobody calls stops itself."""
RETRY_S = 1.0
# A server that accepts no connection must not be waited for by the kernel's patience.
os.environ.setdefault("PGCONNECT_TIMEOUT", "5")

T = TypeVar("T")

_TRIALS, _PARAMS, _ATTRIBUTES, _VALUES, _REPORTS = (
    model.__table__
    for model in (
        TrialModel,
        TrialParamModel,
        TrialSystemAttributeModel,
        TrialValueModel,
        TrialIntermediateValueModel,
    )
)


class StoredStudy:
    """A study in the database, made if it is not there. One process at a time writes it.

    Every change is one transaction, and made again it changes nothing: the answer to a commit may get lost.

    Args:
        storage: from ``open_storage``.
        name: the study's.
        direction: of its objective.

    Raises:
        ServiceError: as every method does: the database stays away, or has lost what was written.
    """

    def __init__(self, storage: RDBStorage, name: str, direction: StudyDirection) -> None:
        self._storage = storage
        self._name = name
        self._direction = direction
        self._study_id = patiently(self._make)
        self._ids: dict[int, int] | None = None
        """The database's numbers of the trials that are there; None where that is not certain."""

    def trials(self) -> list[FrozenTrial]:
        """All that is there."""
        return patiently(lambda: self._storage.get_all_trials(self._study_id, deepcopy=False))

    def put(self, trial: FrozenTrial) -> None:
        """Write down a trial that has begun, or has ended; of one that runs only its parameters are kept."""
        patiently(lambda: self._put([trial]))

    def replace(self, trials: Sequence[FrozenTrial]) -> None:
        """Make the study again, of these trials."""
        patiently(lambda: self._replace(trials))

    def _make(self) -> int:
        return optuna.create_study(
            storage=self._storage, study_name=self._name, direction=self._direction, load_if_exists=True
        )._study_id

    def _replace(self, trials: Sequence[FrozenTrial]) -> None:
        with suppress(KeyError):
            optuna.delete_study(study_name=self._name, storage=self._storage)
        self._study_id, self._ids = self._make(), {}
        self._put(trials)

    def _put(self, trials: Sequence[FrozenTrial]) -> None:
        ids, self._ids = self._ids, None
        try:
            with self._storage.engine.begin() as connection:
                if ids is None:
                    there = select(_TRIALS.c.number, _TRIALS.c.trial_id).where(_TRIALS.c.study_id == self._study_id)
                    ids = {row.number: row.trial_id for row in connection.execute(there)}
                for trial in trials:
                    if trial.number not in ids:
                        ids[trial.number] = _begin(connection, self._study_id, trial)
                    if trial.state.is_finished() and not _end(connection, ids[trial.number], trial):
                        raise self._lost()
        except IntegrityError as error:
            raise self._lost() from error
        self._ids = ids

    def _lost(self) -> ServiceError:
        return ServiceError(
            f"the studies' database has lost or altered what was written of study {self._name}; once the job is resumed"
            " it is made again from the journal"
        )


def _begin(connection: Connection, study_id: int, trial: FrozenTrial) -> int:
    begun = insert(_TRIALS).values(
        number=trial.number, study_id=study_id, state=TrialState.RUNNING, datetime_start=_utc(trial.datetime_start)
    )
    trial_id: int = connection.execute(begun).inserted_primary_key[0]  # type: ignore[index]
    params = [
        {
            "param_name": name,
            "param_value": distribution.to_internal_repr(trial.params[name]),
            "distribution_json": distribution_to_json(distribution),
        }
        for name, distribution in trial.distributions.items()
    ]
    _insert(connection, _PARAMS, trial_id, params)
    attributes = [{"key": key, "value_json": json.dumps(value)} for key, value in trial.system_attrs.items()]
    _insert(connection, _ATTRIBUTES, trial_id, attributes)
    return trial_id


def _end(connection: Connection, trial_id: int, trial: FrozenTrial) -> bool:
    """Whether the trial's end is in the database."""
    state = update(_TRIALS).where(_TRIALS.c.trial_id == trial_id, _TRIALS.c.state == TrialState.RUNNING)
    ended = state.values(state=trial.state, datetime_complete=_utc(trial.datetime_complete))
    if connection.execute(ended).rowcount == 0:
        there = connection.execute(select(_TRIALS.c.state).where(_TRIALS.c.trial_id == trial_id)).scalar()
        return bool(there == trial.state)
    reports = []
    for step, reported in trial.intermediate_values.items():
        value, kind = TrialIntermediateValueModel.intermediate_value_to_stored_repr(reported)
        reports.append({"step": step, "intermediate_value": value, "intermediate_value_type": kind})
    _insert(connection, _REPORTS, trial_id, reports)
    if trial.value is not None:
        value, value_kind = TrialValueModel.value_to_stored_repr(trial.value)
        _insert(connection, _VALUES, trial_id, [{"objective": 0, "value": value, "value_type": value_kind}])
    return True


def _insert(connection: Connection, table: Any, trial_id: int, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), [{"trial_id": trial_id, **row} for row in rows])


def _utc(moment: datetime | None) -> datetime | None:
    """A moment as Optuna keeps it: it shows local times, and stores UTC; neither says so."""
    return moment and moment.astimezone(UTC).replace(tzinfo=None)


def study_ids(url: str, names: Sequence[str]) -> Mapping[str, int]:
    """The database's own numbers of those of these studies that are there.

    Raises:
        ServiceError: it cannot be reached or is no studies' database.
    """
    storage = open_storage(url)
    found: dict[str, int] = {}
    for name in names:
        with suppress(KeyError):
            found[name] = storage.get_study_id_from_name(name)
    return found


def open_storage(url: str, patient: bool = False, durable: bool = True) -> BaseStorage:
    """The studies' database.

    Args:
        url: where it is, or ``IN_MEMORY``.
        patient: wait for one that is away, as an ask would.
        durable: whether what is written is on the disk before one goes on. A SQLite file for which nobody waits may
            be damaged by a power cut, so it has to be one that can be made again; whoever dies does it no harm.

    Raises:
        ServiceError: it cannot be reached or is no studies' database.
    """
    if url == IN_MEMORY:
        return InMemoryStorage()
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        options["pool_events"] = [(partial(_set_up, durable), "connect")]
    reach = partial(RDBStorage, url, engine_kwargs=options)
    try:
        return patiently(reach) if patient else reach()
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, RuntimeError) as error:
        raise ServiceError(
            f"cannot open the studies' database {without_password(url)}: {_first_line(error)}"
        ) from error


def _set_up(durable: bool, connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
    # As Postgres does by itself: nothing is written of a study that is gone.
    connection.execute("PRAGMA foreign_keys = ON")
    if not durable:
        connection.execute("PRAGMA synchronous = OFF")


def set_aside_if_damaged(database: Path) -> Path | None:
    """Move a damaged SQLite file out of the way.

    Returns:
        Where it is now; None if nothing is wrong with it, or there is none.
    """
    if not database.exists() or database.stat().st_size == 0 or not _is_damaged(database):
        return None
    aside = next(name for number in itertools.count(1) if not (name := Path(f"{database}.damaged-{number}")).exists())
    return database.rename(aside)


_NO_DAMAGE = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_NOMEM,
)
"""What SQLite says of a file that another process writes to, or that it cannot get at."""
_TEXTS: Mapping[str, Callable[[str], Any]] = {"distribution_json": json_to_distribution, "value_json": json.loads}
"""Columns whose text Optuna reads, and how."""


def _is_damaged(database: Path) -> bool:
    engine = create_engine(f"sqlite:///{database}", connect_args={"timeout": 1})
    try:
        with engine.connect() as connection:
            if connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar() != "ok":
                return True
            # SQLite does not look into texts.
            connection.exec_driver_sql("SELECT * FROM sqlite_master").all()
            for table in BaseModel.metadata.sorted_tables:
                texts = [(column, read) for column, read in _TEXTS.items() if column in table.columns]
                for row in connection.execute(select(table)).mappings():
                    for column, read in texts:
                        read(row[column])
    except Exception as error:
        # Damage can make a reader raise anything.
        code = getattr(getattr(error, "orig", error), "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        return code & 0xFF not in _NO_DAMAGE
    finally:
        engine.dispose()
    return False


def patiently(call: Callable[[], T]) -> T:
    """Call, again and again while the database is away.

    Raises:
        ServiceError: it stayed away.
    """
    deadline = time.monotonic() + OUTAGE_S
    while True:
        try:
            return call()
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            if time.monotonic() > deadline:
                raise ServiceError(f"the studies' database cannot be used: {_first_line(error)}") from error
            time.sleep(RETRY_S)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
