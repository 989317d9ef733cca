"""How a command runs a job: the hidden command ``drive`` of the driver, and the function that supervises it."""

import json
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from tuner.cli.jobs import show_board
from tuner.cli.output import data_option, exit_code

if TYPE_CHECKING:
    from tuner.control.begin import Drive
    from tuner.jobs.job_folder import JobFolder
    from tuner.jobs.stop import StopRequest


@click.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--home", type=click.Path(path_type=Path), required=True)
@click.option("--scratch", type=click.Path(path_type=Path), required=True)
@click.option("--quiet", is_flag=True)
@click.option("--round", "round_number", type=int)
@click.option("--seeds", type=int, default=0)
@click.option("--extension", type=int)
@click.option("--hours", type=float)
@click.option("--errors", type=click.Path(path_type=Path))
@data_option
def drive(
    folder: Path,
    home: Path,
    scratch: Path,
    quiet: bool,
    round_number: int | None,
    seeds: int,
    extension: int | None,
    hours: float | None,
    errors: Path | None,
    data_path: str | None,
) -> None:
    """Run a job from its current state. The commands that supervise it start this command.

    With --errors, the message of an error goes to that file, and not to stderr.
    """
    from cluster.errors import ClusterError
    from trainables.errors import TrainableError
    from trainables.foreign_text import printable
    from tuner.driver.context import Context
    from tuner.driver.driver import Extension, NewRound
    from tuner.driver.driver import drive as drive_job
    from tuner.errors import DriverLost, Interrupted, TunerError
    from tuner.jobs.job_folder import JobFolder
    from tuner.jobs.workspace import Workspace
    from tuner.monitor.terminal import choose_view

    more: NewRound | Extension | None = None
    if round_number is not None:
        more = NewRound(round_number, seeds)
    elif extension is not None:
        more = Extension(extension, hours)
    try:
        with _stoppable() as stop:
            context = Context(Workspace(home), JobFolder(folder), scratch, choose_view(quiet), stop)
            try:
                drive_job(context, data_path, more)
            except KeyboardInterrupt:
                # The second signal. What was sent to no store yet is in the journal.
                job, number = context.folder.id, stop.signal_number or signal.SIGINT
                raise Interrupted(f"job {job} was interrupted; resume it with: tuner resume {job}", number) from None
    except DriverLost as lost:
        # This is not an error yet: the supervisor starts another driver.
        click.echo(f"warning: {printable(str(lost))}", err=True)
        raise click.exceptions.Exit(lost.exit_code) from lost
    except (TunerError, TrainableError, ClusterError) as error:
        if errors is None:
            raise
        errors.write_text(json.dumps({"message": printable(str(error))}), encoding="utf-8")
        raise click.exceptions.Exit(exit_code(error)) from error


@click.command(hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("silent_s", type=float)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def supervise(folder: Path, silent_s: float, options: tuple[str, ...]) -> None:
    """Run a job's driver, and another one if it dies. A Python program that runs a job starts this command."""
    from tuner.driver.supervisor import supervise as supervise_job
    from tuner.jobs.job_folder import JobFolder

    def wait_for_program() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_for_program, name="program-watch", daemon=True).start()
    code = supervise_job(JobFolder(folder), options, silent_s, lambda text: click.echo(text, err=True))
    if code:
        raise click.exceptions.Exit(code)


def drive_to_its_end(drive: "Drive", home: Path | None, quiet: bool, output: str) -> None:
    """Run a job's driver, and start another one if it dies. Then print the job's result.

    Args:
        drive: the driver.
        home: the value of ``--home`` on the command line.
        quiet: show no progress.
        output: how to print the result, ``table`` or ``json``.

    Raises:
        Exit: the job did not finish; it carries the exit code.
    """
    from tuner.driver.supervisor import supervise as supervise_job

    options = ["--home", str(drive.workspace.path), *(["--quiet"] if quiet else []), *drive.options]
    code = supervise_job(drive.folder, options, drive.silent_s, lambda text: click.echo(text, err=True))
    if code:
        raise click.exceptions.Exit(code)
    show_result(drive.folder, home, output)


@contextmanager
def _stoppable() -> "Iterator[StopRequest]":
    """Ask the job to stop at the first SIGINT or SIGTERM, or when the supervisor ends.

    A second signal ends the job at once.
    """
    from tuner.jobs.stop import StopRequest

    stop = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.signal_number = number
        click.echo("stopping: all progress is kept (Ctrl-C again to stop at once)", err=True)

    def wait_for_supervisor() -> None:
        # Read the file descriptor: a waiting thread would hold the lock of sys.stdin when the interpreter exits.
        while os.read(0, 1):
            pass
        stop.ask()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    threading.Thread(target=wait_for_supervisor, name="supervisor-watch", daemon=True).start()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_result(folder: "JobFolder", home: Path | None, output: str) -> None:
    """Print the leaderboard of a job, and how to use its results. Arguments are as above."""
    from tuner.export.export_file import must_allow_code
    from tuner.jobs.request import spec_of
    from tuner.verdict.ranking import job_results

    board = job_results(folder).board
    show_board(board, output)
    best = folder.export(board.best())
    home_option = [] if home is None else ["--home", str(home)]
    lines = [("report", str(folder.report)), ("browse", shlex.join([*_command(), "ui", folder.id, *home_option]))]
    if best.exists():
        allowed = ["--allow-code"] if must_allow_code(spec_of(folder)) else []
        reproduce = shlex.join([*_command(), "reproduce", str(best), *allowed, *home_option])
        lines[1:1] = [("best config", str(best)), ("reproduce", reproduce)]
    for label, text in lines:
        click.echo(f"{label + ':':13}{text}", err=True)


def _command() -> list[str]:
    """The words that start this program from the user's shell."""
    if shutil.which("tuner"):
        return ["tuner"]
    program = Path(sys.argv[0])
    return [sys.executable, "-m", "tuner"] if program.name == "__main__.py" else [str(program)]


COMMANDS = (drive, supervise)
