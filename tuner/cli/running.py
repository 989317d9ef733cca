"""Commands that run jobs or end them: run, resume, confirm, stop, and the driver that they start."""

import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from tuner.cli.jobs import show_board
from tuner.cli.output import data_option, home_option, job_argument, output_option, print_json, print_table

if TYPE_CHECKING:
    from tuner.home import Home, JobFolder
    from tuner.spec import SearchSpec
    from tuner.work import Stop

STOP_S = 120.0
"""How long ``tuner stop`` waits for a job to end."""

quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")


@click.command(epilog="Example: tuner run searches/quickstart.yaml")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--simulate", is_flag=True, help="Train nothing: made-up learning curves, in seconds.")
@data_option
@home_option
@quiet_option
@output_option
def run(spec: Path, simulate: bool, data_path: str | None, home: Path | None, quiet: bool, output: str) -> None:
    """Search SPEC here: every arm, then its winners on fresh seeds, then the verdict.

    Starts Ray in this process tree and ends it. Ctrl-C stops and keeps what was done; resume goes on from there.
    """
    from tuner.checks import check
    from tuner.code import own_code
    from tuner.home import Home
    from tuner.jobs import new_job
    from tuner.preflight import preflight
    from tuner.spec import load
    from tuner.view import choose_view

    loaded = load(spec, data_path)
    own_code(loaded, spec.absolute().parent)
    view = choose_view(quiet)
    for warning in check(loaded, view.say).warnings:
        view.say(f"warning: {warning}")
    place = Home.find(home)
    if not simulate:
        preflight(loaded, place)
    folder = new_job(place, loaded, spec.read_text(encoding="utf-8-sig"), spec.absolute().parent, simulate)
    _drive(place, folder, loaded, home, quiet, output)


@click.command(epilog="Example: tuner resume latest")
@job_argument
@data_option
@home_option
@quiet_option
@output_option
def resume(job: str, data_path: str | None, home: Path | None, quiet: bool, output: str) -> None:
    """Go on with JOB where it stands: after a stop, a crash or a failure that was put right.

    Every unfinished trial continues at its next epoch, with its own settings and MLflow run.
    """
    from tuner.errors import SpecError
    from tuner.home import Home
    from tuner.jobs import check_unchanged, spec_of
    from tuner.preflight import preflight

    place = Home.find(home)
    folder = place.job(job)
    if folder.state() == "finished":
        raise SpecError(f"job {folder.id} is finished; see: tuner leaderboard {folder.id}")
    check_unchanged(folder)
    spec = spec_of(folder)
    if not folder.started()["simulate"]:
        preflight(spec, place)
    _drive(place, folder, spec, home, quiet, output, _data(spec, data_path))


@click.command(epilog="Example: tuner confirm latest --seeds 20")
@job_argument
@click.option("--seeds", type=click.IntRange(3, 1000), required=True, help="How many fresh seeds.")
@data_option
@home_option
@quiet_option
@output_option
def confirm(job: str, seeds: int, data_path: str | None, home: Path | None, quiet: bool, output: str) -> None:
    """Confirm JOB's winners again, on fresh seeds only; the new verdict stands alone."""
    from tuner.errors import SpecError
    from tuner.home import Home
    from tuner.jobs import spec_of
    from tuner.preflight import preflight

    place = Home.find(home)
    folder = place.job(job)
    record, state = folder.record(), folder.state()
    if not record.rounds or state in ("running", "crashed"):
        raise SpecError(f"job {folder.id} is {state}; only a job whose search has ended can be confirmed again")
    spec = spec_of(folder)
    preflight(spec, place)
    options = ["--round", str(len(record.rounds) + 1), "--seeds", str(seeds), *_data(spec, data_path)]
    _drive(place, folder, spec, home, quiet, output, options)


