"""Commands about jobs: run, confirm, list, leaderboard, report, sync, ui."""

import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from tuner.cli.output import data_option, home_option, job_argument, output_option, print_json, print_table

if TYPE_CHECKING:
    from tuner.home import JobFolder
    from tuner.leaderboard import Leaderboard
    from tuner.work import Stop


@click.command(epilog="Example: tuner run searches/quickstart.yaml")
@click.argument("spec", type=click.Path(path_type=Path))
@data_option
@home_option
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@output_option
def run(spec: Path, data_path: str | None, home: Path | None, quiet: bool, output: str) -> None:
    """Search SPEC here: every arm, then its winners on fresh seeds, then the verdict.

    Starts Ray in this process tree and ends it. Ctrl-C stops and keeps what was done.
    """
    from tuner.checks import check
    from tuner.code import own_code
    from tuner.home import Home
    from tuner.preflight import preflight
    from tuner.spec import load
    from tuner.view import choose_view

    loaded = load(spec, data_path)
    code = own_code(loaded, spec.absolute().parent)
    view = choose_view(quiet)
    for warning in check(loaded, view.say).warnings:
        view.say(f"warning: {warning}")

    place = Home.find(home)
    preflight(loaded, place)
    from tuner.run import run as run_job

    with _stoppable() as stop:
        folder = run_job(loaded, spec.read_text(encoding="utf-8-sig"), place, view, stop, code)
    _show_result(folder, home, output)


@click.command(epilog="Example: tuner confirm latest --seeds 20")
@job_argument
@click.option("--seeds", type=click.IntRange(3, 1000), required=True, help="How many fresh seeds.")
@data_option
@home_option
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@output_option
def confirm(job: str, seeds: int, data_path: str | None, home: Path | None, quiet: bool, output: str) -> None:
    """Confirm JOB's winners again, on fresh seeds only; the new verdict stands alone."""
    from tuner.code import own_code
    from tuner.home import Home
    from tuner.preflight import preflight
    from tuner.publish import spec_of
    from tuner.spec import data_path_of
    from tuner.view import choose_view

    place = Home.find(home)
    folder = place.job(job)
    data_name = folder.record().job["spec"]["data"]["name"]
    spec = spec_of(folder, data_path_of(data_name, data_path))
    code = own_code(spec, Path(folder.record().job["folder"]))
    preflight(spec, place)
    from tuner.run import confirm_again

    with _stoppable() as stop:
        confirm_again(spec, place, folder, seeds, choose_view(quiet), stop, code)
    _show_result(folder, home, output)


@click.command(name="list", epilog="Example: tuner list -o json")
@home_option
@output_option
def list_jobs(home: Path | None, output: str) -> None:
    """List the jobs on this machine, oldest first."""
    from tuner.home import Home

    rows = [_job_row(folder) for folder in Home.find(home).jobs()]
    if output == "json":
        print_json(rows)
    else:
        print_table(("job", "state", "started", "arms>", "trials>"), [[str(v) for v in row.values()] for row in rows])


@click.command(epilog="Example: tuner leaderboard latest --fail-unless beats")
@job_argument
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
    from tuner.home import Home
    from tuner.publish import board_of

    board = board_of(Home.find(home).job(job))
    _show_board(board, output)
    if fail_unless == "beats" and not board.beaten:
        raise GateError(f"no variant of {board.job} is shown to beat {board.baseline}")


@click.command(epilog="Example: tuner report latest > report.md")
@job_argument
@home_option
def report(job: str, home: Path | None) -> None:
    """Print JOB's report in Markdown."""
    from tuner.home import Home
    from tuner.publish import report_of

    click.echo(report_of(Home.find(home).job(job)))


@click.command(epilog="Example: tuner sync latest")
@job_argument
@home_option
def sync(job: str, home: Path | None) -> None:
    """Send to MLflow what it has not been told of JOB, and write its report and exports again."""
    from tuner.home import Home
    from tuner.publish import publish, spec_of
    from tuner.sender import open_writer

    place = Home.find(home)
    folder = place.job(job)
    writer = open_writer(spec_of(folder), place, folder)
    writer.send()
    writer.attach(publish(folder), folder.report.read_text())
    click.echo(f"{folder.id}: {len(writer.runs)} runs in MLflow are up to date", err=True)


@click.command(epilog="Example: tuner ui --port 5001")
@job_argument
@home_option
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(job: str, home: Path | None, port: int) -> None:
    """Serve MLflow's UI on JOB's store, on this machine only, and print the link to JOB."""
    import json

    from tuner.home import Home
    from tuner.publish import spec_of
    from tuner.sender import tracking_uri
    from tuner.server import serve

    place = Home.find(home)
    folder = place.job(job)
    uri = tracking_uri(spec_of(folder), place)
    noted = json.loads(folder.tracked.read_text()) if folder.tracked.exists() else {"runs": {}}
    serve(uri, place.artifacts, port, noted.get("experiment"), noted["runs"].get(""))


def _job_row(folder: "JobFolder") -> dict[str, str | int]:
    from tuner.errors import IntegrityError

    try:
        record = folder.record()
    except IntegrityError as error:
        # One bad job must not hide the others.
        click.echo(f"warning: {error}", err=True)
        return {"job": folder.id, "state": "damaged", "started": "", "arms": 0, "trials": 0}
    started = datetime.fromtimestamp(record.job["ms"] / 1000, UTC).astimezone()
    return {
        "job": folder.id,
        "state": record.state,
        "started": started.isoformat(timespec="seconds"),
        "arms": len(record.arms),
        "trials": len(record.trials),
    }


COMMANDS = (run, confirm, list_jobs, leaderboard, report, sync, ui)


@contextmanager
def _stoppable() -> "Iterator[Stop]":
    """The first SIGINT or SIGTERM asks the job to stop; the second ends it at once."""
    from tuner.work import Stop

    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.signal_number = number
        click.echo("stopping: what was done is kept (again to stop at once)", err=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_board(board: "Leaderboard", output: str) -> None:
    from tuner.leaderboard import verdict_text
    from tuner.report import test_text, trials_text, val_text

    if output == "json":
        print_json(board.to_dict())
        return
    print_table(
        ("arm", f"{board.metric}>", "test %>", "trials", "epochs>", "seconds>", "verdict"),
        [
            (
                row.arm,
                val_text(row),
                test_text(row),
                trials_text(row),
                str(row.epochs),
                f"{row.seconds:.0f}",
                verdict_text(row, board.baseline),
            )
            for row in board.rows
        ],
        title=f"{board.job}: {board.state}" + (f", round {board.round} of confirm runs" if board.round > 1 else ""),
    )
    for warning in board.warnings:
        click.echo(f"warning: {warning}", err=True)


def _show_result(folder: "JobFolder", home: Path | None, output: str) -> None:
    from tuner.publish import board_of

    board = board_of(folder)
    _show_board(board, output)
    best = folder.export(board.best())
    there = [] if home is None else ["--home", str(home)]
    for what, text in (
        ("report", str(folder.report)),
        ("best config", str(best)),
        ("reproduce", shlex.join([*_command(), "reproduce", str(best), *there])),
        ("browse", shlex.join([*_command(), "ui", folder.id, *there])),
    ):
        click.echo(f"{what + ':':13}{text}", err=True)


def _command() -> list[str]:
    """The words that start this program again from the shell that started it."""
    if shutil.which("tuner"):
        return ["tuner"]
    started = Path(sys.argv[0])
    return [sys.executable, "-m", "tuner.cli"] if started.name == "__main__.py" else [str(started)]
