"""Commands that start and stop jobs: run, resume, extend, confirm, stop."""

import os
import signal
import time
from pathlib import Path

import click

from tuner.cli.drive import data_options, drive_to_its_end, finish_publishing, hours_options
from tuner.cli.output import (
    address_option,
    cluster_of,
    data_option,
    home_option,
    job_argument,
    output_option,
    quiet_option,
)

STOP_S = 120.0
"""How long ``tuner stop`` waits for a job to end, in seconds."""


@click.command(epilog="Example: tuner run searches/quickstart.yaml")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--simulate", is_flag=True, help="Train nothing: use made-up learning curves. Takes seconds.")
@data_option
@home_option
@quiet_option
@output_option
def run(spec: Path, simulate: bool, data_path: str | None, home: Path | None, quiet: bool, output: str) -> None:
    """Search SPEC on this machine, and print the verdict.

    Searches every arm, then confirms the winners on fresh seeds. Starts Ray in this process tree and ends it. Ctrl-C
    stops the job and keeps its progress; resume it with `tuner resume`.
    """
    from tuner.driver.preflight import preflight
    from tuner.jobs.code_archive import code_files
    from tuner.jobs.request import new_job, storage_of
    from tuner.jobs.workspace import Workspace
    from tuner.monitor.terminal import choose_view
    from tuner.spec.checks import check
    from tuner.spec.search_spec import load
    from tuner.spec.user_code import code_folder, names_code, own_code

    loaded = load(spec, data_path)
    own_code(loaded, code_folder(loaded, spec.parent))
    view = choose_view(quiet)
    for warning in check(loaded, view.announce).warnings:
        view.announce(f"warning: {warning}")
    workspace = Workspace.find(home)
    code = code_folder(loaded, spec.parent)
    if not simulate:
        preflight(loaded, workspace)
        if names_code(loaded) and storage_of(loaded, workspace).startswith("postgresql"):
            for line in code_files(code).lines():
                view.announce(line)
    folder = new_job(workspace, loaded, spec.read_text(encoding="utf-8-sig"), code, simulate)
    drive_to_its_end(workspace, folder, loaded, home, quiet, output)


@click.command(epilog="Example: tuner resume latest")
@job_argument
@address_option
@data_option
@home_option
@quiet_option
@output_option
def resume(job: str, address: str | None, data_path: str | None, home: Path | None, quiet: bool, output: str) -> None:
    """Resume JOB after a stop, a crash or a failure you have fixed.

    Every unfinished trial continues at its next epoch, with the same settings and the same MLflow run. If JOB has
    finished and died before its report, exports or MLflow runs were complete, they are completed.
    """
    from tuner.driver.preflight import preflight
    from tuner.jobs.find import find_job
    from tuner.jobs.request import check_unchanged, refuse_finished, spec_of
    from tuner.jobs.workspace import Workspace

    if (url := cluster_of(address)) is not None:
        _resume_there(url, job, data_path)
        return
    workspace = Workspace.find(home)
    folder = find_job(workspace, job)
    state = folder.state()
    if folder.lacks(state):
        finish_publishing(workspace, folder, home, output)
        return
    refuse_finished(folder.id, state)
    check_unchanged(folder)
    spec = spec_of(folder)
    if not folder.started()["simulate"]:
        preflight(spec, workspace)
    drive_to_its_end(workspace, folder, spec, home, quiet, output, data_options(spec, data_path))


