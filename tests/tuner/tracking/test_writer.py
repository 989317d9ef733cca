"""The writer on a local store; what services do to it is in ``tests/faults/test_tracker.py``."""

import itertools
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_metric_name

from tests.tuner.small_journals import Told, due, held
from tuner.errors import IntegrityError, NotFound, ServiceError, Unreachable
from tuner.jobs.job_folder import JobFolder
from tuner.tracking.client import tracker_errors
from tuner.tracking.colours import colour
from tuner.tracking.run_layout import allowed
from tuner.tracking.sync_state import load, save
from tuner.tracking.writer import Writer

# mlflow and SQLAlchemy disagree about deprecations; that is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store that all tests here share: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def client(store: str) -> Any:
    """A client of the store."""
    return MlflowClient(tracking_uri=store)


@pytest.fixture
def told(tmp_path: Path, request: pytest.FixtureRequest) -> Told:
    """A job with two trials, one of them ended."""
    told = Told(tmp_path / request.node.originalname)
    told.job()
    for arm in ("noam", "adam_l2"):
        told.trial(f"search/{arm}/0")
        told.epochs(f"search/{arm}/0", 1, 3)
    told.end("search/noam/0", "failed", "a" * 6000)
    return told


def writer_of(folder: JobFolder, store: str) -> Writer:
    return Writer(folder, store, "job", folder.path.parent / "artifacts")


def finish(told: Told) -> None:
    told.epochs("search/adam_l2/0", 4, 4)
    told.end("search/adam_l2/0")
    told.state("finished")


def test_every_run_holds_what_it_is(told: Told, store: str, client: Any) -> None:
    writer = writer_of(told.folder, store)
    writer.send()
    parent, child = (client.get_run(writer.runs[key]) for key in ("", "search/noam/0"))
    assert (parent.info.run_name, child.info.run_name) == (told.folder.id, "noam-0")
    assert parent.data.params == {
        "name": "told",
        "budget.trials": "2",
        "metric.name": "val/acc",
        "metric.goal": "maximize",
        "arms": '["adam_l2", "noam"]',
        "versions.python": "3.11",
    }
    assert child.data.params == {"lr": "0.1", "l2": "0.0", "seed": "1"}
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["tuner.reason"] == "a" * 5000
    assert child.data.tags["mlflow.runColor"] == colour(1) != colour(0)
    shared = json.loads(
        client.get_experiment(parent.info.experiment_id).tags[f"mlflow.sharedViewState.{told.folder.id}"]
    )
    assert shared["searchFilter"] == f"tags.`tuner.job` = '{told.folder.id}'"
    assert {"metrics.`val/acc`", "params.`lr`", "tags.`tuner.state`"} <= set(shared["selectedColumns"])
    assert (child.info.status, parent.info.status) == ("FAILED", "RUNNING")


def test_a_run_that_was_thrown_away_does_not_hold_up_the_others(told: Told, store: str, client: Any) -> None:
    writer = writer_of(told.folder, store)
    writer.send()
    client.delete_run(writer.runs["search/noam/0"])
    told.attempt("search/noam/0", 2, 3)
    told.epochs("search/noam/0", 4, 4)
    finish(told)
    writer.send()
    expected = due(told.folder)
    del expected["search/noam/0"]
    assert held(client, told.folder) == expected


def test_runs_that_the_tracker_has_lost_are_made_again(told: Told, store: str, client: Any) -> None:
    writer_of(told.folder, store).send()
    note = load(told.folder.tracked)
    for run in note.runs.values():
        client.delete_run(run)
    save(told.folder.tracked, replace(note, runs=dict.fromkeys(note.runs, "0" * 32)))
    finish(told)
    writer_of(told.folder, store).send()
    assert held(client, told.folder) == due(told.folder)


