"""Commands that start, stop and delete jobs: run, resume, extend, confirm, stop, delete."""

from pathlib import Path

import click

from tuner.cli.drive import drive_to_its_end, show_result
from tuner.cli.output import (
    address_option,
    cluster_of,
    data_option,
    home_option,
    job_argument,
    on_a_cluster,
    output_option,
    quiet_option,
)


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
    from tuner.control.begin import begin
    from tuner.control.draft import draft
    from tuner.jobs.workspace import Workspace
    from tuner.monitor.terminal import choose_view

    drive = begin(draft(spec, data_path=data_path), Workspace.find(home), simulate, choose_view(quiet).announce)
    drive_to_its_end(drive, home, quiet, output)


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
    from tuner.control.begin import again, complete
    from tuner.jobs.find import find_job
    from tuner.jobs.workspace import Workspace

    if (url := cluster_of(address)) is not None:
        _resume_there(url, job, data_path)
        return
    workspace = Workspace.find(home)
    folder = find_job(workspace, job)
    if folder.lacks(folder.state()):
        complete(workspace, folder, lambda text: click.echo(text, err=True))
        show_result(folder, home, output)
        return
    drive_to_its_end(again(workspace, folder, data_path), home, quiet, output)


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
    from tuner.control.begin import further
    from tuner.jobs.find import find_job
    from tuner.jobs.workspace import Workspace

    if (url := cluster_of(address)) is not None:
        from tuner.remote.client import Service

        click.echo(Service(url).extend(job, hours, data_path))
        return
    workspace = Workspace.find(home)
    drive_to_its_end(further(workspace, find_job(workspace, job), hours, data_path), home, quiet, output)


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
    from tuner.control.begin import once_more
    from tuner.jobs.find import find_job
    from tuner.jobs.workspace import Workspace

    if (url := cluster_of(address)) is not None:
        _resume_there(url, job, data_path, seeds)
        return
    workspace = Workspace.find(home)
    drive_to_its_end(once_more(workspace, find_job(workspace, job), seeds, data_path), home, quiet, output)


@click.command(epilog="Example: tuner stop latest")
@job_argument
@address_option
@click.option("--force", is_flag=True, help="On a cluster: end the job's processes if it does not stop in time.")
@home_option
def stop(job: str, address: str | None, force: bool, home: Path | None) -> None:
    """Stop JOB, on whichever machine it runs. Its progress is kept; resume it with `tuner resume`."""
    from tuner.control.begin import stop as stop_job
    from tuner.jobs.find import find_job
    from tuner.jobs.workspace import Workspace

    if (url := cluster_of(address)) is not None:
        from tuner.remote.client import Service

        click.echo(Service(url).stop(job, force), err=True, nl=False)
        return
    folder = find_job(Workspace.find(home), job)
    stop_job(folder)
    click.echo(f"{folder.id}: stopped; resume it with: tuner resume {folder.id}", err=True)


@click.command(epilog="Example: tuner delete quickstart-1a2b3c")
@click.argument("job", metavar="JOB")
@on_a_cluster
@home_option
def delete(job: str, home: Path | None) -> None:
    """Delete JOB, which must not be running. Nothing is asked, and nothing of JOB can be resumed or read later.

    Deleted are its folder with the journal, report and exports; its studies; its record and code in the Postgres
    database; its checkpoints and weights in the place that TUNER_SHARED names; and its runs in MLflow, which MLflow
    keeps in its trash until `mlflow gc`. Registered models, MLflow's experiment, decoded data and files that you wrote
    elsewhere stay.
    """
    from tuner.control.deletion import delete as delete_job
    from tuner.jobs.find import find_job
    from tuner.jobs.workspace import Workspace

    workspace = Workspace.find(home)
    found = delete_job(workspace, find_job(workspace, job))
    click.echo(f"{found.job}: deleted, with {found.studies} studies and {found.runs} runs in MLflow", err=True)


def _resume_there(address: str, job: str, data_path: str | None, seeds: int | None = None) -> None:
    from tuner.remote.client import Service

    click.echo(Service(address).resume(job, data_path, seeds))


COMMANDS = (run, resume, extend, confirm, stop, delete)
