"""Commands that show jobs and their results: list, status, leaderboard, sync, ui, dashboard."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tuner.cli.output import (
    home_option,
    job_argument,
    no_open_option,
    on_a_cluster,
    output_option,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from tuner.monitor.overview import Overview
    from tuner.verdict.leaderboard import Leaderboard


@click.command(name="list", epilog="Example: tuner list -o json")
@on_a_cluster
@home_option
@output_option
def list_jobs(home: Path | None, output: str) -> None:
    """List all jobs, oldest first.

    The jobs are those of the workspace, of the database in TUNER_STORAGE, or of a cluster.
    """
    from tuner.jobs.workspace import Workspace
    from tuner.monitor.overview import overview

    jobs = overview(Workspace.find(home))
    for job in jobs:
        if job.problem:
            click.echo(f"warning: {job.problem}", err=True)
    rows = [_job_row(job) for job in jobs]
    if output == "json":
        print_json(rows)
    else:
        columns = ("job", "state", "started", "arms>", "trials>", "waits for")
        print_table(columns, [[str(v) for v in row.values()] for row in rows])


@click.command(epilog="Example: tuner status latest -o json")
@job_argument
@on_a_cluster
@home_option
@output_option
def status(job: str, home: Path | None, output: str) -> None:
    """Show JOB's state and progress.

    Prints the progress of each arm, the best value so far, the time spent and the estimated time left.
    """
    from tuner.jobs.find import find_job
    from tuner.jobs.workspace import Workspace
    from tuner.monitor.progress import arm_cells, arm_columns, duration
    from tuner.monitor.status import status as status_of

    current = status_of(find_job(Workspace.find(home), job))
    if output == "json":
        print_json(current.to_dict())
        return
    print_table(
        ("arm", *(f"{column}>" for column in arm_columns(current.metric)[1:])),
        map(arm_cells, current.arms),
        title=f"{current.job}: {current.state}" + (f" ({current.reason.splitlines()[0]})" if current.reason else ""),
    )
    lines = [("held by", current.holder), ("waits", current.waits or None)]
    lines += [("lacks", f"{current.lacks}; finish them with: tuner resume {current.job}" if current.lacks else None)]
    lines += [("spent", f"{duration(current.spent_s)}, {duration(current.trained_s)} of training")]
    lines += [("left", None if current.left_s is None else f"about {duration(current.left_s)}")]
    for label, text in lines:
        if text is not None:
            click.echo(f"{label + ':':9}{text}")


@click.command(epilog="Example: tuner leaderboard latest --fail-unless beats")
@job_argument
@on_a_cluster
@home_option
@click.option(
    "--fail-unless",
    type=click.Choice(["beats"]),
    help="Exit 6 unless at least one variant beats the baseline.",
)
@output_option
def leaderboard(job: str, home: Path | None, fail_unless: str | None, output: str) -> None:
    """Rank JOB's arms against the baseline."""
    from tuner.errors import GateError
    from tuner.jobs.find import find_job
    from tuner.jobs.workspace import Workspace
    from tuner.verdict.caveats import other_scales
    from tuner.verdict.ranking import job_results

    folder = find_job(Workspace.find(home), job)
    board = job_results(folder).board
    show_board(board, output)
    if lacks := folder.lacks(board.state):
        click.echo(f"warning: the job has finished, but {lacks}; finish them with: tuner resume {folder.id}", err=True)
    if fail_unless == "beats":
        doubtful = other_scales(board.measured, board.rows)
        if not board.beaten:
            raise GateError(f"no variant of {board.job} is shown to beat {board.baseline}")
        if doubtful.keys() >= set(board.beaten):
            raise GateError(doubtful[board.beaten[0]])