def test_a_damaged_journal_is_named_and_what_stands_before_the_damage_is_sent(
    told: Told, store: str, client: Any
) -> None:
    whole = due(told.folder)
    with told.folder.journal.open("ab") as journal:
        journal.write(b"no event\n")
    for _ in range(2):
        with pytest.raises(IntegrityError, match=r"journal\.jsonl: line \d+"):
            writer_of(told.folder, store).send()
    assert held(client, told.folder) == whole


def test_a_run_that_was_told_more_than_the_journal_now_says_goes_on(told: Told, store: str, client: Any) -> None:
    kept = told.folder.journal.read_bytes()
    told.state("interrupted")
    writer_of(told.folder, store).send()
    told.folder.journal.write_bytes(kept)
    told.state("running")
    told.attempt("search/adam_l2/0", 2, 3)
    writer_of(told.folder, store).send()
    assert held(client, told.folder) == due(told.folder)


def test_what_a_damaged_journal_has_lost_and_was_told_gives_way_to_what_was_done_instead(
    told: Told, store: str, client: Any
) -> None:
    kept = told.folder.journal.read_bytes()
    for key, hyper in (("search/noam/1", {"lr": 0.2, "l2": 0.0}), ("search/noam/2", {"lr": 0.3, "l2": 0.0})):
        told.trial(key, hyper)
        told.epochs(key, 1, 4)
        told.end(key)
    writer_of(told.folder, store).send()
    told.folder.journal.write_bytes(kept)
    # What was asked for then was drawn from another history; the last was not asked for again.
    told.trial("search/noam/1", {"lr": 0.1, "l2": 0.5})
    told.epochs("search/noam/1", 1, 2)
    told.end("search/noam/1", "pruned")
    finish(told)
    writer = writer_of(told.folder, store)
    writer.send()
    assert held(client, told.folder) == due(told.folder)
    params = client.get_run(writer.runs["search/noam/1"]).data.params
    assert params == {"lr": "0.1", "l2": "0.5", "seed": "1"}


def test_a_long_trial_is_told_whole(told: Told, store: str, client: Any) -> None:
    told.trial("search/noam/1")
    told.epochs("search/noam/1", 1, 300)
    writer_of(told.folder, store).send()
    assert held(client, told.folder) == due(told.folder)


def test_the_numbers_of_an_own_trainable_keep_their_names(tmp_path: Path, store: str, client: Any) -> None:
    told = Told(tmp_path / "own_numbers")
    told.job({"choose": "eval/rmse", "judge": "test_rmse", "goal": "minimize"})
    wide = {f"layer.{number}": float(number) for number in range(900)}
    for key in ("search/noam/0", "confirm/noam/0"):
        told.trial(key, {"lr": 0.1, "seed": 5.0})
        for epoch in (1, 2):
            told.own_report(key, epoch, {"eval/rmse": 1 / epoch, "lr": 0.5, "a@b": 1.0, "epoch_seconds": 7.0, **wide})
    told.own_end("confirm/noam/0", {"test_rmse": 0.25})
    writer = writer_of(told.folder, store)
    writer.send()
    # What was sent is known by the metric that chooses, and by the judge: nothing is sent twice.
    save(told.folder.tracked, replace(load(told.folder.tracked), offset=0, start=0, n=-1, ms=0))
    writer_of(told.folder, store).send()
    searched, confirmed = (client.get_run(writer.runs[key]).data for key in ("search/noam/0", "confirm/noam/0"))
    names = {"eval/rmse", "lr", "epoch_seconds", allowed("a@b"), *wide}
    assert searched.metrics.keys() == names
    assert confirmed.metrics.keys() == names | {"test_rmse"}
    assert (confirmed.metrics["test_rmse"], searched.metrics["epoch_seconds"]) == (0.25, 7.0)
    assert searched.params == {"lr": "0.1", "seed": "5.0", "tuner.seed": "1"}
    for name in ("eval/rmse", "layer.899", "lr"):
        rows = client.get_metric_history(writer.runs["confirm/noam/0"], name)
        assert [row.step for row in rows] == [1, 2]
    parent = client.get_run(writer.runs[""])
    shared = json.loads(
        client.get_experiment(parent.info.experiment_id).tags[f"mlflow.sharedViewState.{told.folder.id}"]
    )
    assert shared["selectedColumns"][:2] == ["metrics.`eval/rmse`", "metrics.`test_rmse`"]
    assert (shared["orderByKey"], shared["orderByAsc"]) == ("metrics.`eval/rmse`", True)


