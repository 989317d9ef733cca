"""Optuna's dashboard for a job's studies: a separate, read-only server on loopback.

The dashboard has no authentication, and anyone who reaches it may delete studies. Every web page that is open in the
browser can send requests to loopback. So only read requests are accepted, and only for this machine's own host names.
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
from tuner.monitor.local_server import HOST, Links, serve
from tuner.search.study import study_name
from tuner.search.study_database import open_storage, study_ids
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import Stage

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""A WSGI application."""
STORAGE, PORT = "TUNER_DASHBOARD_STORAGE", "TUNER_DASHBOARD_PORT"
READING = ("GET", "HEAD")
NAMES = (HOST, "localhost")


def serve_dashboard(folder: JobFolder, workspace: Workspace, port: int, browse: bool) -> None:
    """Serve the dashboard until Ctrl-C. Print links to the studies of the job's arms, the baseline first.

    Args:
        folder: the job's folder.
        workspace: the workspace with the studies.
        port: port to serve the dashboard on.
        browse: open the first link in a browser.

    Raises:
        SpecError: the dashboard is not installed, or the job is a simulation.
        NotFound: the job has no studies yet.
        ServiceError: the database is unreachable, the port is in use, or the server does not start.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise SpecError('Optuna\'s dashboard is not installed; install it with: pip install "tuner[dashboard]"')
    if folder.started()["simulate"]:
        raise SpecError(f"job {folder.id} is a simulation; the studies of a simulation are not saved")
    spec = spec_of(folder)
    url = storage_of(spec, workspace)
    names = _study_names(folder, spec)
    ids = study_ids(url, list(names.values())) if url != workspace.storage_url or workspace.studies.exists() else {}
    if not ids:
        raise NotFound(
            f"job {folder.id} has no studies in {without_password(url)} yet; write them with: tuner sync {folder.id}"
        )
    for arm, name in names.items():
        if name in ids:
            click.echo(f"{arm}: http://{HOST}:{port}/dashboard/studies/{ids[name]}", err=True)
    first = next(ids[name] for name in names.values() if name in ids)
    # The URL may hold a password, which others could read from a command line.
    env = {STORAGE: url, PORT: str(port)}
    command = [sys.executable, "-m", "tuner.monitor.optuna_dashboard"]
    serve(command, env, port, "/", Links((f"/dashboard/studies/{first}",), browse))


def _study_names(folder: JobFolder, spec: SearchSpec) -> dict[str, str]:
    """What a study is called in the list, and its name; the baseline's first."""
    if not spec.searches:
        arms = sorted((arm.name for arm in spec.arms), key=lambda arm: arm != spec.baseline)
        return {arm: study_name(folder.id, arm) for arm in arms}
    studies = {(trial.arm, trial.search) for trial in folder.record().of(Stage.SEARCH)}
    in_order = sorted(studies, key=lambda study: (study[0] != spec.baseline, study))
    return {f"{arm}, search {search}": study_name(folder.id, arm, search) for arm, search in in_order}


def guarded(app: App) -> App:
    """The app behind a filter: it accepts only read requests, and only for this machine's host names."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        name = environ.get("HTTP_HOST", "").rpartition(":")[0]
        if environ["REQUEST_METHOD"] in READING and name in NAMES:
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"this dashboard is read-only and answers on this machine only\n"]

    return answer


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> None:
    """Serve the dashboard. The environment names its database and its port."""
    from optuna_dashboard import wsgi

    app = guarded(wsgi(open_storage(os.environ.pop(STORAGE))))
    with make_server(HOST, int(os.environ[PORT]), app, server_class=_Server, handler_class=_Quiet) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
