"""URLs of databases: that of a file, what one names, whether two name the same, and whether one is only down."""

import os
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_INTERRUPT,
}
"""What SQLite says of a file that is busy, or of a disk that is full. The low byte of its codes."""
_REFUSED = re.compile("authentication failed|does not exist|no pg_hba|permission denied|access denied", re.IGNORECASE)
"""What servers answer to a wrong password or name. A failed connection has no code of its own."""


def sqlite_url(file: Path) -> str:
    """The URL of an SQLite file with an absolute path, for SQLAlchemy, Optuna and MLflow.

    A ``?`` in a path would begin the URL's options, and a ``%`` an escape, so both are escaped. Such a URL names its
    driver too: MLflow creates the folder of a plain ``sqlite:///`` URL without removing its escapes.
    """
    escaped = str(file).replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{file}" if escaped == str(file) else f"sqlite+pysqlite:///{escaped}"


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite URL, as an absolute path; None for any other URL, and for a database in memory."""
    parsed = _parsed(url)
    if parsed is None or parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        return None
    assert parsed.database is not None
    return Path(os.path.abspath(parsed.database.removeprefix("file:")))


def absolute(url: str) -> str:
    """The URL with an absolute path, if it names an SQLite file by a path relative to the current folder."""
    begins_with, _, path = url.partition(":///")
    if not begins_with.startswith("sqlite") or path.startswith(("/", "file:")) or (file := sqlite_file(url)) is None:
        return url
    _, question, options = path.partition("?")
    return sqlite_url(file) + question + options


def file_id(url: str) -> int | None:
    """The inode of an SQLite file: another number means that another file is at its path. None if there is no file."""
    file = sqlite_file(url)
    try:
        return None if file is None else file.stat().st_ino
    except OSError:
        return None


def is_relative(url: str | None) -> bool:
    """Whether a URL names an SQLite file by a path relative to the current folder."""
    return url is not None and absolute(url) != url


def same_database(one: str, other: str) -> bool:
    """Whether two URLs name the same database, whatever their drivers and users. Names of hosts are compared as text.

    Two schemas of a Postgres database that its URL's ``options`` name count as two databases.
    """
    places = _place(one), _place(other)
    return None not in places and places[0] == places[1]


def is_down(error: BaseException | None) -> bool:
    """Whether a database failed because it is down, busy or full, and not because of what was asked of it.

    SQLite and servers report both as the same class, with different codes or words. Optuna and MLflow hide the error
    behind their own.
    """
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

    while error is not None and not isinstance(error, DBAPIError):
        error = error.__cause__
    if error is None:
        return False
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _PASSING
    passes = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    return passes and not _REFUSED.search(str(error.orig))


def _place(url: str) -> tuple[object, ...] | None:
    parsed = _parsed(url)
    if parsed is None:
        return None
    file = sqlite_file(url)
    if file is not None:
        return ("sqlite", os.path.realpath(file))
    kind = parsed.get_backend_name()
    if kind not in PORTS:
        return None
    # Without a host, the option of that name is the folder of the server's socket.
    host = parsed.host or str(parsed.query.get("host", ""))
    host = "127.0.0.1" if host == "localhost" else host.lower()
    name = parsed.database or parsed.username
    return (kind, host, parsed.port or PORTS[kind], name, parsed.query.get("options"))


def _parsed(url: str) -> "URL | None":
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        return None
