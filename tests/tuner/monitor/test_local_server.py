"""A server on loopback: it starts, its links are printed, and it ends with all its processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.services import free_port
from tests.tuner.whole_jobs import ROOT, Ended
from tuner.errors import ServiceError
from tuner.monitor import local_server as server
from tuner.monitor.local_server import Links, serve, serve_mlflow

SERVER = "import sys, http.server as s; s.test(s.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind='127.0.0.1')"
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[2], sys.argv[1]])"
SERVE = """
import sys
from tuner.monitor.local_server import Links, serve
port = int(sys.argv[1])
serve([sys.executable, "-c", sys.argv[2], str(port), *sys.argv[3:]], {}, port, "/", Links(("/#/page",), browse=False))
"""


def started(port: int, *code: str) -> "subprocess.Popen[str]":
    """Run ``serve`` in its own process, and wait until it prints its link."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(port), *code],
        env=os.environ | {"PYTHONPATH": str(ROOT), "HTTP_PROXY": "http://127.0.0.1:9", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"http://127.0.0.1:{port}/#/page\n"
    return process


def ended(process: "subprocess.Popen[str]") -> Ended:
    out, err = process.communicate(timeout=30)
    return Ended(process.returncode, out, err)


def listens(port: int) -> bool:
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1] == f"0100007F:{port:04X}" and row.split()[3] == "0A" for row in table)


@pytest.mark.parametrize("code", [(SERVER,), (PARENT, SERVER)], ids=["one process", "two processes"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_server_and_all_its_processes(number: int, code: Sequence[str]) -> None:
    port = free_port()
    process = started(port, *code)
    assert listens(port)
    process.send_signal(number)
    result = ended(process)
    assert (result.code, result.out, result.err) == (0, "", "press Ctrl-C to end the server\n")
    deadline = time.monotonic() + 10
    while listens(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not listens(port)


def test_a_server_that_ends_by_itself_is_reported_with_its_last_line() -> None:
    code = "import sys; print('first'); print('no store'); sys.exit(3)"
    with pytest.raises(ServiceError, match="does not start: no store"):
        serve([sys.executable, "-c", code], {}, free_port(), "/", Links(("",), browse=False))


def test_a_port_in_use_is_reported_before_anything_starts() -> None:
    port = free_port()
    with subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stderr=subprocess.DEVNULL) as other:
        while not listens(port):
            assert other.poll() is None
            time.sleep(0.05)
        try:
            with pytest.raises(ServiceError, match=f"cannot use port {port} on 127.0.0.1: Address already in use"):
                serve(["never started"], {}, port, "/", Links(("",), browse=False))
        finally:
            other.kill()


def test_only_the_links_to_a_tracking_server_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serve_mlflow("https://mlflow.example/", tmp_path, 1, Links(("/#/a", "/#/b"), browse=False))
    assert capsys.readouterr().out == "https://mlflow.example/#/a\nhttps://mlflow.example/#/b\n"


def test_mlflow_runs_without_telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[object] = []
    monkeypatch.setattr(server, "serve", lambda command, env, *more: handed.append(env))
    serve_mlflow("sqlite:///x.db", tmp_path, 1, Links(("",), browse=False))
    assert isinstance(handed[0], dict)
    assert handed[0]["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert handed[0]["MLFLOW_BACKEND_STORE_URI"] == "sqlite:///x.db"
