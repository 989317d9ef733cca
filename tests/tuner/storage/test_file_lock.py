"""The lease: one process holds it, the others can tell which, and death gives it back."""

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tuner.whole_jobs import ROOT
from tuner.errors import ServiceError, SpecError
from tuner.storage.file_lock import LockOwner, lock_owner, locked

# Says that it is ready, waits for a line, tries to hold, says how that went, and holds on until its input ends.
PROGRAM = """\
import sys
from pathlib import Path
from tuner.errors import SpecError
from tuner.storage.file_lock import locked
print("ready", flush=True)
sys.stdin.readline()
try:
    with locked(Path(sys.argv[1]), "job-1"):
        print("held", flush=True)
        {body}
        sys.stdin.read()
except SpecError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


class Process:
    """A process of the program."""

    def __init__(self, program: Path, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(program), str(path)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def says(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        self.process.communicate()
        return self.process.returncode


@contextlib.contextmanager
def processes(path: Path, count: int = 1, body: str = "pass") -> Iterator[list[Process]]:
    program = path.with_name("tuner-run")
    program.write_text(PROGRAM.format(body=body))
    started: list[Process] = []
    try:
        for _ in range(count):
            started.append(Process(program, path))
        assert {process.says() for process in started} == {"ready"}
        for process in started:
            process.go()
        yield started
    finally:
        for process in started:
            process.kill()
            process.end()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lease"


def test_a_lease_that_is_held_names_its_holder_and_is_free_again_after(path: Path) -> None:
    assert lock_owner(path) is None
    with locked(path, "job-1"):
        found = lock_owner(path)
        assert found
        assert (found.pid, found.host) == (os.getpid(), os.uname().nodename)
        with pytest.raises(SpecError, match=f"^job job-1 is held by pid {os.getpid()} on host "), locked(path, "job-1"):
            pass
        assert lock_owner(path) == found
    assert lock_owner(path) is None
    with locked(path, "job-1"):
        pass


def test_a_holder_reads_as_a_clause() -> None:
    found = LockOwner("h", 123, "tuner run s.yaml", "2026-11-24T12:03:04+01:00")
    assert str(found) == "pid 123 on host h since 2026-11-24 12:03:04 (tuner run s.yaml)"


def test_of_twenty_at_once_one_wins_and_the_others_name_it(path: Path) -> None:
    with processes(path, 20) as racing:
        said = {process.process.pid: process.says() for process in racing}
        won = [pid for pid, text in said.items() if text == "held"]
        assert len(won) == 1
        lost = [text for pid, text in said.items() if pid not in won]
        assert all(text.startswith(f"job job-1 is held by pid {won[0]} on host ") for text in lost)
        assert all(text.endswith(f"(tuner-run {path}); stop it there, or: tuner stop job-1") for text in lost)
        assert sorted(process.end() for process in racing) == [0] + [2] * 19
    assert lock_owner(path) is None


def test_the_death_of_its_holder_frees_it_at_once(path: Path) -> None:
    for _ in range(5):
        with processes(path) as (process,):
            assert process.says() == "held"
            found = lock_owner(path)
            assert found
            assert found.pid == process.process.pid
            process.kill()
            assert lock_owner(path) is None
            with locked(path, "job-1"):
                pass


def test_a_program_that_a_dead_holder_started_does_not_hold_on(path: Path) -> None:
    sleep = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdin=-3, stdout=-3).pid, flush=True)"
    with processes(path, body=sleep) as (process,):
        assert process.says() == "held"
        child = int(process.says())
        try:
            process.kill()
            os.kill(child, 0)
            assert lock_owner(path) is None
        finally:
            os.kill(child, 9)


def test_a_holder_that_lets_go_frees_it_though_a_forked_child_lives(path: Path) -> None:
    fork = """
        import os, time
        child = os.fork()
        if child == 0:
            os.close(1)
            time.sleep(60)
            os._exit(0)
        print(child, flush=True)"""
    with processes(path, body=fork) as (process,):
        assert process.says() == "held"
        child = int(process.says())
        try:
            assert process.end() == 0
            os.kill(child, 0)
            assert lock_owner(path) is None
        finally:
            os.kill(child, 9)


@pytest.mark.parametrize("pid", [os.getpid(), 1, 0], ids=["ours", "1", "0"])
def test_what_a_dead_holder_left_is_no_hindrance_whoever_has_its_pid_now(path: Path, pid: int) -> None:
    path.write_text(f'{{"host": "h", "pid": {pid}, "command": "tuner run", "since": "2026-11-24T12:03:04+00:00"}}')
    assert lock_owner(path) is None
    with locked(path, "job-1"):
        found = lock_owner(path)
        assert found
        assert found.pid == os.getpid()


@pytest.mark.parametrize("content", [b"", b'{"host": "h", "pi', b"\xff\x00", b"[]", b"7", b'{"pid": 3}'])
def test_a_holder_that_has_not_said_its_name_is_an_unknown_one(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert str(lock_owner(path)) == "a process that has not yet said its name"
        with pytest.raises(SpecError, match="held by a process that has not yet said its name"), locked(path, "job-1"):
            pass


def test_those_who_look_do_not_keep_anyone_from_holding_it(path: Path) -> None:
    path.touch()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            lock_owner(path)

    lookers = [threading.Thread(target=look) for _ in range(4)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(50):
            with locked(path, "job-1"):
                pass
    finally:
        over.set()
        for looker in lookers:
            looker.join()


def test_a_beat_touches_the_file_but_not_every_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(path, "job-1") as lock:
        os.utime(path, (0, 0))
        lock.beat()
        assert path.stat().st_mtime == 0
        monkeypatch.setattr("tuner.storage.file_lock.BEAT_S", 0.05)
        time.sleep(0.06)
        lock.beat()
        assert path.stat().st_mtime == pytest.approx(time.time(), abs=10)
        os.utime(path, (0, 0))
        lock.beat()
        assert path.stat().st_mtime == 0


def test_a_file_that_cannot_be_made_is_a_storage_error(path: Path) -> None:
    with pytest.raises(ServiceError, match="none/lease: cannot be opened"), locked(path.parent / "none" / "lease", "j"):
        pass
