"""The studies' database: it follows the journal, however it fails, and Optuna reads it as its own."""

import math
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import cache, wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from tests.tuner.whole_jobs import ROOT
from tuner.errors import ServiceError
from tuner.jobs.job_folder import JobFolder
from tuner.search.distributions import from_search
from tuner.search.study_database import StudyWriter, open_storage, set_aside_if_damaged
from tuner.storage.events import Entry, State
from tuner.storage.journal import encode

ARMS = ("adam_l2", "noam")
ENDS = (State.COMPLETE, State.PRUNED, State.DIVERGED, State.FAILED, State.OOM)


@cache
def empty_database() -> bytes:
    """A studies' database with its tables. To make them takes as long as a search."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "studies.db"
        open_storage(f"sqlite:///{path}").engine.dispose()
        return path.read_bytes()


def searched() -> History:
    """Two arms with a trial that ended in each way, and one that still runs."""
    history = History(spec_of())
    for number, state in enumerate((*ENDS, None)):
        for arm in ARMS:
            history.trial(arm, number, [0.1, 0.2 + number / 100], state)
    return history


class World:
    """A job's folder with its journal, and the studies' database."""

    def __init__(self, folder: Path, database: bytes | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = JobFolder(folder)
        self.database = folder / "studies.db"
        self.database.write_bytes(empty_database() if database is None else database)
        self._written: list[Entry] = []

    @property
    def url(self) -> str:
        return f"sqlite:///{self.database}"

    def write(self, history: History, count: int | None = None) -> None:
        """Let the journal have the first events of a history."""
        self._written = history.entries[:count]
        self.folder.journal.write_bytes(b"".join(map(encode, self._written)))

    def writer(self) -> StudyWriter:
        return StudyWriter(self.folder, self.url, durable=False)

    def send(self) -> None:
        self.writer().send()

    def storage(self) -> RDBStorage:
        return open_storage(self.url, durable=False)

    def seen(self) -> dict[str, list[tuple[Any, ...]]]:
        """Each arm's trials, as Optuna reads them."""
        history = History(spec_of())
        storage = self.storage()
        try:
            return {
                arm: [
                    (
                        t.number,
                        t.state,
                        t.value,
                        dict(t.intermediate_values),
                        from_search(history.arms[arm].space, t.params),
                    )
                    for t in optuna.load_study(study_name=f"{self.folder.id}/{arm}", storage=storage).trials
                ]
                for arm in ARMS
            }
        finally:
            storage.engine.dispose()

    def ids(self) -> list[int]:
        """The database's own numbers of the studies."""
        storage = self.storage()
        try:
            return [storage.get_study_id_from_name(f"{self.folder.id}/{arm}") for arm in ARMS]
        finally:
            storage.engine.dispose()


def expected(history: History) -> dict[str, list[tuple[Any, ...]]]:
    """What the tables must hold, worked out from the record."""
    states = {State.COMPLETE: TrialState.COMPLETE, State.PRUNED: TrialState.PRUNED, State.RUNNING: TrialState.RUNNING}
    found: dict[str, list[tuple[Any, ...]]] = {arm: [] for arm in ARMS}
    for trial in history.record().trials.values():
        useful = trial.state in (State.COMPLETE, State.PRUNED)
        values = {epoch.epoch: epoch.metric("val_acc") for epoch in trial.epochs} if useful else {}
        value = values[max(values)] if values else None
        found[trial.arm].append(
            (trial.number, states.get(trial.state, TrialState.FAIL), value, values, pytest.approx(dict(trial.knobs)))
        )
    return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "job-1")


def test_the_tables_hold_what_the_journal_says(world: World) -> None:
    history = searched()
    world.write(history)
    world.send()
    assert world.seen() == expected(history)


def test_the_tables_follow_the_journal_as_it_grows(world: World) -> None:
    history, writer = searched(), world.writer()
    writer.send()
    for count in range(1, len(history.entries) + 1, 5):
        world.write(history, count)
        writer.send()
    world.write(history)
    writer.send()
    writer.send()
    assert world.seen() == expected(history)


def test_a_new_writer_keeps_the_studies_that_agree_and_writes_what_they_lack(world: World) -> None:
    history = searched()
    world.write(history, 40)
    world.send()
    before = world.ids()
    world.write(history)
    world.send()
    assert (world.ids(), world.seen()) == (before, expected(history))


def test_confirm_runs_are_no_trials_of_a_study(world: World) -> None:
    history = searched()
    before = expected(history)
    history.confirm(1, dict.fromkeys(ARMS, 0), {arm: {7: 0.5} for arm in ARMS})
    world.write(history)
    world.send()
    assert world.seen() == before


def lose_the_studies(connection: sqlite3.Connection) -> None:
    for table in ("trial_params", "trial_values", "trial_intermediate_values", "trials", "study_directions", "studies"):
        connection.execute(f"DELETE FROM {table}")


def lose_a_trial(connection: sqlite3.Connection) -> None:
    for table in ("trial_params", "trial_values", "trial_intermediate_values", "trials"):
        connection.execute(f"DELETE FROM {table} WHERE trial_id = 3")


