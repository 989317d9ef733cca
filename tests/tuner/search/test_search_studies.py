"""The studies of several searches per arm in the studies' database: one for each search, and a resumed writer."""

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.tuner.method_jobs import PLACEBO, TRIALS, Searches, method_spec
from tests.tuner.search.test_study_database import empty_database
from tuner.jobs.job_folder import JobFolder
from tuner.search.distributions import from_search
from tuner.search.study import study_name
from tuner.search.study_database import StudyWriter, open_storage, study_ids
from tuner.storage.events import State
from tuner.storage.journal import encode

SPEC = method_spec(PLACEBO)
ARMS = ("adam_l2", "noam", "adamw", "placebo")


class Database:
    """A job's journal, and the database that follows it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = JobFolder(folder)
        self.path = folder / "studies.db"
        self.path.write_bytes(empty_database())
        self.url = f"sqlite:///{self.path}"
        self._writers: list[StudyWriter] = []

    def write(self, history: Searches, count: int | None = None) -> None:
        """Let the journal have the first events of a history."""
        self.folder.journal.write_bytes(b"".join(map(encode, history.entries[:count])))

    def writer(self) -> StudyWriter:
        self._writers.append(StudyWriter(self.folder, self.url, durable=False))
        return self._writers[-1]

    def names(self) -> list[str]:
        storage = open_storage(self.url, durable=False)
        try:
            return sorted(study.study_name for study in storage.get_all_studies())
        finally:
            storage.engine.dispose()

    def trials(self, arm: str, search: int) -> list[FrozenTrial]:
        storage = open_storage(self.url, durable=False)
        try:
            return optuna.load_study(study_name=study_name(self.folder.id, arm, search), storage=storage).trials
        finally:
            storage.engine.dispose()

    def close(self) -> None:
        for writer in self._writers:
            if writer._storage is not None:
                writer._storage.engine.dispose()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "job-1")
    yield made
    made.close()


def history_of(searches: int) -> Searches:
    """Whole searches of all arms, each with other values, with a look after the third."""
    history = Searches(SPEC)
    for search in range(1, searches + 1):
        for place, arm in enumerate(ARMS):
            history.trials(arm, search, val=0.1 * place + search / 100)
            history.confirmed(arm, search, [0.7])
    return history


def check(database: Database, history: Searches) -> None:
    """Every search of an arm has a study of its own, with the trials of the journal and no others."""
    record = history.record()
    searches = {(trial.arm, trial.search) for trial in record.trials.values()}
    assert database.names() == sorted(f"job-1/{arm}/search-{search}" for arm, search in searches)
    for arm, search in searches:
        known = [trial for trial in record.trials.values() if trial.key.startswith(f"search/{arm}/{search}.")]
        stored = database.trials(arm, search)
        assert [trial.number for trial in stored] == [trial.number for trial in known]
        for ours, theirs in zip(known, stored, strict=True):
            assert from_search(history.arms[arm].space, theirs.params) == pytest.approx(dict(ours.knobs), rel=1e-12)
            assert theirs.state == (TrialState.COMPLETE if ours.state == State.COMPLETE else TrialState.RUNNING)
            assert theirs.value == (ours.epochs[-1].metric("val_acc") if ours.state == State.COMPLETE else None)


def test_every_search_of_an_arm_has_a_study_of_its_own(database: Database) -> None:
    history = history_of(3)
    database.write(history)
    database.writer().send()
    check(database, history)
    assert "job-1/noam/search-3" in database.names()
    assert len(database.names()) == 3 * len(ARMS)


def test_a_search_without_a_trial_has_no_study_yet(database: Database) -> None:
    history = Searches(SPEC)
    history.trials("noam", 1, (None,))
    database.write(history)
    database.writer().send()
    assert database.names() == ["job-1/noam/search-1"]


def test_the_studies_follow_the_journal_as_it_grows_over_searches(database: Database) -> None:
    history, writer = history_of(3), database.writer()
    for count in range(1, len(history.entries) + 1, 7):
        database.write(history, count)
        writer.send()
    database.write(history)
    writer.send()
    check(database, history)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_resumed_writer_keeps_the_studies_and_their_numbers(database: Database, share: float) -> None:
    history = history_of(3)
    database.write(history, int(share * len(history.entries)))
    database.writer().send()
    before = database.names()
    ids = study_ids(database.url, before)
    database.write(history)
    database.writer().send()
    check(database, history)
    assert len(before) >= 2
    assert study_ids(database.url, before) == ids


def test_a_study_that_says_otherwise_than_the_journal_is_written_again_and_the_others_stay(database: Database) -> None:
    database.write(history_of(2))
    database.writer().send()
    names = database.names()
    ids = study_ids(database.url, names)
    history = Searches(SPEC)
    for search in (1, 2):
        for place, arm in enumerate(ARMS):
            other = 0.3 if (arm, search) == ("noam", 2) else 0.0
            history.trials(arm, search, val=0.1 * place + search / 100 + other)
    database.write(history)
    database.writer().send()
    check(database, history)
    now = study_ids(database.url, names)
    assert [name for name in names if now[name] != ids[name]] == ["job-1/noam/search-2"]


def test_studies_that_were_deleted_are_written_again(database: Database) -> None:
    history, writer = history_of(2), database.writer()
    # The last trial of placebo's second search has not ended, and its confirm run has not begun.
    database.write(history, len(history.entries) - 6)
    writer.send()
    storage = open_storage(database.url, durable=False)
    optuna.delete_study(study_name="job-1/placebo/search-2", storage=storage)
    storage.engine.dispose()
    database.write(history)
    writer.send()
    assert len(database.trials("placebo", 2)) == TRIALS
    check(database, history)