@click.command(hidden=True)
@job_argument
@home_option
@click.option("-o", "--output", "file", type=click.Path(path_type=Path), required=True)
def rows(job: str, home: Path | None, file: Path) -> None:
    """Write JOB's spec, trials and epochs to a JSON file. A Python program that reads a job of a cluster asks so."""
    from tuner.control.rows import epoch_rows, trial_rows
    from tuner.jobs.find import find_job
    from tuner.jobs.workspace import Workspace
    from tuner.spec.search_spec import to_dict

    record = find_job(Workspace.find(home), job).record()
    values = {"spec": to_dict(record.spec), "trials": trial_rows(record), "epochs": epoch_rows(record)}
    file.write_text(json.dumps(values), encoding="utf-8")


@click.command(epilog="Example: tuner sync latest")
@job_argument
@on_a_cluster
@home_option
def sync(job: str, home: Path | None) -> None:
    """Send JOB's missing data to MLflow, the studies and the database. Write its report and exports again."""
    from tuner.driver.repair import send_all
    from tuner.jobs.find import find_job
    from tuner.jobs.workspace import Workspace

    workspace = Workspace.find(home)
    folder = find_job(workspace, job)
    runs = send_all(workspace, folder, lambda text: click.echo(text, err=True))
    click.echo(f"{folder.id}: {runs} runs in MLflow are up to date", err=True)


@click.command(epilog="Example: tuner ui --port 5001")
@job_argument
@home_option
@no_open_option
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port of the server.")
def ui(job: str, home: Path | None, no_open: bool, port: int) -> None:
    """Serve MLflow's UI for JOB on this machine only, until Ctrl-C. Print and open the link to JOB's runs.

    The second link leads to JOB's verdict. If JOB uses a tracking server, nothing is served here: the links lead to it.
    """
    from tuner.errors import without_password
    from tuner.jobs.find import find_job
    from tuner.jobs.request import spec_of
    from tuner.jobs.workspace import Workspace
    from tuner.monitor.local_server import Links, serve_mlflow
    from tuner.tracking.background_sync import tracker_to_open
    from tuner.tracking.run_layout import run_page, table_page
    from tuner.tracking.sync_state import load

    workspace = Workspace.find(home)
    folder = find_job(workspace, job)
    uri = tracker_to_open(spec_of(folder), workspace)
    sync_state = load(folder.tracked)
    paths: tuple[str, ...] = ("",)
    if sync_state.tracker == without_password(uri):
        paths = table_page(folder.id, sync_state.experiment), run_page(sync_state.runs[""], sync_state.experiment)
    else:
        shown = without_password(uri)
        click.echo(f"warning: {shown} has no runs of {folder.id}; upload them with: tuner sync {folder.id}", err=True)
    serve_mlflow(uri, workspace.artifacts, port, Links(paths, browse=not no_open))


@click.command(epilog="Example: tuner dashboard --port 8081")
@job_argument
@home_option
@no_open_option
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port of the server.")
def dashboard(job: str, home: Path | None, no_open: bool, port: int) -> None:
    """Serve Optuna's dashboard for JOB's studies on this machine only, until Ctrl-C. Print and open the link.

    The dashboard is read-only here. It is a separate package: pip install "tuner[dashboard]".
    """
    from tuner.jobs.find import find_job
    from tuner.jobs.workspace import Workspace
    from tuner.monitor.optuna_dashboard import serve_dashboard

    workspace = Workspace.find(home)
    serve_dashboard(find_job(workspace, job), workspace, port, browse=not no_open)


def _job_row(job: "Overview") -> dict[str, str | int]:
    return {
        "job": job.job,
        "state": job.state,
        "started": datetime.fromtimestamp(job.ms / 1000, UTC).astimezone().isoformat(timespec="seconds"),
        "arms": job.arms,
        "trials": job.trials,
        "waits": job.waits,
    }


COMMANDS = (list_jobs, status, leaderboard, rows, sync, ui, dashboard)


def show_board(board: "Leaderboard", output: str) -> None:
    """Print a leaderboard on stdout, and its warnings on stderr."""
    from tuner.control.board import board_table

    if output == "json":
        print_json(board.to_dict())
        return
    table = board_table(board)
    print_table(table.columns, table.rows, title=table.title)
    for warning in board.warnings:
        click.echo(f"warning: {warning}", err=True)
