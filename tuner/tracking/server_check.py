"""Checks of a tracker that do not import mlflow: that it answers, accepts us, is MLflow's, and has our experiment."""

import importlib.metadata
import importlib.util
import re
import shlex
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tuner.errors import HIDDEN, ServiceError, SpecError, Unreachable, without_password
from tuner.storage.database_url import PORTS, is_down, sqlite_file
from tuner.tracking.credentials import tracking_credentials

if TYPE_CHECKING:
    from sqlalchemy import Connection

ANSWER_S = 5.0
KNOCK_S = 5.0
TRACKERS = ("http://", "https://", "sqlite", "postgresql", "mysql", "mssql", "databricks")
DELETED = "deleted"
"""MLflow's word for the stage of a deleted run or experiment, which can be restored."""
UNNAMED = "no version"
_REVISION = re.compile(r'^(down_)?revision = "(\w+)"', re.MULTILINE)


def check_tracker(uri: str, experiment: str | None = None) -> None:
    """Check a tracker before a job starts. A tracker that fails later stops nothing.

    A tracker that is a file is created when it is first written.

    Args:
        uri: the tracker's.
        experiment: the name of the job's experiment; None checks no experiment.

    Raises:
        SpecError: the URI is none of MLflow's kinds.
        ServiceError: the tracker does not answer, refuses us, or is not MLflow's; or the experiment was deleted.
    """
    if not uri.startswith(TRACKERS):
        known = ", ".join(TRACKERS)
        raise SpecError(
            f"tracking.uri: {without_password(uri)!r} is no store that MLflow keeps; it begins with {known}"
        )
    if uri.startswith("http"):
        _check_server(uri, experiment)
    else:
        check_database(uri, experiment)


def deleted_experiment(shown: str, name: str, number: str) -> ServiceError:
    """The error for an experiment that was deleted.

    Args:
        shown: the tracker's URI without a password.
        name, number: the experiment's name and id.
    """
    return ServiceError(
        f"MLflow at {shown}: experiment {name!r} was deleted; restore it with:"
        f" {at_tracker(shown)} mlflow experiments restore --experiment-id {number}; or name another one in"
        " tracking.experiment of a new job"
    )


def at_tracker(shown: str) -> str:
    """The words before a command of MLflow, for a shell. Who needs a password has to write the URI."""
    return f"MLFLOW_TRACKING_URI={'URI' if HIDDEN in shown else shlex.quote(shown)}"


