"""The workspace: jobs are created completely or not at all, found by their ids, listed in order, and forgotten."""

import errno
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from tuner.errors import IntegrityError, NotFound, ServiceError
from tuner.jobs import workspace as home_module
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.workspace import Workspace
from tuner.storage.atomic_files import write_atomically
from tuner.storage.file_lock import locked
from tuner.storage.journal import Journal

START: Mapping[str, Any] = {"spec": {"name": "job"}, "folder": "/code", "simulate": False}
TEXT = "name: job\n"


def made(home: Workspace, name: str = "job") -> JobFolder:
    return home.new_job(name, TEXT, START)


def begun_at(folder: JobFolder, ms: object) -> JobFolder:
    """The same job, as if it had been made at another time."""
    folder.start.write_text(json.dumps({**folder.started(), "ms": ms}))
    return folder


def written(folder: JobFolder, *states: str) -> JobFolder:
    """The same job, after these states."""
    history = History(spec_of(), folder.id)
    for state in states:
        history.add("state", state=state)
    with closing(Journal(folder.journal, durable=False)) as journal:
        for entry in history.entries:
            journal.append(entry.event)
    return folder


def test_a_new_job_is_complete(home: Workspace) -> None:
    folder = made(home)
    assert folder.spec.read_text() == TEXT
    assert {**START, "ms": folder.started()["ms"]} == folder.started()
    assert sorted(path.name for path in folder.path.iterdir()) == ["spec.yaml", "start.json"]
    assert list(home.jobs()) == [folder]


def test_an_incomplete_job_is_never_listed(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(path: Path, content: bytes) -> None:
        seen.append(list(home.jobs()))
        write_atomically(path, content)
        seen.append(list(home.jobs()))

    monkeypatch.setattr(home_module, "write_atomically", watched)
    made(home)
    assert seen == [[]] * 4


@pytest.mark.parametrize("writes", [0, 1])
def test_a_job_that_does_not_fit_on_the_disk_leaves_nothing(
    home: Workspace, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    left = iter(range(writes))

    def full(path: Path, content: bytes) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_atomically(path, content)

    monkeypatch.setattr(home_module, "write_atomically", full)
    with pytest.raises(ServiceError, match=f"cannot write to {home.path}: No space left on device"):
        made(home)
    assert [path.name for path in home.path.rglob("*")] == ["jobs"]


def test_a_job_whose_creator_died_is_not_listed(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    class Died(BaseException):
        pass

    def die(self: Path, target: Path) -> Path:
        raise Died

    with monkeypatch.context() as context:
        context.setattr(Path, "rename", die)
        with pytest.raises(Died):
            made(home)
    assert list(home.jobs()) == []
    assert [made(home)] == list(home.jobs())


def test_if_no_folder_can_be_created_the_error_names_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match=r"cannot write to .*file: Not a directory"):
        made(Workspace(tmp_path / "file"))


def test_an_id_is_not_used_twice(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["abcdef", "tmp1", "abcdef", "tmp2", "012345", "tmp3"])
    monkeypatch.setattr("secrets.token_hex", lambda size: next(drawn))
    assert [made(home).id for _ in range(2)] == ["job-abcdef", "job-012345"]


def test_jobs_created_at_the_same_time_are_all_listed(home: Workspace) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: made(home), range(40)))
    assert len({folder.id for folder in folders}) == 40
    assert {folder.id for folder in home.jobs()} == {folder.id for folder in folders}
    assert all(folder.started()["spec"] == START["spec"] for folder in folders)


def test_jobs_are_listed_in_the_order_of_their_creation(home: Workspace) -> None:
    for ms, name in ((3000, "a"), (1000, "b"), (2000, "c")):
        begun_at(made(home, name), ms)
    assert [folder.id[0] for folder in home.jobs()] == ["b", "c", "a"]
    assert home.job().id[0] == "a"


