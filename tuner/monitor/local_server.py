"""Serves a web page of another program on this machine only, until Ctrl-C: MLflow's UI or Optuna's dashboard."""

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
from typing import IO, NamedTuple
from urllib.request import ProxyHandler, build_opener

import click

from tuner.errors import ServiceError

HOST = "127.0.0.1"
START_S = 120.0
"""Longest wait for a server to start, in seconds. MLflow needs ten seconds on an idle machine."""
STOP_S = 10.0
POLL_S = 0.2
MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""``tuner ui`` disables MLflow's telemetry, and job workers that would take gigabytes of memory."""


class Links(NamedTuple):
    """Links to pages of a server: their paths, the first one first, and whether to open that one in a browser."""

    paths: tuple[str, ...]
    browse: bool


def serve_mlflow(uri: str, artifacts: Path, port: int, links: Links) -> None:
    """Serve MLflow's UI for a store, and print links to its pages. For a tracking server, only print the links.

    Args:
        uri: URI of the store or of the tracking server.
        artifacts: folder of the store's artifacts.
        port: port to serve the UI on.
        links: what to print, and to open, once the server is up.

    Raises:
        ServiceError: the port is in use, or the server does not start.
    """
    if uri.startswith(("http://", "https://")):
        show_links(uri.rstrip("/"), links)
        return
    command = [sys.executable, "-m", "mlflow", "server", "--default-artifact-root", artifacts.as_uri()]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    # The URI may hold a password, which others could read from a command line.
    serve(command, MLFLOW | {"MLFLOW_BACKEND_STORE_URI": uri}, port, "/health", links)


def serve(command: Sequence[str], env: Mapping[str, str], port: int, answers_at: str, links: Links) -> None:
    """Run a server until Ctrl-C or SIGTERM, and print the links when it is up.

    Args:
        command: command line of the server, which listens on ``HOST``.
        env: variables to add to its environment.
        port: port that it listens on.
        answers_at: path that it answers when it is up.
        links: what to print, and to open, once the server is up.

    Raises:
        ServiceError: the port is in use, the server ends by itself, or it does not answer.
    """
    _check_free(port)
    base = f"http://{HOST}:{port}"
    with tempfile.TemporaryFile() as log, _asked_to_end(), _running(command, env, log) as server:
        try:
            _wait_until_up(server, base + answers_at, log)
            click.echo("press Ctrl-C to end the server", err=True)
            show_links(base, links)
            server.wait()
        except KeyboardInterrupt:
            return
        raise ServiceError(f"the server at {base} has ended: {_last_line(log)}")


def show_links(base: str, links: Links) -> None:
    """Print links to a server's pages. With ``browse``, open the first link if there is a screen."""
    for path in links.paths:
        click.echo(base + path)
    # Without a screen, webbrowser may start a text browser in this terminal.
    if links.browse and (sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(base + links.paths[0])


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServiceError(f"cannot use port {port} on {HOST}: {error.strerror}; give another --port") from None


@contextmanager
def _asked_to_end() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGINT, SIGTERM and SIGHUP (a closed terminal).

    SIGINT needs a handler here: a script starts its background processes with SIGINT ignored, and Python then installs
    no handler of its own.
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
    """Run a server in its own session, so that all of its processes can be ended at exit."""
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
    # Read with pread: the server shares the file position and writes at it.
    text = os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0)
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
