"""Commands that use a job's results: report, export, reproduce."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tuner.cli.output import (
    address_option,
    cluster_of,
    data_option,
    home_option,
    job_argument,
    output_option,
    print_json,
)

if TYPE_CHECKING:
    from trainables.report import Report


PRINTED = {"-": "md", "md": "md", "json": "json"}
"""Values of ``--output`` that print the report instead of writing a file, and their formats."""


@click.command(
    epilog="""\b
Examples:
  tuner report latest                       JOB.html, with figures; it needs no network
  tuner report latest -o verdict.md         .html, .md or .json
  tuner report latest -o json | jq .board.best
"""
)
@job_argument
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="File to write (.html, .md, .json), or md or json to print [JOB.html in the current folder].",
)
@click.option("--force", is_flag=True, help="Overwrite the file.")
@address_option
@home_option
def report(job: str, output: str | None, force: bool, address: str | None, home: Path | None) -> None:
    """Write or print the report of JOB, finished or not: verdict, curves, settings, warnings and conditions."""
    from tuner.control.results import check_form, write_report
    from tuner.report.publish import report_of

    file = None if output is None or output in PRINTED else Path(output)
    if file is not None:
        check_form(file)
    if (url := cluster_of(address)) is not None:
        from tuner.remote.client import Service

        service = Service(url)
        if output in PRINTED:
            click.echo(service.report(job, PRINTED[output]), nl=False)
        else:
            click.echo(service.write_report(job, file, force))
        return
    from tuner.jobs.find import find_job
    from tuner.jobs.workspace import Workspace
    from tuner.verdict.ranking import job_results

    folder = find_job(Workspace.find(home), job)
    if output in PRINTED:
        click.echo(report_of(job_results(folder), f".{PRINTED[output]}"), nl=False)
    else:
        click.echo(write_report(folder, file, force))


@click.command(
    epilog="""\b
Examples:
  tuner export latest --best -o best.yaml
  tuner export latest --arm amsgrad -o amsgrad.json
  tuner export latest --best -o best.safetensors     the winner's weights
  tuner export latest --all -o exports/              every arm's winner, as YAML
"""
)
@job_argument
@click.option("--arm", metavar="ARM", help="Export the winner of this arm.")
@click.option(
    "--best", is_flag=True, help="Export the best winner that beats the baseline; if none does, the baseline's winner."
)
@click.option("--all", "every", is_flag=True, help="Export every arm's winner; -o names a folder.")
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(path_type=Path),
    required=True,
    help="File to write (.yaml, .json, .py, .safetensors).",
)
@click.option("--force", is_flag=True, help="Overwrite the file.")
@address_option
@home_option
def export(
    job: str,
    arm: str | None,
    best: bool,
    every: bool,
    file: Path,
    force: bool,
    address: str | None,
    home: Path | None,
) -> None:
    """Write JOB's winning settings and their evidence to a file. `tuner reproduce` reads such a file."""
    if (arm is not None) + best + every != 1:
        raise click.UsageError("give exactly one of --best, --arm ARM and --all")
    if (url := cluster_of(address)) is not None:
        from tuner.remote.client import Service

        choice = ["--arm", arm] if arm is not None else ["--best" if best else "--all"]
        for written in Service(url).export([job, *choice], file, force):
            click.echo(written)
        return
    from tuner.control.results import write_all_exports, write_export
    from tuner.jobs.find import find_job
    from tuner.jobs.workspace import Workspace

    folder = find_job(Workspace.find(home), job)
    for written in write_all_exports(folder, file, force) if every else [write_export(folder, file, arm, force)]:
        click.echo(written)


@click.command(
    epilog="""\b
Examples:
  tuner reproduce best.yaml
  tuner reproduce models:/quickstart@champion     a registered model
"""
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--fresh-seed",
    type=click.IntRange(0, 2**31 - 1),
    metavar="SEED",
    help="Train with this new seed instead of a recorded one.",
)
@click.option("--allow-code", is_flag=True, help="Allow the file to run its own model or data code.")
@data_option
@home_option
@output_option
def reproduce(
    file: Path, fresh_seed: int | None, allow_code: bool, data_path: str | None, home: Path | None, output: str
) -> None:
    """Train an exported or registered winner again and compare. Exits 0 if it is reproduced, 5 if not.

    With the same device, threads and versions, the weights must be equal to the last bit. Otherwise the test accuracy
    must lie in a 99 % prediction interval around the recorded accuracy of this seed, at most 3 points wide. An own
    trainable is run again: its judge metric must be equal, or lie in such an interval.
    """
    import dataclasses

    from tuner.errors import IntegrityError
    from tuner.export.export_file import check_allowed, job_of, read_export
    from tuner.export.registered_model import read_registered
    from tuner.jobs.workspace import Workspace
    from tuner.spec.search_spec import data_path_of
    from tuner.tracking.model_registry import SCHEME

    workspace = Workspace.find(home)
    winner = read_registered(str(file), workspace) if str(file).startswith(SCHEME) else read_export(file)
    check_allowed(winner, fresh_seed, allow_code)  # before the import of torch, which takes seconds
    data = data_path if winner.metric is not None else data_path_of(winner.config.data.name, data_path)
    from tuner.export.reproduce import reproduce as train_again
    from tuner.verdict.numbers import value_text

    def show(report: "Report") -> None:
        done, numbers = (
            f"epoch {report.epoch}/{winner.trial['epochs']}",
            {"train/loss": "train_loss", "val/acc": "val_acc"},
        )
        if winner.metric is not None:
            numbers = {winner.metric.choose: winner.metric.choose}
        told = ", ".join(f"{name} {value_text(report.metric(key))}" for name, key in numbers.items())
        click.echo(f"{done}: {told}", err=True)

    job = job_of(winner, workspace, file)
    result = train_again(winner, workspace, fresh_seed, data, allow_code, show, job)
    if output == "json":
        print_json(dataclasses.asdict(result) | {"reproduced": result.ok})
    else:
        click.echo(result.text())
    if not result.ok:
        raise IntegrityError(f"{file}: not reproduced")


COMMANDS = (report, export, reproduce)
