"""Commands for jobs on a cluster: submit, logs, keep, and the hidden commands that run on its head."""

import base64
import gzip
import json
import sys
import tempfile
from contextlib import chdir, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tuner.cli.drive import drive_to_its_end, show_result
from tuner.cli.output import (
    address_option,
    cluster_of,
    data_option,
    home_option,
    job_argument,
    output_option,
    print_json,
    quiet_option,
)

if TYPE_CHECKING:
    from tuner.jobs.code_archive import CodeFiles
    from tuner.remote.client import Service
    from tuner.remote.submission import PackedJob


@click.command(
    epilog="""\b
Examples:
  tuner submit search.yaml --dry-run
  tuner submit search.yaml --address http://127.0.0.1:8265
  tuner submit search.yaml --wait && tuner leaderboard --fail-unless beats
"""
)
@click.argument("spec", type=click.Path(path_type=Path))
@address_option
@click.option("--wait", is_flag=True, help="Show the job's log until the job ends, then exit with its code.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Wait at most this long; exit 124 if the job has not ended.",
)
@click.option("--queue", is_flag=True, help="Accept the job even if no node can run its trials yet.")
@click.option("--dry-run", is_flag=True, help="List the files that would travel, with their sizes, and submit nothing.")
@data_option
@quiet_option
@output_option
def submit(
    spec: Path,
    address: str | None,
    wait: bool,
    timeout: float | None,
    queue: bool,
    dry_run: bool,
    data_path: str | None,
    quiet: bool,
    output: str,
) -> None:
    """Submit SPEC to a Ray cluster, and print the job's id.

    The same spec, code and name are always the same job: submitting it twice starts it once. This machine needs only
    the cluster's address and token. RAY_AUTH_TOKEN_PATH names the file with the token.

    If the spec names your own code, the files of its folder travel too: to the cluster's head, to the nodes, and into
    the job's record in the database. What .gitignore and .rayignore name stays here, and so do files that look like
    secrets, links out of the folder, pipes and sockets.
    """
    from tuner.driver.code_check import try_imports
    from tuner.remote.client import Service
    from tuner.remote.submission import pack_job

    if dry_run:
        _dry_run(spec, data_path, output)
        return
    packed = pack_job(spec, data_path, partial(try_imports, announce=partial(click.echo, err=True)))
    service = Service(address)
    if packed.code is not None and not quiet:
        for line in packed.code.lines():
            click.echo(line, err=True)
    submitted = service.send(packed, queue)
    if output == "json":
        print_json(submitted._asdict())
    else:
        click.echo(submitted.job)
    if not submitted.new:
        click.echo(f"{submitted.job} was submitted before; see: tuner status {submitted.job}", err=True)
    if wait or timeout is not None:
        _wait(service, submitted.job, timeout, quiet)


@click.command(epilog="Example: tuner logs latest -f")
@job_argument
@address_option
@click.option("-f", "--follow", is_flag=True, help="Print new lines until the job ends.")
@home_option
def logs(job: str, address: str | None, follow: bool, home: Path | None) -> None:
    """Print JOB's log: on a cluster the output of its driver, otherwise its journal in words."""
    if (url := cluster_of(address)) is not None:
        from tuner.remote.client import Service

        lines = Service(url).logs(job, follow)
    else:
        from tuner.jobs.find import find_job
        from tuner.jobs.workspace import Workspace
        from tuner.monitor.event_log import log_lines

        lines = log_lines(find_job(Workspace.find(home), job), follow)
    for line in lines:
        click.echo(line)


@click.command(epilog="Example: tuner keep --address http://head:8265")
@address_option
@click.option("--once", is_flag=True, help="Check the jobs once, then exit.")
def keep(address: str | None, once: bool) -> None:
    """Resume submitted jobs whose driver is gone, for example after the head is lost. Runs until it is stopped.

    Needs the database with the jobs' records: TUNER_STORAGE.
    """
    import os

    from tuner.errors import SpecError
    from tuner.jobs.job_folder import STORAGE_VARIABLE, open_database
    from tuner.remote.watchdog import Watchdog

    database = open_database(os.environ.get(STORAGE_VARIABLE))
    if database is None:
        raise SpecError(f"set {STORAGE_VARIABLE} to the postgresql:// URL of the database with the jobs' records")
    watchdog = Watchdog(database, address, lambda text: click.echo(text, err=True))
    if once:
        for submission in watchdog.poll():
            click.echo(submission)
    else:
        watchdog.watch()