@pytest.mark.parametrize("name", ["/a", "a//b", "../a", "a/..", ".", "a@b", "ü" * 300, "a\nb", "a\ud800"])
def test_a_name_that_the_tracker_refuses_is_changed_and_stays_its_own(name: str) -> None:
    assert allowed(name) not in (name, allowed(f"{name}@"))
    _validate_metric_name(allowed(name))  # type: ignore[no-untyped-call]
    assert allowed(allowed(name)) == allowed(name)


class Copy:
    """An empty store of its own, which may be removed. The path has another spelling for each client: MLflow keeps the
    connection of a URI, also to a file that is gone."""

    def __init__(self, empty: Path, folder: Path) -> None:
        self.file = folder / "mlflow.db"
        self._empty = empty
        self._spellings = itertools.count(100)
        self.set_up()

    def set_up(self) -> None:
        """Set the store up, anew if it is there."""
        self.file.unlink(missing_ok=True)
        shutil.copyfile(self._empty, self.file)

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.file}"

    def client(self) -> Any:
        """A client of the file that is at the path now."""
        return MlflowClient(tracking_uri=f"sqlite:///{'/.' * next(self._spellings)}{self.file}")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def own(empty: Path, tmp_path: Path) -> Copy:
    return Copy(empty, tmp_path)


def test_a_store_that_was_set_up_anew_after_everything_was_sent_gets_everything_again(told: Told, own: Copy) -> None:
    finish(told)
    writer = writer_of(told.folder, own.uri)
    writer.send()
    before = dict(writer.runs)
    own.set_up()
    again = writer_of(told.folder, f"sqlite:////.{own.file}")
    again.send()
    again.attach({"report.md": told.folder.journal}, "the report")
    assert held(own.client(), told.folder) == due(told.folder)
    assert set(again.runs.values()).isdisjoint(before.values())


@pytest.mark.parametrize("then", ["removed", "set up anew"])
def test_a_store_whose_file_goes_while_it_is_written_gets_everything_again(told: Told, own: Copy, then: str) -> None:
    writer = writer_of(told.folder, own.uri)
    for _ in range(2):
        writer.send()
        own.file.unlink() if then == "removed" else own.set_up()
        told.attempt("search/adam_l2/0", 2, 3)
    finish(told)
    writer.send()
    writer.attach({"report.md": told.folder.journal}, "the report")
    assert held(own.client(), told.folder) == due(told.folder)


def test_a_deleted_experiment_is_named_and_once_restored_has_everything(told: Told, own: Copy) -> None:
    writer = writer_of(told.folder, own.uri)
    writer.send()
    client, number = own.client(), load(told.folder.tracked).experiment
    client.delete_experiment(number)
    finish(told)
    for each in (writer, writer_of(told.folder, own.uri)):
        with pytest.raises(ServiceError, match="experiment 'job' was deleted; restore it with: ") as error:
            each.send()
        assert f"MLFLOW_TRACKING_URI={own.uri} mlflow experiments restore --experiment-id {number};" in str(error.value)
        assert not isinstance(error.value, Unreachable)
    client.restore_experiment(number)
    writer.send()
    assert held(client, told.folder) == due(told.folder)