@click.command(epilog="Example: tuner stop latest")
@job_argument
@home_option
def stop(job: str, home: Path | None) -> None:
    """Stop JOB, which runs on this machine; what was done is kept, and resume goes on from there."""
    import platform

    from tuner.errors import ServiceError, SpecError
    from tuner.home import Home
    from tuner.lease import holder

    folder = Home.find(home).job(job)
    found = holder(folder.lease)
    if found is None:
        raise SpecError(f"job {folder.id} is not running; it is {folder.state()}")
    if found.host != platform.node():
        raise ServiceError(f"job {folder.id} is held by {found}; stop it there")
    os.kill(found.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while holder(folder.lease) == found:
        if time.monotonic() > deadline:
            raise ServiceError(f"job {folder.id} still runs after {STOP_S:g} s: {found}")
        time.sleep(0.1)
    click.echo(f"{folder.id}: stopped; go on with: tuner resume {folder.id}", err=True)


@click.command(epilog="Example: tuner doctor --fix")
@click.option("--fix", is_flag=True, help="Close the runs of jobs that crashed; they can still be resumed.")
@home_option
@output_option
def doctor(fix: bool, home: Path | None, output: str) -> None:
    """Look for jobs that crashed or were damaged, and say what to do. Exits 5 if there are any left."""
    import dataclasses

    from tuner.doctor import close_crashed, examine
    from tuner.errors import IntegrityError
    from tuner.home import Home

    place = Home.find(home)
    if fix:
        for folder in place.jobs():
            if folder.state() == "crashed":
                close_crashed(place, folder)
                click.echo(f"{folder.id}: closed; go on with: tuner resume {folder.id}", err=True)
    findings = list(examine(place))
    if output == "json":
        print_json([dataclasses.asdict(finding) for finding in findings])
    elif findings:
        print_table(("job", "problem", "way out"), [(f.job, f.problem, f.way_out) for f in findings])
    if findings:
        raise click.exceptions.Exit(IntegrityError.exit_code)


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
    from tuner.errors import DriverLost
    from tuner.home import Home, JobFolder
    from tuner.run import NewRound
    from tuner.run import drive as drive_job
    from tuner.view import choose_view

    new_round = None if round_number is None else NewRound(round_number, seeds)
    try:
        with _stoppable() as asked:
            drive_job(Home(home), JobFolder(folder), scratch, choose_view(quiet), asked, data_path, new_round)
    except DriverLost as lost:
        # No error yet: the supervisor starts another.
        click.echo(f"warning: {lost}", err=True)
        raise click.exceptions.Exit(lost.exit_code) from lost


def _data(spec: "SearchSpec", given: str | None) -> list[str]:
    from tuner.spec import data_path_of

    found = data_path_of(spec.data.name, given)
    return [] if found is None else ["--data", found]


def _drive(
    place: "Home",
    folder: "JobFolder",
    spec: "SearchSpec",
    home: Path | None,
    quiet: bool,
    output: str,
    options: list[str] | None = None,
) -> None:
    from tuner.supervise import supervise

    options = ["--home", str(place.path), *(["--quiet"] if quiet else []), *(options or [])]
    code = supervise(folder, options, 60 * spec.resources.silent_minutes, lambda text: click.echo(text, err=True))
    if code:
        raise click.exceptions.Exit(code)
    _show_result(folder, home, output)


@contextmanager
def _stoppable() -> "Iterator[Stop]":
    """The first SIGINT or SIGTERM asks the job to stop; the second ends it at once. So does the supervisor's end."""
    from tuner.work import Stop

    asked = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.signal_number = number
        click.echo("stopping: what was done is kept (again to stop at once)", err=True)

    def listen() -> None:
        # Not through sys.stdin, whose lock a thread that waits would hold when the interpreter ends.
        while os.read(0, 1):
            pass
        asked.signal_number = asked.signal_number or signal.SIGTERM

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    threading.Thread(target=listen, name="supervisor-watch", daemon=True).start()
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_result(folder: "JobFolder", home: Path | None, output: str) -> None:
    from tuner.publish import board_of

    board = board_of(folder)
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


COMMANDS = (run, resume, confirm, stop, doctor, drive)
