"""Optuna's dashboard on a job's studies: a server of its own on loopback, that shows and changes nothing.

The dashboard itself asks nobody who they are, and whoever reaches it may delete studies; any web page that is open in
the browser can send to what listens on loopback. So only reading gets through, and only under this machine's own names.
"""

import importlib.util
import os
import socketserver
import sys
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import click

from tuner.errors import NotFound, SpecError, without_password
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.request import spec_of, storage_of
from tuner.jobs.workspace import Workspace
from tuner.monitor.local_server import HOST, serve
from tuner.search.study import study_name
from tuner.search.study_database import open_storage, study_ids

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""As WSGI has it."""
STORAGE, PORT = "TUNER_DASHBOARD_STORAGE", "TUNER_DASHBOARD_PORT"
READING = ("GET", "HEAD")
NAMES = (HOST, "localhost")


def serve_dashboard(folder: JobFolder, workspace: Workspace, port: int, browse: bool) -> None:
    """Serve the dashboard until Ctrl-C; print the links to the studies of a job's arms, the baseline's first.

    Raises:
        SpecError: the dashboard is not installed, or the job is a simulation.
        NotFound: none of the job's studies is there.
        ServiceError: their database cannot be reached, the port is taken, or the server does not start.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise SpecError('Optuna\'s dashboard is not installed; install it with: pip install "tuner[dashboard]"')
    if folder.started()["simulate"]:
        raise SpecError(f"job {folder.id} is a simulation: its studies were not kept")
    spec = spec_of(folder)
    url = storage_of(spec, workspace)
    names = {arm.name: study_name(folder.id, arm.name) for arm in spec.arms}
    found = study_ids(url, list(names.values())) if url != workspace.storage_url or workspace.studies.exists() else {}
    if not found:
        raise NotFound(f"job {folder.id} has no studies in {without_password(url)} yet")
    for arm, name in names.items():
        if name in found:
            click.echo(f"{arm}: http://{HOST}:{port}/dashboard/studies/{found[name]}", err=True)
    first = next(found[name] for name in (names[spec.baseline], *names.values()) if name in found)
    # The URL may hold a password, which others could read from a command line.
    env = {STORAGE: url, PORT: str(port)}
    serve(
        [sys.executable, "-m", "tuner.monitor.optuna_dashboard"],
        env,
        port,
        "/",
        f"/dashboard/studies/{first}",
        "",
        browse,
    )


def guarded(app: App) -> App:
    """An app that is only read, and only under this machine's names."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        name = environ.get("HTTP_HOST", "").rpartition(":")[0]
        if environ["REQUEST_METHOD"] in READING and name in NAMES:
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"tuner shows the studies and changes nothing, and answers on this machine only\n"]

    return answer


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> None:
    """Serve what the environment names."""
    from optuna_dashboard import wsgi

    app = guarded(wsgi(open_storage(os.environ.pop(STORAGE))))
    with make_server(HOST, int(os.environ[PORT]), app, server_class=_Server, handler_class=_Quiet) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