def lose_a_trials_knobs(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM trial_params WHERE trial_id = 2")


def add_a_trial(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO trials (number, study_id, state) SELECT 99, study_id, 'RUNNING' FROM studies")


def alter_a_knob(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE trial_params SET param_value = param_value * 1.5 WHERE param_name = 'lr'")


def alter_a_value(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE trial_values SET value = 0.99")


def alter_a_state(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE trials SET state = 'FAIL' WHERE state = 'PRUNED'")


@pytest.mark.parametrize(
    "befalls",
    [lose_the_studies, lose_a_trial, lose_a_trials_knobs, add_a_trial, alter_a_knob, alter_a_value, alter_a_state],
)
def test_a_study_that_does_not_agree_is_written_again(
    world: World, befalls: Callable[[sqlite3.Connection], None]
) -> None:
    history = searched()
    world.write(history)
    world.send()
    with closing(sqlite3.connect(world.database)) as connection:
        befalls(connection)
        connection.commit()
    world.send()
    assert world.seen() == expected(history)


class Breaks:
    """Lets the connection to a database break, before or after the call to it that ``left`` counts to took effect."""

    def __init__(self, storage: RDBStorage, after: bool) -> None:
        self.left = -1
        self._after = after
        dialect = storage.engine.dialect
        for name in ("do_execute", "do_executemany", "do_commit"):
            setattr(dialect, name, self._breaking(getattr(dialect, name)))

    def _breaking(self, call: Callable[..., None]) -> Callable[..., None]:
        @wraps(call)
        def breaking(*args: Any, **kwargs: Any) -> None:
            self.left -= 1
            if self.left != -1 or self._after:
                call(*args, **kwargs)
            if self.left == -1:
                raise sqlite3.OperationalError("the connection is gone")

        return breaking


@pytest.mark.parametrize("after", [False, True])
def test_a_connection_that_breaks_once_loses_no_trial_and_writes_none_twice(tmp_path: Path, after: bool) -> None:
    history = searched()
    for fails in range(200):
        world = World(tmp_path / str(fails) / "job-1")
        world.write(history)
        writer = world.writer()
        writer.open()
        assert writer._storage is not None
        breaks = Breaks(writer._storage, after)
        breaks.left = fails
        broke = False
        try:
            writer.send()
        except ServiceError:
            broke = True
            writer.send()
        breaks.left = -1
        assert world.seen() == expected(history)
        if not broke:
            break
    assert 5 < fails < 199


def test_an_unreachable_database_is_named_in_one_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write(searched())
    writer = world.writer()
    writer.open()
    assert writer._storage is not None

    def do_execute(*args: Any) -> None:
        raise sqlite3.OperationalError("could not connect\nto server")

    monkeypatch.setattr(writer._storage.engine.dialect, "do_execute", do_execute)
    monkeypatch.setattr(writer._storage.engine.dialect, "do_executemany", do_execute)
    with pytest.raises(ServiceError, match=r"cannot be used: .*could not connect$") as caught:
        writer.send()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:s3cret@127.0.0.1:1/studies",
        "nosuchdb://me:s3cret@127.0.0.1:1/studies",
        "sqlite:////no/such/folder/studies.db",
        "no url at all",
    ],
)
def test_a_storage_that_cannot_be_opened_is_named_without_its_password(url: str) -> None:
    with pytest.raises(ServiceError, match="cannot open the studies' database") as caught:
        open_storage(url)
    message = str(caught.value)
    assert "s3cret" not in message
    assert url.rpartition("@")[2] in message
    assert "\n" not in message


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "studies.db"
    file.write_text("not a database, but long enough to be taken for one " * 20)
    with pytest.raises(ServiceError, match=r"studies\.db"):
        open_storage(f"sqlite:///{file}")


def test_optuna_reads_the_tables_as_if_it_had_written_them(world: World) -> None:
    history = History(spec_of())
    for number, values in enumerate(([0.1, -math.inf], [math.inf, 0.25], [0.5])):
        for arm in ARMS:
            history.trial(arm, number, values)
    world.write(history)
    world.send()
    storage = world.storage()
    for arm in ARMS:
        ours = optuna.load_study(study_name=f"{world.folder.id}/{arm}", storage=storage)
        theirs = optuna.create_study(study_name=f"copy/{arm}", storage=storage, direction="maximize")
        theirs.add_trials(ours.trials)
        copied = [
            (t.number, t.state, t.params, t.distributions, t.values, t.intermediate_values) for t in theirs.trials
        ]
        assert copied == [
            (t.number, t.state, t.params, t.distributions, t.values, t.intermediate_values) for t in ours.trials
        ]
        assert ours.direction == theirs.direction
    storage.engine.dispose()


WRITES_FOR_EVER = """
import sys
from pathlib import Path
from tests.tuner.events import History
from tests.tuner.search.test_study_database import World
from tests.tuner.spec_texts import spec_of
world = World(Path(sys.argv[1]), Path(sys.argv[2]).read_bytes())
history, writer = History(spec_of()), world.writer()
print("ready", flush=True)
for number in range(10**6):
    history.trial("noam", number, [0.1])
    world.write(history)
    writer.send()
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_database(tmp_path: Path) -> None:
    chance, start = random.Random(0), tmp_path / "start.db"
    start.write_bytes(empty_database())
    for attempt in range(4):
        folder = tmp_path / str(attempt) / "job-1"
        with subprocess.Popen(
            [sys.executable, "-c", WRITES_FOR_EVER, str(folder), str(start)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            for _ in range(3):
                process.stdout.readline()
            time.sleep(chance.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            process.stdout.read()
        database = folder / "studies.db"
        assert set_aside_if_damaged(database) is None
        with closing(sqlite3.connect(database)) as connection:
            numbers = [row[0] for row in connection.execute("SELECT number FROM trials ORDER BY number")]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= 2


@pytest.mark.parametrize(("durable", "synchronous"), [(True, 2), (False, 0)])
def test_only_a_file_that_can_be_written_again_does_not_wait_for_the_disk(
    tmp_path: Path, durable: bool, synchronous: int
) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'studies.db'}", durable=durable)
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == synchronous
    storage.engine.dispose()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A studies' database with all that ``searched`` has."""
    world = World(tmp_path_factory.mktemp("whole") / "job-1")
    world.write(searched())
    writer = world.writer()
    writer.send()
    assert writer._storage is not None
    writer._storage.engine.dispose()
    return world.database.read_bytes()


def flip(whole: bytes, seed: int) -> bytes:
    """One byte that is in use, changed."""
    rng = random.Random(seed)
    used = [at for at, byte in enumerate(whole) if byte]
    at = rng.choice(used)
    return whole[:at] + bytes([whole[at] ^ rng.randrange(1, 256)]) + whole[at + 1 :]


def zero_a_page(whole: bytes, seed: int) -> bytes:
    """A page of zeros."""
    page = 4096 * random.Random(seed).randrange(len(whole) // 4096)
    return whole[:page] + bytes(4096) + whole[page + 4096 :]


def spoil_the_schema(whole: bytes, seed: int) -> bytes:
    """Text that is none, where SQLite does not look for it and SQLAlchemy does."""
    at = [found.start() for found in re.finditer(rb"VARCHAR\(|FLOAT|INTEGER NOT NULL", whole)][seed]
    return whole[: at + 3] + b"\xff" + whole[at + 4 :]


@pytest.mark.parametrize("damage", [flip, zero_a_page, spoil_the_schema])
@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_database_is_set_aside_or_does_no_harm(
    tmp_path: Path, database: bytes, damage: Callable[[bytes, int], bytes], seed: int
) -> None:
    world, history = World(tmp_path / "job-1", damaged := damage(database, seed)), searched()
    world.write(history)
    aside = set_aside_if_damaged(world.database)
    if aside is not None:
        assert (aside, aside.read_bytes()) == (world.database.with_name("studies.db.damaged-1"), damaged)
        assert not world.database.exists()
    world.send()
    assert world.seen() == expected(history)


def test_a_whole_database_is_left_where_it_is(tmp_path: Path, database: bytes) -> None:
    path = tmp_path / "studies.db"
    assert set_aside_if_damaged(path) is None
    path.write_bytes(b"")
    assert set_aside_if_damaged(path) is None
    path.write_bytes(database)
    assert set_aside_if_damaged(path) is None
    assert path.read_bytes() == database


def test_a_database_that_another_process_writes_to_is_not_damaged(tmp_path: Path, database: bytes) -> None:
    path = tmp_path / "studies.db"
    path.write_bytes(database)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert set_aside_if_damaged(path) is None
    assert path.exists()


def test_what_was_set_aside_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "studies.db"
    for number in (1, 2, 3):
        path.write_text(f"no database, for the {number}th time " * 100)
        assert set_aside_if_damaged(path) == tmp_path / f"studies.db.damaged-{number}"


OPEN = """\
import sys, time
from pathlib import Path
from tuner.search.study_database import open_storage
Path(sys.argv[2], sys.argv[3]).touch()
while not Path(sys.argv[2], "go").exists():
    pass
open_storage(sys.argv[1])
"""


def test_jobs_that_open_a_new_database_at_once_all_get_it(tmp_path: Path) -> None:
    jobs = 4
    url, environment = f"sqlite:///{tmp_path}/studies.db", {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", OPEN, url, str(tmp_path)]
    opening = [
        subprocess.Popen([*command, str(job)], env=environment, stderr=subprocess.PIPE, text=True)
        for job in range(jobs)
    ]
    while not all((tmp_path / str(job)).exists() or opening[job].poll() is not None for job in range(jobs)):
        time.sleep(0.01)
    (tmp_path / "go").touch()
    errors = [process.communicate()[1] for process in opening]
    assert [(process.returncode, error) for process, error in zip(opening, errors, strict=True)] == [(0, "")] * jobs
