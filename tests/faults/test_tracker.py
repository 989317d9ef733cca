"""Trackers that die, freeze and come back, and writers that die at any moment.

Afterwards each trial has exactly one run, and each step has exactly one row.
"""

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.faults.services import MlflowServer, Postgres, free_port, running
from tests.tuner.small_journals import Told, due, held
from tests.tuner.spec_texts import spec_of
from tuner.errors import ServiceError
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.workspace import Workspace
from tuner.search.study_database import open_storage
from tuner.spec.settings import MOST_EXPERIMENT_NAME
from tuner.tracking import background_sync
from tuner.tracking import client as tracking_client
from tuner.tracking import writer as tracking_writer
from tuner.tracking.background_sync import BackgroundSync
from tuner.tracking.client import connect as client_with_checks
from tuner.tracking.run_layout import job_run
from tuner.tracking.server_check import check_tracker
from tuner.tracking.writer import Writer

# mlflow triggers deprecation warnings of SQLAlchemy, which we cannot fix.
pytestmark = pytest.mark.filterwarnings("ignore")

SHORT_S = 2.0


class Died(Exception):
    """Simulates the death of the process."""


class Mortal:
    """A client whose nth call takes effect, and then raises an error.

    If the error stands for the death of the process, this also covers a death just before the next call.
    """

    def __init__(self, client: Any, nth: int, error: Exception) -> None:
        self._client = client
        self._left = nth
        self._error = error

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._client, name)

        def mortal(*args: Any, **kwargs: Any) -> Any:
            answer = call(*args, **kwargs)
            self._left -= 1
            if self._left == 0:
                raise self._error
            return answer

        return mortal


def begins(told: Told) -> None:
    told.job()
    told.trial("search/noam/0")
    told.epochs("search/noam/0", 1, 2)
    told.trial("search/adam_l2/0")


def is_interrupted(told: Told) -> None:
    told.epochs("search/adam_l2/0", 1, 3)
    told.epochs("search/noam/0", 3, 4)
    told.end("search/noam/0")
    told.state("interrupted")


def goes_on(told: Told) -> None:
    told.state("running")
    told.attempt("search/adam_l2/0", 2, 3)
    told.epochs("search/adam_l2/0", 4, 5, attempt=2)
    told.end("search/adam_l2/0", "oom", "out of memory")
    told.trial("confirm/noam/0")
    told.epochs("confirm/noam/0", 1, 2)


def finishes(told: Told) -> None:
    told.end("confirm/noam/0", test_acc=0.5)
    told.state("finished")


STRETCHES = (begins, is_interrupted, goes_on, finishes)
"""A complete job in four parts. A thread that reads the journal can find it at the end of each part."""


# A worker may come back to this module, and the database exists only once.
@pytest.fixture(scope="session")
def store(session_postgres: Postgres) -> str:
    """A database for runs that is used without an MLflow server."""
    return session_postgres.create("kept")


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = replace(background_sync.PACE, pause_s=0.05, beat_s=0.05, longest_retry_s=0.5)
    monkeypatch.setattr(background_sync, "PACE", pace)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = replace(background_sync.PACE, give_up_s=SHORT_S, patience_s=3 * SHORT_S)
    monkeypatch.setattr(background_sync, "PACE", pace)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


def start_sender(told: Told, uri: str, monkeypatch: pytest.MonkeyPatch) -> BackgroundSync:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    sender = BackgroundSync(spec_of(), Workspace(told.folder.path.parent), told.folder)
    sender.follower.start()
    return sender


def send(folder: JobFolder, uri: str) -> None:
    Writer(folder, uri, "job", None).send()


def client_of(uri: str) -> Any:
    return MlflowClient(tracking_uri=uri)


def check(folder: JobFolder, uri: str) -> None:
    assert held(client_of(uri), folder) == due(folder)


@contextmanager
def reporting(told: Told, key: str, a_second: float = 20) -> Iterator[None]:
    """Report epochs of a trial from another thread, until the end of the ``with`` block."""
    ending = threading.Event()

    def report() -> None:
        epoch = 0
        while not ending.wait(1 / a_second):
            epoch += 1
            told.epochs(key, epoch, epoch)

    thread = threading.Thread(target=report)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def begun(folder: Path) -> Told:
    told = Told(folder)
    told.job()
    told.trial("search/noam/0")
    return told