def check_database(uri: str, experiment: str | None = None) -> None:
    """Check a tracker that is a database, unless it is a file that does not exist yet. Other trackers are not checked.

    Raises:
        SpecError: the package of this kind of database is not installed.
        ServiceError: as ``check_tracker``.
    """
    file, kind = sqlite_file(uri), uri.partition(":")[0].partition("+")[0]
    if kind not in (*PORTS, "sqlite") or (kind == "sqlite" and (file is None or not file.exists())):
        return
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError
    from sqlalchemy.pool import NullPool

    shown = without_password(uri)
    try:
        _knock(uri)
        engine = create_engine(uri, poolclass=NullPool)
        with engine.connect() as connection:
            _check_schema(connection, shown)
            if experiment is not None:
                _check_experiment(connection, shown, experiment)
    except (ImportError, NoSuchModuleError) as error:
        raise SpecError(f"tracking.uri: {shown!r} needs a package that is not installed: {error}") from None
    except (OSError, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        lines = str(getattr(cause, "strerror", None) or cause).strip().splitlines() or [type(cause).__name__]
        passes = isinstance(error, OSError) or is_down(error)
        way_out = "" if passes else "; mend that, or name another one in tracking.uri"
        kind_of = Unreachable if passes else ServiceError
        raise kind_of(f"MLflow's database {shown} cannot be read: {lines[0]}{way_out}") from None
    except (ValueError, SQLAlchemyError) as error:
        # A port that is no number, a password with a bracket, a driver that cannot be used here.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SpecError(f"tracking.uri: {shown!r} cannot be used: {reason}") from None


def _knock(uri: str) -> None:
    """Fail at once if a database is down. MLflow and SQLAlchemy would wait for minutes."""
    parts = urlsplit(uri)
    port = PORTS.get(parts.scheme.partition("+")[0])
    if port and parts.hostname:
        socket.create_connection((parts.hostname, parts.port or port), KNOCK_S).close()


def is_half_made(uri: str) -> bool | None:
    """Whether the tables of a tracker that is an SQLite file are not all there; None if there are none yet.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the file cannot be read.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    file = sqlite_file(uri)
    if file is None or not file.exists():
        return None
    with create_engine(uri, poolclass=NullPool).connect() as connection:
        found = _version(connection)
    return found not in _heads() if found else None


def _check_schema(connection: "Connection", shown: str) -> None:
    """Refuse a database whose tables are not those of the installed MLflow. An empty one gets them.

    One without an experiment is being made, or whoever made it died. MLflow adds the first experiment at the end.
    """
    found, here = _version(connection), importlib.metadata.version("mlflow")
    if not found or found in _heads():
        return
    if found != UNNAMED and found not in _revisions():
        raise ServiceError(
            f"{shown} is no database of MLflow {here}, which is installed here: its version {found} is of a newer"
            " MLflow or of another program; name another database in tracking.uri, or install that MLflow"
        )
    if _has_experiments(connection):
        raise ServiceError(
            f"MLflow's database {shown} is of an older MLflow than {here}, which is installed here; make a copy of"
            f" it, then run: mlflow db upgrade {'URI' if HIDDEN in shown else shlex.quote(shown)}"
        )


def _has_experiments(connection: "Connection") -> bool:
    from sqlalchemy import inspect, text

    is_there = "experiments" in inspect(connection).get_table_names()
    return is_there and connection.execute(text("SELECT 1 FROM experiments LIMIT 1")).first() is not None


def _version(connection: "Connection") -> str:
    """The version of the tables, as it is now; ``UNNAMED`` for MLflow's tables without one, empty without tables."""
    from sqlalchemy import inspect, text

    connection.rollback()
    tables = set(inspect(connection).get_table_names())
    if "alembic_version" in tables:
        rows = connection.execute(text("SELECT version_num FROM alembic_version")).all()
        if rows:
            return ", ".join(str(row[0]) for row in rows)
    return UNNAMED if {"experiments", "runs"} <= tables else ""


def _heads() -> set[str]:
    """The versions of a database with all tables of the installed MLflow: the revisions that no other follows."""
    return {*_revisions()} - {*_revisions().values()}


@cache
def _revisions() -> Mapping[str, str]:
    """The revisions of MLflow's database: each one, and the one before it. The files of its migrations name them."""
    found = importlib.util.find_spec("mlflow")
    assert found is not None, "mlflow is installed"
    folders = [Path(place, "store", "db_migrations", "versions") for place in found.submodule_search_locations or ()]
    files = (file for folder in folders for file in folder.glob("*.py"))
    pairs = [dict(_REVISION.findall(file.read_text(encoding="utf-8"))) for file in files]
    return {pair[""]: pair.get("down_", "") for pair in pairs if "" in pair}


def _check_experiment(connection: "Connection", shown: str, name: str) -> None:
    from sqlalchemy import inspect, text

    if "experiments" not in inspect(connection).get_table_names():
        return
    wanted = text("SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = :name")
    for number, stage in connection.execute(wanted, {"name": name}):
        if stage == DELETED:
            raise deleted_experiment(shown, name, str(number))


def _check_server(uri: str, experiment: str | None) -> None:
    import requests

    shown = without_password(uri)
    page, wanted = "get-by-name", {"experiment_name": experiment}
    if experiment is None:
        page, wanted = "get", {"experiment_id": "0"}
    auth = tracking_credentials()
    try:
        answer = requests.get(
            f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/{page}", params=wanted, auth=auth, timeout=ANSWER_S
        )
    except (requests.RequestException, ValueError) as error:
        # ValueError: requests raises it for some invalid host names.
        raise ServiceError(f"MLflow at {shown} cannot be reached ({type(error).__name__}); is it up?") from None
    said = f"{answer.status_code} {answer.reason}"
    if answer.status_code in (401, 403):
        allowed = "; if it runs behind another name, start it with --allowed-hosts" if answer.status_code == 403 else ""
        raise ServiceError(f"MLflow at {shown} refuses us ({said}){allowed}")
    if answer.status_code >= 500:
        # It may be up again before anything is sent.
        return
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"experiment", "error_code"} & found.keys():
        raise ServiceError(f"{shown} answers, but not as MLflow does ({said}); is tracking.uri the address of MLflow?")
    there = found.get("experiment", {})
    if there.get("lifecycle_stage") == DELETED:
        raise deleted_experiment(shown, str(there.get("name")), str(there.get("experiment_id")))
