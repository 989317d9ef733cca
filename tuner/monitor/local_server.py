"""A web page of another program, served on this machine only until Ctrl-C: MLflow's, or Optuna's dashboard."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO
from urllib.request import ProxyHandler, build_opener

import click

from tuner.errors import ServiceError

HOST = "127.0.0.1"
START_S = 120.0
"""MLflow takes ten seconds on a quiet machine."""
STOP_S = 10.0
POLL_S = 0.2
MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""What ``tuner ui`` switches off: what MLflow tells its makers, and workers that would take gigabytes."""


def serve_mlflow(uri: str, artifacts: Path, port: int, page: str, more: str, browse: bool) -> None:
    """Serve MLflow's UI on a store and print links to pages of it; a remote tracker is only linked to.

    Args:
        uri: the store's, or of a server.
        artifacts: where the store's artifacts are.
        port: to serve it at.
        page: what follows the server's address in the link.
        more: the same of a second one, or "".
        browse: open the first link as well.

    Raises:
        ServiceError: the port is taken, or the server does not start.
    """
    if uri.startswith(("http://", "https://")):
        show_links(uri.rstrip("/"), page, more, browse)
        return
    command = [sys.executable, "-m", "mlflow", "server", "--default-artifact-root", artifacts.as_uri()]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    # The URI may hold a password, which others could read from a command line.
    serve(command, MLFLOW | {"MLFLOW_BACKEND_STORE_URI": uri}, port, "/health", page, more, browse)


def serve(
    command: Sequence[str], env: Mapping[str, str], port: int, answers_at: str, page: str, more: str, browse: bool
) -> None:
    """Run a server until Ctrl-C or SIGTERM; print the link once it answers.

    Args:
        command: what to run; it listens on ``HOST``.
        env: what else stands in its environment.
        port: where it listens.
        answers_at: a path that it answers when it is up.
        page: what follows its address in the link.
        more: the same of a second one, or "".
        browse: open the first link as well.

    Raises:
        ServiceError: the port is taken, or the server ends by itself or does not answer.
    """
    _check_free(port)
    base = f"http://{HOST}:{port}"
    with tempfile.TemporaryFile() as log, _asked_to_end(), _running(command, env, log) as server:
        try:
            _wait_until_up(server, base + answers_at, log)
            click.echo("Ctrl-C ends it", err=True)
            show_links(base, page, more, browse)
            server.wait()
        except KeyboardInterrupt:
            return
        raise ServiceError(f"the server at {base} has ended: {_last_line(log)}")


def show_links(base: str, page: str, more: str, browse: bool) -> None:
    """Print links to a server's pages, and open the first where there is a screen."""
    for one in (page, more) if more else (page,):
        click.echo(base + one)
    # Without a screen a browser for text would take the terminal.
    if browse and (sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(base + page)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServiceError(f"port {port} on {HOST} cannot be used: {error.strerror}; give another --port") from None


@contextmanager
def _asked_to_end() -> Iterator[None]:
    """SIGTERM, and a terminal that is closed, end it as Ctrl-C does.

    Ctrl-C is among them: Python does not hear it where a script has started us in the background.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _running(command: Sequence[str], env: Mapping[str, str], log: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """A server in a session of its own, so that all of it can be ended, in order."""
    server = subprocess.Popen(
        command,
        env=os.environ | env,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait_until_up(server: "subprocess.Popen[bytes]", url: str, log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_S
    opener = build_opener(ProxyHandler({}))
    while True:
        with suppress(OSError), opener.open(url, timeout=5):
            return
        if server.poll() is not None:
            raise ServiceError(f"the server does not start: {_last_line(log)}")
        if time.monotonic() > deadline:
            raise ServiceError(f"the server does not answer within {START_S:g} s: {_last_line(log)}")
        time.sleep(POLL_S)


def _last_line(log: IO[bytes]) -> str:
    # The server writes at the file's position, which is not ours to move.
    text = os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0)
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it says nothing"
