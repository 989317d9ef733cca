"""The studies' database: Optuna's own tables, written from the journal for people and for Optuna's dashboard.

The search does not read it. A study is asked in memory (``tuner.search.study``), and this database follows the journal
as MLflow does. Optuna itself writes a trial in some twenty transactions; here all changes of a study are one.
"""

import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import (
    BaseModel,
    StudyModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialValueModel,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, create_engine, insert, inspect, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from tuner.errors import ServiceError, Unreachable, without_password
from tuner.jobs.follower import Follower, Pace
from tuner.jobs.job_folder import JobFolder
from tuner.search.distributions import from_search
from tuner.search.study import RecordedTrial, as_optuna_trial, study_name
from tuner.spec.arms import Arm, recorded_arms
from tuner.spec.search_spec import SearchSpec, from_dict
from tuner.storage.atomic_files import set_aside
from tuner.storage.database_url import file_id, is_down, sqlite_file, sqlite_url
from tuner.storage.events import Entry, EpochReported, JobDescribed, Stage, State, TrialBegun, TrialEnded
from tuner.storage.file_lock import AlreadyLocked, exclusive
from tuner.storage.journal import read_from

_log = logging.getLogger(__name__)
PACE = Pace(pause_s=0.5, beat_s=10.0, longest_retry_s=10.0, give_up_s=15.0, patience_s=60.0)
# The kernel would wait for minutes for a server that accepts no connection.
os.environ.setdefault("PGCONNECT_TIMEOUT", "5")

PATIENCE_S = 30.0
"""How long to wait for another process that sets a damaged file aside."""
TRIES, RETRY_S = 10, 0.3
"""How often a new database is opened, and the pause, while another job creates its tables."""
_MADE_BY_ANOTHER = ("UNIQUE constraint failed", "already exists", "duplicate key")
"""What a database says if two jobs create its tables at once. Optuna holds no lock meanwhile."""

_STUDIES, _TRIALS, _PARAMS, _ATTRIBUTES, _VALUES, _REPORTS = (
    model.__table__
    for model in (
        StudyModel,
        TrialModel,
        TrialParamModel,
        TrialSystemAttributeModel,
        TrialValueModel,
        TrialIntermediateValueModel,
    )
)


@dataclass
class _Trial:
    """A trial of the search, as far as the journal was read."""

    arm: str
    number: int
    begun: TrialBegun
    begun_ms: int
    state: State = State.RUNNING
    reports: list[tuple[int, float]] = field(default_factory=list)
    ended_ms: int | None = None

    def as_optuna(self, arm: Arm) -> FrozenTrial:
        """The trial as Optuna has it."""
        trial = as_optuna_trial(arm, RecordedTrial(self.begun.knobs, self.state, self.reports))
        trial.number = self.number
        trial.datetime_start = datetime.fromtimestamp(self.begun_ms / 1000)
        trial.datetime_complete = None if self.ended_ms is None else datetime.fromtimestamp(self.ended_ms / 1000)
        return trial


class StudyWriter:
    """Writes the studies of a job into the database, from the job's journal.

    The first ``send`` reads the whole journal. A study in the database that does not agree with it is written again. So
    is everything if the database is an SQLite file that was removed, or that was damaged and can be set aside.

    Args:
        folder: the job's.
        url: SQLAlchemy URL of the database.
        durable: whether every write waits for the disk. Without it the file is the workspace's: it holds nothing that
            journals do not hold, and it is set aside if it is damaged.
    """

    def __init__(self, folder: JobFolder, url: str, *, durable: bool) -> None:
        self.follower = Follower("the studies' database", self.send, PACE)
        self._folder = folder
        self._url = url
        self._durable = durable
        self._storage: RDBStorage | None = None
        self._file_id: int | None = None
        self._offset = 0
        self._spec: SearchSpec | None = None
        self._arms: dict[str, Arm] = {}
        self._studies: dict[str, _StoredStudy] = {}
        self._running: dict[str, _Trial] = {}

    def open(self) -> None:
        """Open the database, and create its tables.

        Raises:
            ServiceError: it cannot be reached, or is no studies' database.
        """
        if self._storage is None:
            self._storage = open_storage(self._url, durable=self._durable)
            self._file_id = file_id(self._url)

    def send(self) -> None:
        """Write everything new. If a study was deleted, or the file is another one, write everything again.

        Raises:
            ServiceError: the database cannot be used, or the journal cannot be read.
        """
        if self._storage is not None and file_id(self._url) != self._file_id:
            self._begin_again()
        try:
            self._send()
        except _StudyIsGone:
            self._offset, self._running, self._studies = 0, {}, {}
            self._send()
        except ServiceError as error:
            if not self._is_mended(error):
                raise
            self._send()

    def finish(self) -> None:
        """Once everything was sent, mend the workspace's own file if it has damage that no write has met.

        An error becomes the follower's problem.
        """
        file = sqlite_file(self._url)
        if self.follower.problem is not None or self._durable or file is None:
            return
        try:
            self._set_aside(file)
            self.send()
        except (ServiceError, OSError) as error:
            self.follower.problem = error

    def _begin_again(self) -> None:
        """Open the database anew at the next ``send``, and write everything again."""
        if self._storage is not None:
            self._storage.engine.dispose()
        self._storage, self._offset, self._running, self._studies = None, 0, {}, {}

    def _is_mended(self, error: ServiceError) -> bool:
        """Set the workspace's own file aside if it is damaged; whether to try again."""
        file = sqlite_file(self._url)
        if self._durable or file is None:
            return False
        if not self._set_aside(file) and isinstance(error, Unreachable):
            return False
        self._begin_again()
        return True

    def _set_aside(self, file: Path) -> bool:
        aside = set_aside_if_damaged(file)
        if aside is not None:
            _log.warning("warning: %s is damaged and now %s; the studies are rebuilt from the journal", file, aside)
        return aside is not None

    def _send(self) -> None:
        self.open()
        if not self._folder.journal.exists():
            return
        changed: dict[str, _Trial] = {}
        offset = self._offset
        # A change must not be lost if writing fails: state is kept only once all was written.
        running = {key: replace(trial, reports=list(trial.reports)) for key, trial in self._running.items()}
        for line in read_from(self._folder.journal, offset):
            self._take(line.entry, running, changed)
            offset = line.end
        try:
            self._write(list(changed.values()))
        except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            kind = Unreachable if is_down(error) else ServiceError
            raise kind(
                f"the studies' database {without_password(self._url)} cannot be used: {_first_line(error)}"
            ) from error
        self._offset, self._running = offset, running

    def _take(self, entry: Entry, running: dict[str, _Trial], changed: dict[str, _Trial]) -> None:
        match entry.event:
            case JobDescribed() as job:
                self._spec = from_dict(job.spec)
                self._arms = {arm.name: arm for arm in recorded_arms(self._spec, job.trial_plan, job.ranges)}
            case TrialBegun(trial=key, stage=Stage.SEARCH) as begun:
                running[key] = changed[key] = _Trial(begun.arm, begun.number, begun, entry.ms)
            case EpochReported(trial=key) as epoch if key in running:
                assert self._spec is not None
                running[key].reports.append((epoch.report.epoch, epoch.report.metric(self._spec.metric.key)))
            case TrialEnded(trial=key) as ended if key in running:
                trial = changed[key] = running.pop(key)
                trial.state, trial.ended_ms = ended.state, entry.ms

    def _write(self, changed: Sequence[_Trial]) -> None:
        if self._spec is None:
            return
        # The only search of an arm has its study from the start; a later search has it once it has a trial.
        begun: dict[tuple[str, int], list[_Trial]] = {} if self._spec.searches else {(arm, 0): [] for arm in self._arms}
        for trial in changed:
            begun.setdefault((trial.arm, trial.begun.search), []).append(trial)
        for (name, search), trials in sorted(begun.items(), key=lambda item: item[0]):
            arm, study = self._arms[name], study_name(self._folder.id, name, search)
            if study not in self._studies:
                assert self._storage is not None
                maximize = self._spec.metric.goal == "maximize"
                direction = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
                self._studies[study] = _StoredStudy(self._storage, study, direction)
                self._studies[study].keep_only_if_it_agrees(arm, trials)
            self._studies[study].put([trial.as_optuna(arm) for trial in trials])


class _StudyIsGone(ServiceError):
    """A study was deleted after it was opened."""


class _StoredStudy:
    """A study in the database. Every call of ``put`` is one transaction, and a repeated one changes nothing."""

    def __init__(self, storage: RDBStorage, name: str, direction: StudyDirection) -> None:
        self._storage = storage
        self._name = name
        self._direction = direction
        self._study_id = self._create()

    def put(self, trials: Sequence[FrozenTrial]) -> None:
        """Write trials that have begun or have ended. Of a running one only its parameters are kept.

        Raises:
            _StudyIsGone: somebody has deleted the study.
        """
        if not trials:
            return
        with self._storage.engine.begin() as connection:
            # Another writer, as ``tuner sync`` beside a running job, waits here: no trial gets two rows.
            held = update(_STUDIES).where(_STUDIES.c.study_id == self._study_id).values(study_name=self._name)
            if connection.execute(held).rowcount == 0:
                raise _StudyIsGone(f"the study {self._name} was deleted while it was written")
            # The trials that change are near the end of a long study, so few of its rows are read.
            first = min(trial.number for trial in trials)
            known = select(_TRIALS.c.number, _TRIALS.c.trial_id).where(
                _TRIALS.c.study_id == self._study_id, _TRIALS.c.number >= first
            )
            ids: dict[int, int] = {row.number: row.trial_id for row in connection.execute(known)}
            for trial in trials:
                if trial.number not in ids:
                    ids[trial.number] = _begin(connection, self._study_id, trial)
                if trial.state.is_finished():
                    _end(connection, ids[trial.number], trial)

    def keep_only_if_it_agrees(self, arm: Arm, trials: Sequence[_Trial]) -> None:
        """Delete the study, to be written again, if it has a trial that the journal does not have, or has otherwise."""
        recorded = {trial.number: trial for trial in trials}
        for stored in self._storage.get_all_trials(self._study_id, deepcopy=False):
            if stored.number not in recorded or not _agrees(stored, recorded[stored.number], arm):
                with suppress(KeyError):
                    optuna.delete_study(study_name=self._name, storage=self._storage)
                self._study_id = self._create()
                return

    def _create(self) -> int:
        return optuna.create_study(
            storage=self._storage, study_name=self._name, direction=self._direction, load_if_exists=True
        )._study_id


def _agrees(stored: FrozenTrial, recorded: _Trial, arm: Arm) -> bool:
    """Whether a stored trial is the recorded one, or the recorded one before its end."""
    expected = recorded.as_optuna(arm)
    if stored.state == TrialState.WAITING or stored.distributions != expected.distributions:
        return False
    # Knobs are compared and not Optuna's parameters: 1 - (1 - x) may differ from x in the last bit.
    if from_search(arm.space, stored.params) != recorded.begun.knobs:
        return False
    return stored.state == TrialState.RUNNING or (stored.state, stored.value, stored.intermediate_values) == (
        expected.state,
        expected.value,
        expected.intermediate_values,
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


def _end(connection: Connection, trial_id: int, trial: FrozenTrial) -> None:
    """Write the end of a trial, unless it is written already."""
    state = update(_TRIALS).where(_TRIALS.c.trial_id == trial_id, _TRIALS.c.state == TrialState.RUNNING)
    ended = state.values(state=trial.state, datetime_complete=_utc(trial.datetime_complete))
    if connection.execute(ended).rowcount == 0:
        return
    reports = []
    for step, reported in trial.intermediate_values.items():
        value, kind = TrialIntermediateValueModel.intermediate_value_to_stored_repr(reported)
        reports.append({"step": step, "intermediate_value": value, "intermediate_value_type": kind})
    _insert(connection, _REPORTS, trial_id, reports)
    if trial.value is not None:
        value, value_kind = TrialValueModel.value_to_stored_repr(trial.value)
        _insert(connection, _VALUES, trial_id, [{"objective": 0, "value": value, "value_type": value_kind}])


def _insert(connection: Connection, table: Any, trial_id: int, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), [{"trial_id": trial_id, **row} for row in rows])


def _utc(moment: datetime | None) -> datetime | None:
    """A moment as Optuna stores it: local times become UTC, both without a time zone."""
    return moment and moment.astimezone(UTC).replace(tzinfo=None)


def study_ids(url: str, names: Sequence[str]) -> Mapping[str, int]:
    """The database's own numbers of the named studies that exist.

    Raises:
        ServiceError: it cannot be reached or is no studies' database.
    """
    storage = open_storage(url)
    found: dict[str, int] = {}
    for name in names:
        with suppress(KeyError):
            found[name] = storage.get_study_id_from_name(name)
    return found


def delete_studies(url: str, names: Sequence[str]) -> int:
    """Delete the named studies that exist, and return how many there were.

    Raises:
        ServiceError: the database cannot be reached or is no studies' database.
    """
    storage, deleted = open_storage(url), 0
    for name in names:
        try:
            optuna.delete_study(study_name=name, storage=storage)
            deleted += 1
        except KeyError:
            continue
        except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            shown = without_password(url)
            kind = Unreachable if is_down(error) else ServiceError
            raise kind(f"cannot delete the study {name} in {shown}: {_first_line(error)}") from error
    return deleted


def open_storage(url: str, *, durable: bool = True) -> RDBStorage:
    """Open the studies' database, and create its tables.

    Args:
        url: SQLAlchemy URL.
        durable: whether a SQLite file waits for the disk at every write. Without it a power cut may damage the file, so
            the file must be one that can be written again. A killed process does no harm.

    Raises:
        ServiceError: it cannot be reached or is no studies' database.
    """
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        options["pool_events"] = [(partial(_set_up, durable), "connect")]
    for tries_left in reversed(range(TRIES)):
        try:
            _refuse_mlflows(url)
            return RDBStorage(url, engine_kwargs=options)
        except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, RuntimeError) as error:
            problem = _first_line(error)
            if tries_left and any(sign in problem for sign in _MADE_BY_ANOTHER):
                time.sleep(RETRY_S)
                continue
            kind = Unreachable if is_down(error) else ServiceError
            raise kind(f"cannot open the studies' database {without_password(url)}: {problem}") from error
    raise AssertionError("the last try returns or raises")


