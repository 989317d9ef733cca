"""How a command runs a job: the hidden command of its driver, and what starts and supervises that."""

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
from tuner.cli.output import data_option

if TYPE_CHECKING:
    from tuner.jobs.job_folder import JobFolder
    from tuner.jobs.stop import StopRequest
    from tuner.jobs.workspace import Workspace
    from tuner.spec.search_spec import SearchSpec


@click.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--home", type=click.Path(path_type=Path), required=True)
@click.option("--scratch", type=click.Path(path_type=Path), required=True)
@click.option("--quiet", is_flag=True)
@click.option("--round", "round_number", type=int)
@click.option("--seeds", type=int, default=0)
@data_option
def drive(
    folder: Path,
    home: Path,
    scratch: Path,
    quiet: bool,
    round_number: int | None,
    seeds: int,
    data_path: str | None,
) -> None:
    """Run a job from where it stands; started by the commands that supervise it."""
    from tuner.driver.context import Context
    from tuner.driver.driver import NewRound
    from tuner.driver.driver import drive as drive_job
    from tuner.errors import DriverLost
    from tuner.jobs.job_folder import JobFolder
    from tuner.jobs.workspace import Workspace
    from tuner.monitor.terminal import choose_view

    new_round = None if round_number is None else NewRound(round_number, seeds)
    try:
        with _stoppable() as asked:
            context = Context(Workspace(home), JobFolder(folder), scratch, choose_view(quiet), asked)
            drive_job(context, data_path, new_round)
    except DriverLost as lost:
        # No error yet: the supervisor starts another.
        click.echo(f"warning: {lost}", err=True)
        raise click.exceptions.Exit(lost.exit_code) from lost


def data_options(spec: "SearchSpec", given: str | None) -> list[str]:
    """What tells a driver where the data lies now."""
    from tuner.spec.search_spec import data_path_of

    found = data_path_of(spec.data.name, given)
    return [] if found is None else ["--data", found]


def drive_to_its_end(
    workspace: "Workspace",
    folder: "JobFolder",
    spec: "SearchSpec",
    home: Path | None,
    quiet: bool,
    output: str,
    options: list[str] | None = None,
) -> None:
    """Run a job's driver, and others after it if need be; then show what it came to.

    Args:
        workspace: where its folder is.
        folder: the job's.
        spec: the job's.
        home: as given on the command line.
        quiet: show no progress.
        output: how to print the result.
        options: for ``tuner drive``.
    """
    from tuner.driver.supervisor import supervise

    options = ["--home", str(workspace.path), *(["--quiet"] if quiet else []), *(options or [])]
    code = supervise(folder, options, 60 * spec.resources.silent_minutes, lambda text: click.echo(text, err=True))
    if code:
        raise click.exceptions.Exit(code)
    _show_result(folder, home, output)


@contextmanager
def _stoppable() -> "Iterator[StopRequest]":
    """The first SIGINT or SIGTERM asks the job to stop; the second ends it at once. So does the supervisor's end."""
    from tuner.jobs.stop import StopRequest

    asked = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.signal_number = number
        click.echo("stopping: what was done is kept (again to stop at once)", err=True)

    def listen() -> None:
        # Not through sys.stdin, whose lock a thread that waits would hold when the interpreter ends.
        while os.read(0, 1):
            pass
        asked.ask()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    threading.Thread(target=listen, name="supervisor-watch", daemon=True).start()
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_result(folder: "JobFolder", home: Path | None, output: str) -> None:
    from tuner.verdict.ranking import job_results

    board = job_results(folder).board
    show_board(board, output)
    best = folder.export(board.best())
    there = [] if home is None else ["--home", str(home)]
    lines = [("report", str(folder.report)), ("browse", shlex.join([*_command(), "ui", folder.id, *there]))]
    if best.exists():
        again = shlex.join([*_command(), "reproduce", str(best), *there])
        lines[1:1] = [("best config", str(best)), ("reproduce", again)]
    for what, text in lines:
        click.echo(f"{what + ':':13}{text}", err=True)


def _command() -> list[str]:
    """The words that start this program again from the shell that started it."""
    if shutil.which("tuner"):
        return ["tuner"]
    started = Path(sys.argv[0])
    return [sys.executable, "-m", "tuner.cli"] if started.name == "__main__.py" else [str(started)]


COMMANDS = (drive,)
