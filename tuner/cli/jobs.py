"""Commands about what jobs came to: list, leaderboard, report, sync, ui."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tuner.cli.output import home_option, job_argument, output_option, print_json, print_table

if TYPE_CHECKING:
    from tuner.home import JobFolder
    from tuner.leaderboard import Leaderboard


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
    show_board(board, output)
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
    from tuner.jobs import spec_of
    from tuner.publish import publish
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
    from tuner.home import Home
    from tuner.jobs import spec_of
    from tuner.sender import tracking_uri
    from tuner.server import serve
    from tuner.tracked import load

    place = Home.find(home)
    folder = place.job(job)
    uri = tracking_uri(spec_of(folder), place)
    noted = load(folder.tracked)
    serve(uri, place.artifacts, port, noted.experiment, noted.runs.get(""))


def _job_row(folder: "JobFolder") -> dict[str, str | int]:
    from tuner.errors import IntegrityError
    from tuner.record import Record

    try:
        ms, state = folder.started()["ms"], folder.state()
        record = Record() if state == "new" else folder.record()
    except IntegrityError as error:
        # One bad job must not hide the others.
        click.echo(f"warning: {error}", err=True)
        return {"job": folder.id, "state": "damaged", "started": "", "arms": 0, "trials": 0}
    return {
        "job": folder.id,
        "state": state,
        "started": datetime.fromtimestamp(ms / 1000, UTC).astimezone().isoformat(timespec="seconds"),
        "arms": len(record.job.get("arms", ())),
        "trials": len(record.trials),
    }


COMMANDS = (list_jobs, leaderboard, report, sync, ui)


def show_board(board: "Leaderboard", output: str) -> None:
    """Print a leaderboard, its warnings on stderr."""
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