@click.command(hidden=True)
@click.option("--job", help="Job with a record in the database [the submitted files in the current folder].")
@click.option("--seeds", type=click.IntRange(3, 1000))
@click.option("--extend", is_flag=True)
@click.option("--hours", type=float)
@data_option
def work(job: str | None, seeds: int | None, extend: bool, hours: float | None, data_path: str | None) -> None:
    """Run a submitted job on the head of its cluster, from its current state."""
    from tuner.control.begin import Drive, complete, data_options
    from tuner.driver.preflight import preflight_on_cluster
    from tuner.errors import ServiceError
    from tuner.jobs.find import find_job
    from tuner.jobs.request import check_unchanged, next_extension, next_round, spec_of
    from tuner.jobs.workspace import Workspace
    from tuner.remote.receive import unpack_job

    workspace = Workspace.find()
    folder = unpack_job(workspace, Path.cwd()) if job is None else find_job(workspace, job)
    state = folder.state()
    if seeds is None and not extend and folder.lacks(state):
        try:
            complete(workspace, folder, lambda text: click.echo(text, err=True))
            show_result(folder, None, "table")
        except ServiceError as error:
            # The job itself has finished, and its report is written.
            click.echo(f"warning: {error}; once that is mended: tuner sync {folder.id}", err=True)
        return
    if seeds is None and not extend and state == "finished":
        click.echo(f"{folder.id} is finished")
        return
    check_unchanged(folder)
    spec = spec_of(folder)
    preflight_on_cluster(spec, workspace)
    options = () if seeds is None else ("--round", str(next_round(folder)), "--seeds", str(seeds))
    if extend:
        limit = () if hours is None else ("--hours", str(hours))
        options = ("--extension", str(next_extension(folder)), *limit)
    drive = Drive(workspace, folder, spec, (*options, *data_options(spec, data_path)))
    drive_to_its_end(drive, None, False, "table")


@click.command(hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def forwarded(context: click.Context, words: tuple[str, ...]) -> None:
    """Run a command that writes files, and print the files as JSON: name to content, compressed and in base64."""
    root = context.find_root().command
    with tempfile.TemporaryDirectory(prefix="tuner-") as folder, chdir(folder):
        with redirect_stdout(StringIO()):
            root.main(list(words), standalone_mode=False)
        files = sorted(file for file in Path().rglob("*") if file.is_file())
        content = {str(file): base64.b64encode(gzip.compress(file.read_bytes())).decode() for file in files}
    sys.stdout.write(json.dumps(content))


def _dry_run(spec: Path, data_path: str | None, output: str) -> None:
    """List what would travel, also if it is refused."""
    from tuner.driver.code_check import try_imports
    from tuner.errors import SpecError
    from tuner.remote.submission import pack_job

    found: list[CodeFiles] = []
    try:
        packed = pack_job(spec, data_path, partial(try_imports, announce=partial(click.echo, err=True)), found.append)
    except SpecError:
        if found:
            _show_packed(None, found[0], output)
        raise
    _show_packed(packed, packed.code, output)


def _show_packed(packed: "PackedJob | None", code: "CodeFiles | None", output: str) -> None:
    from tuner.remote.receive import SPEC

    if output == "json":
        print_json({"job": packed and packed.job, "code": None if code is None else code.to_dict()})
        return
    if packed is not None:
        click.echo(f"{packed.job}: would be submitted with {len(packed.files[SPEC]):,} bytes of its spec")
    for line in [] if code is None else code.lines(len(code.files) + len(code.left_out)):
        click.echo(line)


def _wait(service: "Service", job: str, timeout: float | None, quiet: bool) -> None:
    try:
        if not quiet and timeout is None:
            for line in service.logs(job, follow=True):
                click.echo(line, err=True)
        code = service.wait(job, timeout)
    except KeyboardInterrupt:
        click.echo(f"{job} continues on the cluster; see: tuner logs -f {job}", err=True)
        raise
    if code:
        raise click.exceptions.Exit(code)
    board = service.ask(["leaderboard", job])
    click.echo(board.out, nl=False)
    click.echo(board.err, nl=False, err=True)


COMMANDS = (submit, logs, keep, work, forwarded)
