"""A database of studies that goes down while a driver opens it."""

import threading
import time

import optuna
import pytest
from optuna.storages import RDBStorage

from tests.faults.services import Postgres
from tuner.errors import ServiceError
from tuner.search import study_database as studies
from tuner.search.study_database import open_storage


@pytest.fixture
def url(postgres: Postgres) -> str:
    """A separate database."""
    return postgres.create(f"studies_{time.time_ns()}")


def test_a_resumed_job_waits_for_its_studies_and_a_new_job_fails_at_once(postgres: Postgres, url: str) -> None:
    postgres.stop()
    begun = time.monotonic()
    with pytest.raises(ServiceError, match="cannot open the studies' database"):
        open_storage(url)
    assert time.monotonic() - begun < 5
    coming = threading.Timer(3, postgres.start)
    coming.start()
    storage = open_storage(url, patient=True)
    coming.join()
    assert isinstance(storage, RDBStorage)
    assert optuna.get_all_study_names(storage) == []
    storage.engine.dispose()


def test_the_message_names_studies_that_stay_down(
    postgres: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "OUTAGE_S", 2)
    postgres.stop()
    with pytest.raises(ServiceError, match="the studies' database cannot be used"):
        open_storage(url, patient=True)


def test_the_message_names_a_database_that_goes_down_while_it_is_opened(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def goes_away(*args: object, **kwargs: object) -> None:
        # Optuna raises this if the connection breaks during a commit.
        raise optuna.exceptions.StorageInternalError("An exception is raised during the commit.")

    monkeypatch.setattr(RDBStorage, "__init__", goes_away)
    with pytest.raises(ServiceError, match="cannot open the studies' database"):
        open_storage(url)
