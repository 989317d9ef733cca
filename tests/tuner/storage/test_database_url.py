"""What URLs of databases name, and which failures of a database pass by themselves."""

import os
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DatabaseError, OperationalError

from tuner.errors import without_password
from tuner.storage.database_url import absolute, file_id, is_down, is_relative, same_database, sqlite_file


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
        ("sqlite:///../runs/mlflow.db", "sqlite:///{above}/runs/mlflow.db"),
        ("sqlite:///a.db?timeout=9", "sqlite:///{here}/a.db?timeout=9"),
        ("sqlite:////data/a.db", "sqlite:////data/a.db"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("http://host:5000", "http://host:5000"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("no url", "no url"),
    ],
)
def test_a_relative_file_becomes_absolute(
    url: str, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = whole.format(here=tmp_path, above=tmp_path.parent)
    assert (absolute(url), is_relative(url)) == (expected, url != expected)


def test_a_url_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sqlite_file("sqlite:///a.db") == tmp_path / "a.db"
    assert [sqlite_file(url) for url in ("sqlite://", "postgresql://h/a.db", "http://h/a.db", "x")] == [None] * 4
    assert file_id("sqlite:///a.db") is None
    (tmp_path / "a.db").touch()
    assert file_id("sqlite:///a.db") == os.stat("a.db").st_ino


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("postgresql+psycopg://a:x@HOST/db", "postgresql://b@host:5432/db", True),
        ("postgresql://localhost/db", "postgresql+psycopg2://127.0.0.1/db", True),
        ("postgresql://host/db", "postgresql://host/other", False),
        ("postgresql://host/db", "postgresql://host:5433/db", False),
        ("postgresql://host/db", "mysql://host/db", False),
        ("postgresql://host/db", "postgresql://host/db?options=-csearch_path%3Dtracker", False),
        ("postgresql:///db?host=/run", "postgresql+psycopg:///db?host=/run", True),
        ("postgresql:///db?host=/run", "postgresql:///db?host=/other", False),
        ("sqlite:///a.db", "sqlite:///{here}/a.db", True),
        ("sqlite:///a.db", "sqlite:///{here}/x/../a.db?timeout=9", True),
        ("sqlite:///a.db", "sqlite:///link.db", True),
        ("sqlite:///a.db", "sqlite:///b.db", False),
        ("sqlite:///a.db", "http://host", False),
        ("http://host", "http://host", False),
    ],
)
def test_two_urls_of_one_database(
    one: str, other: str, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.db").touch()
    (tmp_path / "link.db").symlink_to("a.db")
    one, other = (url.replace("{here}", str(tmp_path)) for url in (one, other))
    assert same_database(one, other) == same_database(other, one) == same


def failure(file: Path, statement: str, prefix: str = "") -> BaseException:
    """What SQLAlchemy raises, behind an error of another library."""
    engine = create_engine(f"sqlite:///{prefix}{file}", connect_args={"timeout": 0})
    with pytest.raises(DatabaseError) as raised, engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()
    hidden = RuntimeError("something went wrong")
    hidden.__cause__ = raised.value
    return hidden


def test_a_busy_database_passes_and_a_wrong_statement_and_a_damaged_file_do_not(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    assert not is_down(failure(file, "SELECT * FROM nothing"))
    holder = sqlite3.connect(file)
    holder.execute("CREATE TABLE t (n)")
    holder.execute("BEGIN EXCLUSIVE")
    assert is_down(failure(file, "INSERT INTO t VALUES (1)"))
    holder.close()
    assert not is_down(failure(Path(f"{file}?mode=ro&uri=true"), "INSERT INTO t VALUES (1)", prefix="file:"))
    assert not is_down(failure(tmp_path / "no folder" / "a.db", "SELECT 1"))
    file.write_bytes(b"no database " * 1000)
    assert not is_down(failure(file, "SELECT * FROM t"))
    assert not is_down(ValueError("no database at all"))


@pytest.mark.parametrize(
    ("said", "down"),
    [
        ("connection refused; is the server running?", True),
        ("the database system is starting up", True),
        ('password authentication failed for user "u"', False),
        ('database "runs" does not exist', False),
    ],
)
def test_a_server_that_is_down_passes_and_one_that_refuses_us_does_not(said: str, down: bool) -> None:
    assert is_down(OperationalError("connect", None, Exception(f"connection failed: FATAL: {said}"))) == down


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:hunter2@host/db", "postgresql://***@host/db"),
        ("postgresql://host/db?user=u&password=hunter2&x=1", "postgresql://host/db?user=u&password=***&x=1"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_no_password_of_a_url_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
