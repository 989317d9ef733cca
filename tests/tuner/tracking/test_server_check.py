"""A tracker is refused before a job starts if the job could never be sent there."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

from tuner.errors import ServiceError, SpecError, Unreachable, without_password
from tuner.search.study_database import open_storage
from tuner.tracking.client import connect
from tuner.tracking.server_check import at_tracker, check_tracker

# mlflow and SQLAlchemy disagree about deprecations; that is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database, with an experiment and one that was deleted. Making one takes seconds."""
    file = tmp_path_factory.mktemp("filled") / "mlflow.db"
    client = MlflowClient(tracking_uri=f"sqlite:///{file}")
    client.create_experiment("kept")
    client.delete_experiment(client.create_experiment("gone"))
    return file


@pytest.fixture
def file(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(filled, tmp_path / "mlflow.db"))


def version(number: str | None) -> Callable[[Path], None]:
    """Gives the database another version."""

    def alter(file: Path) -> None:
        with closing(sqlite3.connect(file)) as database:
            if number is None:
                database.execute("drop table alembic_version")
            else:
                database.execute("update alembic_version set version_num = ?", (number,))
            database.commit()
        # Nobody is making the tables now.
        os.utime(file, (0, 0))

    return alter


def optunas(file: Path) -> None:
    file.unlink()
    optuna.create_study(storage=f"sqlite:///{file}")


def damaged(file: Path) -> None:
    file.write_bytes(b"no database " * 1000)


@pytest.mark.parametrize("experiment", ["kept", "new", None])
def test_a_store_of_the_installed_mlflow_is_accepted(file: Path, experiment: str | None) -> None:
    check_tracker(f"sqlite:///{file}", experiment)


def test_a_store_that_is_not_there_yet_is_accepted_and_not_made(tmp_path: Path) -> None:
    check_tracker(f"sqlite:///{tmp_path}/new.db", "job")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("alter", "problem"),
    [
        (optunas, "its version v3.2.0.a is of a newer MLflow or of another program; name another database"),
        (version("ffffffffffff"), "its version ffffffffffff is of a newer MLflow or of another program"),
        (
            version("0584bdc529eb"),
            "is of an older MLflow than .*; make a copy of it, then run: mlflow db upgrade",
        ),
        (version(None), "is of an older MLflow than"),
        (damaged, "cannot be read: file is not a database; mend that, or name another one"),
    ],
)
def test_a_store_with_other_tables_is_refused_in_one_line(
    file: Path, alter: Callable[[Path], None], problem: str
) -> None:
    alter(file)
    before = file.read_bytes()
    for refuse in (check_tracker, connect):
        with pytest.raises(ServiceError, match=problem) as refused:
            refuse(f"sqlite:///{file}")
        assert "\n" not in str(refused.value)
        assert not isinstance(refused.value, Unreachable)
    assert file.read_bytes() == before


def test_a_store_that_another_job_is_making_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    making = threading.Thread(target=lambda: MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments())
    making.start()
    while making.is_alive():
        check_tracker(f"sqlite:///{file}", "job")
    making.join()
    check_tracker(f"sqlite:///{file}", "job")


def test_a_store_that_a_killed_job_left_half_made_is_made_anew(file: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("delete from experiments")
        database.execute("drop table runs")
        database.execute("update alembic_version set version_num = '0584bdc529eb'")
        database.commit()
    check_tracker(f"sqlite:///{file}", "job")
    assert [found.name for found in connect(f"sqlite:///{file}").search_experiments()] == ["Default"]
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.unfinished-1"}


MAKE = "import sys; from tuner.tracking.client import connect; connect(sys.argv[1]).create_experiment(sys.argv[2])"


def test_jobs_that_make_a_new_store_at_once_all_get_it(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    making = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", MAKE, uri, name]) for name in "abcd"]
    assert [process.wait() for process in making] == [0] * 4
    assert {found.name for found in connect(uri).search_experiments()} == {"Default", *"abcd"}
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_studies_are_not_put_into_mlflows_database(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(ServiceError, match=r"storage: sqlite:.* is MLflow's database, and Optuna cannot share it"):
        open_storage(f"sqlite:///{file}")
    assert file.read_bytes() == before


def test_a_deleted_experiment_is_named_with_two_ways_out(file: Path) -> None:
    with pytest.raises(ServiceError, match="experiment 'gone' was deleted; restore it with: ") as refused:
        check_tracker(f"sqlite:///{file}", "gone")
    way_out = "mlflow experiments restore --experiment-id 2; or name another one in tracking.experiment"
    assert way_out in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("postgresql://user:hunter2@localhost:abc/db", "Port could not be cast to integer value as 'abc'"),
        ("postgresql://user:hunter[2@localhost/db", "Invalid IPv6 URL"),
        ("sqlite+nothing:///{file}", "sqlalchemy.dialects:sqlite.nothing"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line_without_its_password(file: Path, uri: str, problem: str) -> None:
    with pytest.raises(SpecError, match=f"^tracking.uri: .*{problem}") as refused:
        check_tracker(uri.format(file=file))
    assert "hunter" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_command_for_a_shell_is_quoted_and_has_no_half_password() -> None:
    assert at_tracker("sqlite:////a b/mlflow.db") == "MLFLOW_TRACKING_URI='sqlite:////a b/mlflow.db'"
    assert at_tracker(without_password("http://user:hunter2@host")) == "MLFLOW_TRACKING_URI=URI"


def test_a_kind_of_database_whose_package_is_not_installed_is_named() -> None:
    with pytest.raises(SpecError, match=r"tracking.uri: 'mssql:///db' needs a package that is not installed"):
        check_tracker("mssql:///db")
