"""MLflow's own server on a job's store, on loopback, in place of this process."""

import os
import socket
import sys
from pathlib import Path

import click

from tuner.errors import ServiceError

HOST = "127.0.0.1"


def serve(uri: str, artifacts: Path, port: int, experiment: str | None, run: str | None) -> None:
    """Print the link to a job's parent run, then become the server; a remote tracker is only linked to.

    Raises:
        ServiceError: the port is taken.
    """
    remote = uri.startswith(("http://", "https://"))
    base = uri.rstrip("/") if remote else f"http://{HOST}:{port}"
    page = f"/#/experiments/{experiment}" + (f"/runs/{run}" if run else "") if experiment else ""
    if not remote:
        _check_free(port)
    click.echo(base + page)
    if not remote:
        _become_server(uri, artifacts, port)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServiceError(f"port {port} on {HOST} cannot be used: {error.strerror}; give another --port") from None


def _become_server(uri: str, artifacts: Path, port: int) -> None:
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--default-artifact-root", artifacts.as_uri(), "--host", HOST, "--port", str(port), "--workers", "1"]
    # The URI may hold a password, which others could read from a command line.
    store = {"MLFLOW_BACKEND_STORE_URI": uri}
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    sys.stdout.flush()
    os.execve(sys.executable, command, os.environ | quiet | store)