def test_without_jobs_the_error_names_the_command_that_starts_one(home: Workspace) -> None:
    assert list(home.jobs()) == []
    with pytest.raises(NotFound, match=r"no jobs in .*; start one with: tuner run SPEC"):
        home.job()


def test_a_job_is_found_by_its_id_or_by_a_unique_prefix(home: Workspace) -> None:
    first, second = made(home, "adam"), made(home, "adamw")
    assert (home.job(first.id), home.job(second.id), home.job("adamw")) == (first, second, second)
    with pytest.raises(NotFound, match=f"several begin so: {first.id}, {second.id}|{second.id}, {first.id}"):
        home.job("adam")
    with pytest.raises(NotFound, match=f"did you mean '{first.id}'"):
        home.job(f"{first.id[:-1]}x")


@pytest.mark.parametrize("job_id", ["", "..", "../jobs", "a/b", "-x", ".new"])
def test_text_that_is_no_id_finds_no_job(home: Workspace, job_id: str) -> None:
    made(home)
    with pytest.raises(NotFound):
        home.job(job_id)


def whole_start() -> dict[str, Any]:
    return {"ms": 1, **START}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[1, 2]",
        json.dumps(whole_start())[:-1].encode(),
        *(json.dumps({k: v for k, v in whole_start().items() if k != key}).encode() for key in whole_start()),
        *(json.dumps(whole_start() | {key: None}).encode() for key in whole_start()),
    ],
)
def test_a_damaged_beginning_is_named_and_hides_no_other_job(home: Workspace, content: bytes) -> None:
    damaged, whole = made(home, "damaged"), made(home, "whole")
    damaged.start.write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{damaged.start}: damaged"):
        damaged.started()
    assert list(home.jobs()) == [damaged, whole]
    assert home.job() == whole


def test_a_job_forgotten_during_the_listing_hides_no_other_job(
    home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, there = made(home), made(home)
    read_bytes = Path.read_bytes

    def forgotten_first(path: Path) -> bytes:
        if path == gone.start and path.exists():
            gone.forget()
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", forgotten_first)
    assert list(home.jobs())[-1] == there
    assert list(home.jobs()) == [there]


def test_a_forgotten_job_leaves_nothing(home: Workspace) -> None:
    first, second = made(home), made(home)
    first.forget()
    assert list(home.jobs()) == [second]
    second.forget()
    assert list(home.path.iterdir()) == []


def test_a_job_without_events_is_new(home: Workspace) -> None:
    folder = made(home)
    assert folder.state() == "new"
    with pytest.raises(NotFound, match=f"has done nothing yet; start it again with: tuner resume {folder.id}"):
        folder.record()
    Journal(folder.journal).close()
    assert folder.state() == "new"


@pytest.mark.parametrize(("last", "state"), [("running", "crashed"), ("finished", "finished"), ("failed", "failed")])
def test_a_running_job_that_no_process_holds_has_crashed(home: Workspace, last: str, state: str) -> None:
    folder = written(made(home), "running", last)
    assert folder.state() == state
    with locked(folder.lock_file, folder.id):
        assert folder.state() == last


def test_a_job_with_a_damaged_journal_has_the_state_damaged(home: Workspace) -> None:
    folder = written(made(home), "running", "finished")
    folder.journal.write_bytes(folder.journal.read_bytes().replace(b"finished", b"finishes"))
    assert folder.state() == "damaged"
    with pytest.raises(IntegrityError, match=str(folder.journal)):
        folder.record()


@pytest.mark.parametrize(
    ("given", "environment", "found"),
    [(None, None, "tuner-runs"), (None, "", "tuner-runs"), (None, "there", "there"), ("here", "there", "here")],
)
def test_the_flag_wins_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, environment: str | None, found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUNER_HOME", raising=False)
    if environment is not None:
        monkeypatch.setenv("TUNER_HOME", environment)
    assert Workspace.find(None if given is None else Path(given)).path == tmp_path / found
    assert list(tmp_path.iterdir()) == []
