"""MLflow's own server on a job's store, on loopback, for as long as the command runs."""

import os
import subprocess
import sys
from pathlib import Path

import click

from tuner.errors import ServiceError

HOST = "127.0.0.1"


def serve(uri: str, artifacts: Path, port: int, experiment: str | None, run: str | None) -> None:
    """Print the link to a job's parent run, then serve until interrupted; a remote tracker is only linked to.

    Raises:
        ServiceError: the server ended by itself, its port taken, say.
    """
    remote = uri.startswith(("http://", "https://"))
    base = uri.rstrip("/") if remote else f"http://{HOST}:{port}"
    page = f"/#/experiments/{experiment}" + (f"/runs/{run}" if run else "") if experiment else ""
    click.echo(base + page)
    if remote:
        return
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += [
        "--default-artifact-root",
        artifacts.as_uri(),
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(command, env=os.environ | quiet)
    try:
        code = server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        return
    raise ServiceError(f"the MLflow server on {HOST}:{port} ended with exit code {code}; is the port taken?")