@click.command(epilog="Example: tuner extend latest --hours 2")
@job_argument
@click.option(
    "--hours",
    type=click.FloatRange(min=0, min_open=True),
    help="Begin no search that would end after this many hours [no cap].",
)
@address_option
@data_option
@home_option
@quiet_option
@output_option
def extend(
    job: str,
    hours: float | None,
    address: str | None,
    data_path: str | None,
    home: Path | None,
    quiet: bool,
    output: str,
) -> None:
    """Search further in JOB, which ended before its last look, until every arm is settled or the last look is taken.

    For jobs about methods whose time was spent, or where an arm was given up because more searches would hardly
    settle it. The remaining looks of the spec follow, with the part of the 5 % that is left. The best setting is then
    confirmed on fresh seeds. `budget.max_hours` and `budget.max_gpu_hours` do not count any more.
    """
    from tuner.driver.preflight import preflight
    from tuner.jobs.find import find_job
    from tuner.jobs.request import check_unchanged, next_extension, spec_of
    from tuner.jobs.workspace import Workspace

    if (url := cluster_of(address)) is not None:
        from tuner.remote.client import Service

        click.echo(Service(url).extend(job, hours, data_path))
        return
    workspace = Workspace.find(home)
    folder = find_job(workspace, job)
    spec, number = spec_of(folder), next_extension(folder)
    check_unchanged(folder)
    if not folder.started()["simulate"]:
        preflight(spec, workspace)
    options = ["--extension", str(number), *hours_options(hours), *data_options(spec, data_path)]
    drive_to_its_end(workspace, folder, spec, home, quiet, output, options)


@click.command(epilog="Example: tuner confirm latest --seeds 20")
@job_argument
@click.option("--seeds", type=click.IntRange(3, 1000), required=True, help="Number of fresh seeds.")
@address_option
@data_option
@home_option
@quiet_option
@output_option
def confirm(
    job: str, seeds: int, address: str | None, data_path: str | None, home: Path | None, quiet: bool, output: str
) -> None:
    """Train JOB's best settings again on fresh seeds, for a better estimate. The verdict stays as it is.

    In a job about methods only the best arm's setting has been confirmed so far; this confirms the setting of every
    arm, so that each of them can be exported.
    """
    from tuner.driver.preflight import preflight
    from tuner.jobs.find import find_job
    from tuner.jobs.request import next_round, spec_of
    from tuner.jobs.workspace import Workspace

    if (url := cluster_of(address)) is not None:
        _resume_there(url, job, data_path, seeds)
        return
    workspace = Workspace.find(home)
    folder = find_job(workspace, job)
    spec, number = spec_of(folder), next_round(folder)
    preflight(spec, workspace)
    options = ["--round", str(number), "--seeds", str(seeds), *data_options(spec, data_path)]
    drive_to_its_end(workspace, folder, spec, home, quiet, output, options)


@click.command(epilog="Example: tuner stop latest")
@job_argument
@address_option
@click.option("--force", is_flag=True, help="On a cluster: end the job's processes if it does not stop in time.")
@home_option
def stop(job: str, address: str | None, force: bool, home: Path | None) -> None:
    """Stop JOB, on whichever machine it runs. Its progress is kept; resume it with `tuner resume`."""
    from tuner.errors import ServiceError, SpecError
    from tuner.jobs.find import find_job
    from tuner.jobs.workspace import Workspace

    if (url := cluster_of(address)) is not None:
        from tuner.remote.client import Service

        click.echo(Service(url).stop(job, force), err=True, nl=False)
        return
    folder = find_job(Workspace.find(home), job)
    owner, database = folder.owner(), folder.database()
    if owner is None:
        raise SpecError(f"job {folder.id} is not running; it is {folder.state()}")
    if folder.is_held_here:
        os.kill(owner.pid, signal.SIGTERM)
    elif database is not None:
        database.ask_to_stop(folder.id)
    deadline = time.monotonic() + STOP_S
    while folder.owner() == owner:
        if time.monotonic() > deadline:
            raise ServiceError(f"job {folder.id} still runs after {STOP_S:g} s: {owner}")
        time.sleep(0.1)
    click.echo(f"{folder.id}: stopped; resume it with: tuner resume {folder.id}", err=True)


def _resume_there(address: str, job: str, data_path: str | None, seeds: int | None = None) -> None:
    from tuner.remote.client import Service

    click.echo(Service(address).resume(job, data_path, seeds))


COMMANDS = (run, resume, extend, confirm, stop)
