"""A database of studies that is down when a job begins or while it runs."""

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage

from tests.faults.services import Postgres
from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from tuner.errors import ServiceError
from tuner.jobs.job_folder import JobFolder
from tuner.search import study_database
from tuner.search.study_database import StudyWriter, open_storage
from tuner.storage.events import State
from tuner.storage.journal import Journal


@pytest.fixture
def url(postgres: Postgres) -> str:
    """A separate database."""
    return postgres.create(f"studies_{time.time_ns()}")


def _problem(writer: StudyWriter) -> str:
    """Wait until the writer has seen the outage."""
    deadline = time.monotonic() + 60
    while writer.follower.problem is None:
        assert time.monotonic() < deadline, "the outage was not seen"
        time.sleep(0.05)
    return str(writer.follower.problem)


def test_a_new_job_fails_at_once_and_the_tables_of_a_running_one_are_complete_later(
    postgres: Postgres, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_database, "PACE", replace(study_database.PACE, pause_s=0.05, longest_retry_s=0.5))
    postgres.stop()
    begun = time.monotonic()
    with pytest.raises(ServiceError, match="cannot open the studies' database"):
        open_storage(url)
    assert time.monotonic() - begun < 5
    folder = JobFolder(tmp_path / "job-1")
    folder.path.mkdir()
    history = History(spec_of())
    history.trial("adam_l2", 0, [0.4, 0.6])
    history.trial("noam", 0, [0.5, 0.7], State.PRUNED)
    with closing(Journal(folder.journal)) as journal:
        for entry in history.entries:
            journal.append(entry.event)
    writer = StudyWriter(folder, url, durable=True)
    writer.follower.start()
    assert "cannot open the studies' database" in _problem(writer)
    postgres.start()
    writer.follower.drain()
    assert writer.follower.problem is None, writer.follower.problem
    storage = open_storage(url)
    states = {
        name: [(trial.state.name, trial.value) for trial in optuna.load_study(study_name=name, storage=storage).trials]
        for name in optuna.get_all_study_names(storage)
    }
    assert states == {"job-1/adam_l2": [("COMPLETE", 0.6)], "job-1/noam": [("PRUNED", 0.7)]}
    storage.engine.dispose()


def test_the_message_names_a_database_that_goes_down_while_it_is_opened(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def goes_away(*args: object, **kwargs: object) -> None:
        # Optuna raises this if the connection breaks during a commit.
        raise optuna.exceptions.StorageInternalError("An exception is raised during the commit.")

    monkeypatch.setattr(RDBStorage, "__init__", goes_away)
    with pytest.raises(ServiceError, match="cannot open the studies' database"):
        open_storage(url)
