"""A studies' database that goes down while a job writes to it: nothing waits for it, and its tables get everything."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import text

from tests.faults.services import Postgres
from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from tuner.errors import ServiceError
from tuner.jobs.job_folder import JobFolder
from tuner.search import study_database as studies
from tuner.search.study_database import StudyWriter, open_storage
from tuner.storage.journal import encode

ARMS = ("adam_l2", "noam")
TRIALS = 3
SHORT_S = 2.0


@pytest.fixture
def url(postgres: Postgres) -> str:
    """A separate database."""
    return postgres.create(f"studies_{time.time_ns()}")


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """The folder of a job whose search has ended."""
    made = JobFolder(tmp_path / "job-1")
    made.path.mkdir()
    history = History(spec_of())
    for number in range(TRIALS):
        for arm in ARMS:
            history.trial(arm, number, [0.1, 0.2 + number / 100])
    made.journal.write_bytes(b"".join(map(encode, history.entries)))
    return made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = replace(studies.PACE, pause_s=0.05, beat_s=0.1, longest_retry_s=0.5, give_up_s=SHORT_S)
    monkeypatch.setattr(studies, "PACE", pace)


@pytest.fixture(autouse=True)
def connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close at the end what the writers opened; a driver leaves that to the end of its process."""
    opened: list[RDBStorage] = []

    def remembered(url: str, *, durable: bool) -> RDBStorage:
        opened.append(open_storage(url, durable=durable))
        return opened[-1]

    monkeypatch.setattr(studies, "open_storage", remembered)
    yield
    for storage in opened:
        storage.engine.dispose()


@contextmanager
def journal_of(folder: JobFolder, share: float) -> Iterator[None]:
    """Hide the end of the journal for a while: the job has not got that far yet."""
    whole = folder.journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    folder.journal.write_bytes(b"".join(lines[: int(share * len(lines))]))
    try:
        yield
    finally:
        with folder.journal.open("ab") as file:
            file.write(whole[file.tell() :])


def values(folder: JobFolder, url: str) -> dict[str, list[float | None]]:
    """The value of each complete trial in the database, by arm."""
    storage = open_storage(url)
    try:
        found = {arm: optuna.load_study(study_name=f"{folder.id}/{arm}", storage=storage).trials for arm in ARMS}
    finally:
        storage.engine.dispose()
    return {arm: [t.value for t in trials if t.state == TrialState.COMPLETE] for arm, trials in found.items()}


EXPECTED = {arm: [0.2 + number / 100 for number in range(TRIALS)] for arm in ARMS}


def wait_for_problem(writer: StudyWriter, problem: str) -> None:
    deadline = time.monotonic() + 60
    while problem not in str(writer.follower.problem):
        assert time.monotonic() < deadline, f"waited too long; the problem is {writer.follower.problem}"
        time.sleep(0.05)


@pytest.mark.usefixtures("impatient")
def test_a_new_job_fails_at_once_and_a_job_that_has_begun_gets_its_studies_when_the_database_is_back(
    postgres: Postgres, url: str, folder: JobFolder
) -> None:
    postgres.stop()
    begun = time.monotonic()
    writer = StudyWriter(folder, url, durable=True)
    with pytest.raises(ServiceError, match="cannot open the studies' database"):
        writer.open()
    assert time.monotonic() - begun < 5
    writer.follower.start()
    wait_for_problem(writer, "cannot open the studies' database")
    coming = threading.Timer(3, postgres.start)
    coming.start()
    wait_for_problem(writer, "None")
    coming.join()
    writer.follower.drain()
    assert writer.follower.problem is None
    assert values(folder, url) == EXPECTED


@pytest.mark.usefixtures("impatient")
def test_a_database_that_is_stopped_abruptly_while_it_is_written_has_everything_once_it_is_back(
    postgres: Postgres, url: str, folder: JobFolder
) -> None:
    writer = StudyWriter(folder, url, durable=True)
    with journal_of(folder, 0.5):
        writer.send()
        postgres.stop()
    writer.follower.start()
    wait_for_problem(writer, "the studies' database")
    postgres.start()
    writer.follower.drain()
    assert writer.follower.problem is None
    assert values(folder, url) == EXPECTED


@pytest.mark.usefixtures("impatient")
def test_a_job_does_not_wait_long_for_studies_that_stay_down_and_a_later_writer_writes_them(
    postgres: Postgres, url: str, folder: JobFolder
) -> None:
    postgres.stop()
    writer = StudyWriter(folder, url, durable=True)
    writer.follower.start()
    wait_for_problem(writer, "cannot open the studies' database")
    started = time.monotonic()
    writer.follower.drain()
    assert time.monotonic() - started < 4 * SHORT_S
    assert "cannot open the studies' database" in str(writer.follower.problem)
    postgres.start()
    StudyWriter(folder, url, durable=True).send()
    assert values(folder, url) == EXPECTED


def test_a_study_that_is_deleted_while_the_job_runs_is_written_again(url: str, folder: JobFolder) -> None:
    writer = StudyWriter(folder, url, durable=True)
    with journal_of(folder, 0.5):
        writer.send()
        storage = open_storage(url)
        optuna.delete_study(study_name=f"{folder.id}/noam", storage=storage)
        storage.engine.dispose()
    writer.send()
    assert values(folder, url) == EXPECTED


@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
def test_two_writers_at_once_write_each_trial_once(
    kind: str, request: pytest.FixtureRequest, folder: JobFolder, tmp_path: Path
) -> None:
    url = request.getfixturevalue("url") if kind == "postgres" else f"sqlite:///{tmp_path}/studies.db"
    writers = [StudyWriter(folder, url, durable=True) for _ in range(4)]
    with journal_of(folder, 0.3):
        for writer in writers:
            writer.send()
    with ThreadPoolExecutor(len(writers)) as pool:
        for sent in [pool.submit(writer.send) for writer in writers]:
            sent.result()
    storage = open_storage(url)
    with storage.engine.connect() as connection:
        rows = connection.execute(text("SELECT study_id, number FROM trials")).all()
    storage.engine.dispose()
    assert len(rows) == len(set(rows)) == len(ARMS) * TRIALS
    assert values(folder, url) == EXPECTED


def test_the_message_names_a_database_that_goes_down_while_it_is_opened(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def goes_down(*args: object, **kwargs: object) -> None:
        # Optuna raises this if the connection breaks during a commit.
        raise optuna.exceptions.StorageInternalError("An exception is raised during the commit.")

    monkeypatch.setattr(RDBStorage, "__init__", goes_down)
    with pytest.raises(ServiceError, match="cannot open the studies' database"):
        open_storage(url)