def ended(told: Told, sender: BackgroundSync) -> None:
    told.end("search/noam/0")
    told.state("finished")
    sender.follower.drain()


def is_sent(told: Told) -> bool:
    return told.folder.tracked.exists()


def wait_for(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.mark.usefixtures("no_pause")
def test_a_server_that_is_killed_and_comes_back_gets_everything_once(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told = begun(tmp_path / "killed")
    sender = start_sender(told, mlflow_server.uri, monkeypatch)
    with reporting(told, "search/noam/0"):
        wait_for(lambda: is_sent(told))
        mlflow_server.stop()
        wait_for(lambda: f"{mlflow_server.uri} cannot be written: Connection refused" in str(sender.follower.problem))
        time.sleep(SHORT_S)
        mlflow_server.start()
        wait_for(lambda: sender.follower.problem is None)
    ended(told, sender)
    assert sender.follower.problem is None
    assert capfd.readouterr().out == ""
    check(told.folder, mlflow_server.uri)


@pytest.mark.usefixtures("no_pause")
def test_a_database_that_is_stopped_abruptly_and_comes_back_has_everything_once(
    postgres: Postgres, mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = begun(tmp_path / "stopped")
    sender = start_sender(told, mlflow_server.uri, monkeypatch)
    with reporting(told, "search/noam/0"):
        for _ in range(2):
            wait_for(lambda: is_sent(told) and sender.follower.problem is None)
            postgres.stop()
            wait_for(lambda: sender.follower.problem is not None)
            time.sleep(SHORT_S)
            postgres.start()
    ended(told, sender)
    assert sender.follower.problem is None
    check(told.folder, mlflow_server.uri)


@pytest.mark.usefixtures("no_pause", "impatient")
def test_a_server_that_finishes_an_abandoned_request_creates_no_second_run(
    postgres: Postgres, mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_run = MlflowClient.create_run
    made: list[str] = []
    database = postgres.connect("mlflow")

    def kept_waiting(client: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        if not made:
            # Reads still work. A client that checks whether the run exists does not find it.
            database.execute("begin; lock table runs in share mode")
            threading.Timer(2.5, database.close).start()
        made.append(kwargs["run_name"])
        return create_run(client, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_run", kept_waiting)
    told = begun(tmp_path / "twins")
    sender = start_sender(told, mlflow_server.uri, monkeypatch)
    wait_for(lambda: is_sent(told))
    assert made[:2] == ["twins", "twins"]
    ended(told, sender)
    assert sender.follower.problem is None
    check(told.folder, mlflow_server.uri)


@pytest.mark.usefixtures("no_pause", "impatient")
@pytest.mark.parametrize("how", ["down", "frozen"])
def test_a_job_does_not_wait_long_for_a_server_that_stays_down_and_a_later_writer_sends_the_job(
    how: str, mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = begun(tmp_path / f"never-{how}")
    uri = mlflow_server.uri
    if how == "down":
        uri = f"http://127.0.0.1:{free_port()}"
    else:
        mlflow_server.freeze()
    sender = start_sender(told, uri, monkeypatch)
    with reporting(told, "search/noam/0"):
        wait_for(lambda: sender.follower.problem is not None)
    started = time.monotonic()
    ended(told, sender)
    assert time.monotonic() - started < 4 * SHORT_S
    assert uri in str(sender.follower.problem)
    mlflow_server.thaw()
    send(told.folder, mlflow_server.uri)
    check(told.folder, mlflow_server.uri)


def test_the_error_of_a_server_that_refuses_its_host_name_names_the_needed_option(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **kwargs: asked("127.0.0.1" if host == "tracker.example" else host, *args, **kwargs),
    )
    told = begun(tmp_path / "named")
    uri = mlflow_server.uri.replace("127.0.0.1", "someone:hunter2@tracker.example")
    with pytest.raises(ServiceError, match=r"tracker\.example:.* refuses us \(403.*--allowed-hosts") as refused:
        send(told.folder, uri)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_database_that_is_down_is_reported_at_once_and_without_its_password(tmp_path: Path) -> None:
    told = begun(tmp_path / "refused")
    started = time.monotonic()
    with pytest.raises(ServiceError, match=r"\*\*\*@127\.0\.0\.1.*cannot be read: Connection refused"):
        send(told.folder, f"postgresql+psycopg://someone:hunter2@127.0.0.1:{free_port()}/mlflow")
    assert time.monotonic() - started < SHORT_S


def fails_once(store: str, folder: Path, nth: int, error: Exception) -> bool:
    """Write and send a job part by part, with an error in the nth call to the tracker.

    If the error is a death, a new writer continues. Otherwise the same writer tries again.

    Args:
        store: the database of the tracker.
        folder: the folder of the job.
        nth: number of the call that fails, from 1.
        error: the error that the call raises.

    Returns:
        Whether there were at least ``nth`` calls, so that one of them failed.
    """
    told = Told(folder)
    mortal = Mortal(client_of(store), nth, error)
    failed = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking_client, "MlflowClient", lambda tracking_uri: mortal)
        for stretch in STRETCHES:
            stretch(told)
            writer = Writer(told.folder, store, "job", None)
            try:
                writer.send()
            except ServiceError:
                failed = True
                writer.send()
            except Died:
                failed = True
                send(told.folder, store)
    check(told.folder, store)
    return failed


def die(*args: Any) -> None:
    raise Died


@pytest.mark.usefixtures("postgres")
@pytest.mark.parametrize("error", [Died(), ConnectionError("reset by peer")], ids=["dies", "fails"])
def test_a_writer_can_die_or_fail_at_any_call(store: str, tmp_path: Path, error: Exception) -> None:
    nth = 1
    while fails_once(store, tmp_path / f"{type(error).__name__}-{nth}", nth, error):
        nth += 1
    assert nth > 20


@pytest.mark.usefixtures("postgres")
def test_after_every_part_of_a_job_the_tracker_agrees_with_the_journal(store: str, tmp_path: Path) -> None:
    told = Told(tmp_path / "stretches")
    for stretch in STRETCHES:
        stretch(told)
        send(told.folder, store)
        check(told.folder, store)


@pytest.mark.usefixtures("postgres")
def test_a_writer_can_die_before_it_records_the_sent_events(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for nth in range(1, len(STRETCHES) + 1):
        told = Told(tmp_path / f"unnoted-{nth}")
        for number, stretch in enumerate(STRETCHES, start=1):
            stretch(told)
            if number == nth:
                monkeypatch.setattr(tracking_writer, "save", die)
                with pytest.raises(Died):
                    send(told.folder, store)
                monkeypatch.undo()
            send(told.folder, store)
        check(told.folder, store)


@pytest.mark.usefixtures("postgres")
@pytest.mark.parametrize("seed", range(8))
def test_a_step_has_one_row_after_damage_to_the_sync_state_or_the_end_of_the_journal(
    seed: int, store: str, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    told, notes = Told(tmp_path / f"chance-{seed}", now=lambda: 1e9), [b"", b"{", b"[]", b"null", b"\xff"]
    told.job()
    told.trial("search/noam/0")
    sent = epoch = 0
    for clock in range(2, 12):
        told.epochs("search/noam/0", epoch + 1, epoch := epoch + chance.randrange(4))
        for _ in range(chance.randrange(3)):
            send(told.folder, store)
            sent = max(sent, epoch)
            notes.append(told.folder.tracked.read_bytes())
        match chance.randrange(4):
            case 0:
                told.folder.tracked.unlink(missing_ok=True)
            case 1:
                note = chance.choice(notes)
                told.folder.tracked.write_bytes(note[: chance.randrange(len(note) + 1)])
            case 2:
                told.folder.tracked.write_bytes(chance.choice(notes))
            case 3:
                lines = told.folder.journal.read_bytes().splitlines(keepends=True)
                told.folder.journal.write_bytes(b"".join(lines[: chance.randrange(4, len(lines) + 1)]))
        told = Told(told.folder.path, now=partial(float, 1e9 * clock))
        epoch = max((step for step, _ in due(told.folder)["search/noam/0"].rows.get("train/loss", [])), default=0)
    told.epochs("search/noam/0", epoch + 1, sent + 1)
    told.end("search/noam/0")
    told.state("finished")
    send(told.folder, store)
    check(told.folder, store)


@pytest.mark.usefixtures("postgres")
def test_several_writers_of_the_same_journal_at_once_send_it_once(store: str, tmp_path: Path) -> None:
    told = Told(tmp_path / "several")
    for stretch in STRETCHES:
        stretch(told)
        threads = [threading.Thread(target=send, args=(told.folder, store)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    check(told.folder, store)


@pytest.mark.faults
def test_a_server_that_was_set_up_anew_at_its_address_gets_everything_again(postgres: Postgres, tmp_path: Path) -> None:
    stores = [postgres.create(f"anew_{number}_{time.time_ns()}") for number in (1, 2)]
    server = MlflowServer(stores[0], tmp_path / "server", postgres.env)
    told = begun(tmp_path / "anew")
    told.end("search/noam/0")
    told.state("finished")
    with running(server):
        writer = Writer(told.folder, server.uri, "job", None)
        writer.send()
        client_of(server.uri).create_experiment("kept for later")
        server.stop()
        server._command[server._command.index(stores[0])] = stores[1]
        server.start()
        # The experiment's number is somebody else's now.
        client_of(server.uri).create_experiment("of somebody else")
        writer.send()
        send(told.folder, server.uri)
        check(told.folder, server.uri)
        client = client_of(server.uri)
        assert client.search_runs([client.get_experiment_by_name("of somebody else").experiment_id]) == []


def test_an_experiment_that_was_deleted_on_a_server_is_named_before_a_job_starts(mlflow_server: MlflowServer) -> None:
    client, name = client_of(mlflow_server.uri), f"gone-{time.time_ns()}"
    check_tracker(mlflow_server.uri, name)
    number = client.create_experiment(name)
    check_tracker(mlflow_server.uri, name)
    client.delete_experiment(number)
    with pytest.raises(ServiceError, match=f"experiment '{name}' was deleted; .* --experiment-id {number}; or name"):
        check_tracker(mlflow_server.uri, name)
    client.restore_experiment(number)
    check_tracker(mlflow_server.uri, name)


def test_the_longest_name_of_an_experiment_and_long_options_are_kept_whole(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(tmp_path / "long")
    options = {f"option {number}/?": "x" * 900 for number in range(10)}
    monkeypatch.setattr(tracking_writer, "job_run", partial(with_options, options | {"essay": "y" * 6001}))
    told.job()
    name = f"{time.time_ns()}".ljust(MOST_EXPERIMENT_NAME, "x")
    writer = Writer(told.folder, mlflow_server.uri, name, None)
    writer.send()
    client = client_of(mlflow_server.uri)
    assert client.get_experiment_by_name(name) is not None
    params = client.get_run(writer.runs[""]).data.params
    assert {params[f"model.options.option {number}__"] for number in range(10)} == {"x" * 900}
    assert params["model.options.essay"] == "6001 characters; see spec.yaml among the artifacts"
    assert params["arms"] == '["adam_l2", "noam"]'


def with_options(options: dict[str, str], event: Any) -> Any:
    return job_run(replace(event, spec=event.spec | {"model": {"options": options}}))


def test_a_tracker_in_the_database_of_the_studies_is_refused(postgres: Postgres) -> None:
    url = postgres.create(f"shared_{time.time_ns()}")
    open_storage(url).engine.dispose()
    for refuse in (check_tracker, client_with_checks):
        with pytest.raises(ServiceError, match="is of a newer MLflow or of another program; name another database"):
            refuse(url)


@pytest.mark.slow
@pytest.mark.parametrize("away_s", [30, 120])
def test_a_server_can_be_down_for_long(
    away_s: float, mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = begun(tmp_path / f"long-{away_s}")
    sender = start_sender(told, mlflow_server.uri, monkeypatch)
    with reporting(told, "search/noam/0"):
        wait_for(lambda: is_sent(told))
        mlflow_server.stop()
        time.sleep(away_s)
        mlflow_server.start()
    ended(told, sender)
    assert sender.follower.problem is None
    check(told.folder, mlflow_server.uri)