def _refuse_mlflows(url: str) -> None:
    """Refuse MLflow's database before Optuna makes its tables there: both keep a table ``alembic_version``."""
    file = sqlite_file(url)
    if file is not None and not file.exists():
        return
    engine = create_engine(url, poolclass=NullPool)
    tables = set(inspect(engine).get_table_names())
    if {"experiments", "runs", "alembic_version"} <= tables and "studies" not in tables:
        raise ServiceError(
            f"storage: {without_password(url)} is MLflow's database, and Optuna cannot share it; name another one"
        )


def _set_up(durable: bool, connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
    # Postgres does this by itself: no row refers to a study that is gone.
    connection.execute("PRAGMA foreign_keys = ON")
    if not durable:
        connection.execute("PRAGMA synchronous = OFF")


def set_aside_if_damaged(database: Path) -> Path | None:
    """Move a damaged SQLite file out of the way.

    Returns:
        Where it is now; None if nothing is wrong with it, there is none, or another process is moving it.
    """
    if not database.exists() or database.stat().st_size == 0 or not _is_damaged(database):
        return None
    with suppress(AlreadyLocked), exclusive(Path(f"{database}.lock"), PATIENCE_S):
        # Another job may have moved it meanwhile, and begun a good one.
        if database.exists() and _is_damaged(database):
            return set_aside(database, "damaged")
    return None


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
    engine = create_engine(sqlite_url(database), connect_args={"timeout": 1})
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


def _first_line(error: BaseException) -> str:
    # Optuna hides what the database said behind an error of its own.
    while isinstance(error, optuna.exceptions.OptunaError) and error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