def test_an_experiment_that_is_deleted_between_two_parts_loses_none(
    told: Told, own: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writer_of(told.folder, own.uri)
    writer.send()
    client, number = own.client(), load(told.folder.tracked).experiment
    told.epochs("search/adam_l2/0", 4, 4)
    # The check at the beginning has passed; the first call finds the experiment deleted.
    monkeypatch.setattr(writer, "_has_job_run", lambda: not client.delete_experiment(number))
    with pytest.raises(ServiceError, match="experiment 'job' was deleted"):
        writer.send()
    monkeypatch.undo()
    client.restore_experiment(number)
    writer.send()
    assert held(client, told.folder) == due(told.folder)


def test_a_deleted_parent_run_is_named(told: Told, own: Copy) -> None:
    writer = writer_of(told.folder, own.uri)
    writer.send()
    own.client().delete_run(writer.runs[""])
    with pytest.raises(ServiceError, match=f"mlflow runs restore --run-id {writer.runs['']}"):
        writer.send()
    own.client().restore_run(writer.runs[""])
    finish(told)
    writer.send()
    assert held(own.client(), told.folder) == due(told.folder)


def test_a_store_that_is_busy_may_take_it_later_and_one_with_other_tables_may_not(told: Told, own: Copy) -> None:
    writer = writer_of(told.folder, own.uri)
    writer.send()
    finish(told)
    with closing(sqlite3.connect(own.file)) as other:
        other.execute("drop table metrics")
        other.commit()
    with pytest.raises(ServiceError, match="no such table: metrics") as refused:
        writer.send()
    assert not isinstance(refused.value, Unreachable)
    with pytest.raises(Unreachable, match="cannot be written"):
        writer_of(told.folder, "http://127.0.0.1:9").send()


@pytest.mark.parametrize(("status", "passes"), [(403, False), (404, False), (413, False), (429, True), (502, True)])
def test_an_answer_of_a_server_that_stays_is_no_reason_to_wait(status: int, passes: bool) -> None:
    answer = requests.Response()
    answer.status_code = status
    with pytest.raises(ServiceError) as refused, tracker_errors("http://host"):
        answer.raise_for_status()
    assert isinstance(refused.value, Unreachable) == passes


class _Counting:
    """A client that counts searches for runs."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.searches = 0

    def __getattr__(self, name: str) -> Any:
        self.searches += name == "search_runs"
        return getattr(self._client, name)


def test_a_run_is_looked_for_only_where_another_may_have_made_it(told: Told, store: str, client: Any) -> None:
    ours, other = writer_of(told.folder, store), writer_of(told.folder, store)
    ours.send()
    ours._client = counting = _Counting(ours._client)
    told.trial("search/noam/1")
    ours.send()
    assert counting.searches == 0
    # Another sends what is new, and dies before it has noted that.
    note = told.folder.tracked.read_bytes()
    told.trial("search/noam/2")
    other.send()
    told.folder.tracked.write_bytes(note)
    writer_of(told.folder, store).send()
    assert held(client, told.folder) == due(told.folder)
    # Another has sent and noted what is new while ours is open.
    told.trial("search/noam/3")
    other.send()
    told.trial("search/noam/4")
    ours.send()
    assert held(client, told.folder) == due(told.folder)
    assert counting.searches > 0


def test_a_run_that_was_made_by_a_call_that_failed_is_not_made_again(
    told: Told, store: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writer_of(told.folder, store)
    writer.send()
    given_up = writer._client.create_run

    def create_run(*args: Any, **kwargs: Any) -> Any:
        given_up(*args, **kwargs)
        raise MlflowException("no answer")

    told.trial("search/noam/1")
    monkeypatch.setattr(writer._client, "create_run", create_run)
    with pytest.raises(ServiceError, match="no answer"):
        writer.send()
    monkeypatch.undo()
    writer.send()
    assert held(client, told.folder) == due(told.folder)


def test_a_job_that_was_never_begun_has_no_journal_to_send(tmp_path: Path, store: str) -> None:
    with pytest.raises(NotFound, match="no journal"):
        writer_of(JobFolder(tmp_path), store).send()
