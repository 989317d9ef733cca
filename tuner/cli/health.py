"""Commands that check jobs and clusters: doctor, and the hidden command ``hops`` that it runs on a cluster's head."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tuner.cli.output import (
    address_option,
    cluster_of,
    data_option,
    home_option,
    output_option,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from tuner.remote.diagnostics import Check


@click.command(
    epilog="""\b
Examples:
  tuner doctor --fix
  tuner doctor --address http://127.0.0.1:8265
"""
)
@address_option
@click.option("--fix", is_flag=True, help="Close the MLflow runs of crashed jobs. The jobs can still be resumed.")
@data_option
@home_option
@output_option
def doctor(address: str | None, fix: bool, data_path: str | None, home: Path | None, output: str) -> None:
    """Find jobs that crashed or are damaged. On a cluster, test every connection that a job uses.

    Each problem comes with its fix. Exits 5 if there is a problem.
    """
    if (url := cluster_of(address)) is not None:
        _check_cluster(url, data_path, output)
        return
    from tuner.driver.repair import close_crashed, examine
    from tuner.jobs.workspace import Workspace

    workspace = Workspace.find(home)
    if fix:
        for folder in workspace.jobs():
            if folder.state() == "crashed":
                close_crashed(workspace, folder)
                click.echo(f"{folder.id}: closed; resume it with: tuner resume {folder.id}", err=True)
    findings = list(examine(workspace))
    if output == "json":
        print_json([dataclasses.asdict(finding) for finding in findings])
    elif findings:
        print_table(("job", "problem", "way out"), [(f.job, f.problem, f.way_out) for f in findings])
    _exit(bad=bool(findings))


@click.command(hidden=True)
@data_option
def hops(data_path: str | None) -> None:
    """Test, on the head, every connection that a job uses. Prints JSON."""
    from tuner.jobs.workspace import Workspace
    from tuner.remote.diagnostics import checks_on_cluster

    print_json([dataclasses.asdict(check) for check in checks_on_cluster(Workspace.find(), data_path)])


def _check_cluster(url: str, data_path: str | None, output: str) -> None:
    from tuner.errors import ServiceError
    from tuner.remote.client import Service
    from tuner.remote.diagnostics import Check, checks_from_here

    service = Service(url)
    checks = list(checks_from_here(service.api))
    words = ["hops", *([] if data_path is None else ["--data", data_path])]
    answer = service.ask(words)
    if answer.code:
        last = (answer.err.strip().splitlines() or ["there is no error message"])[-1]
        raise ServiceError(f"{shlex.join(words)} failed on the head: {last.removeprefix('error: ')}")
    checks += [Check(**check) for check in json.loads(answer.out)]
    if output == "json":
        print_json([dataclasses.asdict(check) for check in checks])
    else:
        print_table(("", "way", "found", "fix"), [_cells(check) for check in checks])
    _exit(bad=not all(check.ok for check in checks))


def _cells(check: "Check") -> tuple[str, str, str, str]:
    return ("ok" if check.ok else "BAD", check.name, check.detail, "" if check.ok else check.fix)


def _exit(bad: bool) -> None:
    from tuner.errors import IntegrityError

    if bad:
        raise click.exceptions.Exit(IntegrityError.exit_code)


COMMANDS = (doctor, hops)
