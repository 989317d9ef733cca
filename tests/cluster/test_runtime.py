"""The embedded Ray."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.runtime import embedded_ray

SIGNALLED = """\
import os, signal, sys, threading, time
from pathlib import Path
import psutil
from cluster.runtime import embedded_ray
import ray

heard = []
signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))

def is_starting():
    return any("gcs_server" in child.name() for child in psutil.Process().children())

def send():
    while not is_starting():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)

@ray.remote
def answer():
    return 42

threading.Thread(target=send).start()
with embedded_ray(1, 0, Path(sys.argv[1])):
    print("starting:", len(heard))
    os.kill(os.getpid(), signal.SIGTERM)
    print("started:", len(heard), ray.get(answer.remote()))
os.kill(os.getpid(), signal.SIGTERM)
print("over:", len(heard), is_starting())
"""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder with a short name, which will hold Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="tr", dir="/tmp") as name:
        yield Path(name)


def test_a_signal_is_handled_while_ray_starts_while_it_runs_and_after_it(scratch: Path) -> None:
    command = [sys.executable, "-c", SIGNALLED, str(scratch)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "starting: 1\nstarted: 2 42\nover: 3 False\n", "")


def test_a_ray_that_does_not_start_in_time_is_reported(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def times_out(**options: object) -> None:
        # Ray raises this after 30 s.
        raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr("ray.init", times_out)
    names = pytest.raises(ClusterError, match="cannot start Ray here: The current node timed out")
    with names, embedded_ray(1, 0, scratch):
        pass


STRANGER = """\
import json, os, sys
from pathlib import Path
import psutil
from cluster.runtime import embedded_ray, on_cluster
import ray

@ray.remote
def token():
    return os.environ["RAY_AUTH_TOKEN"]

@ray.remote
def is_on_cluster():
    return on_cluster()

with embedded_ray(1, 0, Path(sys.argv[1])):
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    found = {"token": ray.get(token.remote()), "worker": ray.get(is_on_cluster.remote())}
print(json.dumps(found | {"listening": sorted(listening), "after": os.environ.get("RAY_AUTH_TOKEN")}))
"""


def test_an_embedded_ray_ignores_the_token_of_the_users_cluster(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the-cluster's")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("HOME", str(tmp_path))
    command = [sys.executable, "-c", STRANGER, str(scratch)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert re.fullmatch("[0-9a-f]{64}", found["token"])
    assert found["listening"] == ["127.0.0.1"]
    assert not found["worker"]
    assert found["after"] == "the-cluster's"
    assert list(tmp_path.iterdir()) == []
