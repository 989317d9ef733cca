"""How commands take common options and print: a table for people, JSON for scripts."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

F = TypeVar("F", bound=Callable[..., Any])

WIDEST = 200


def output_option(command: F) -> F:
    """``-o table|json``."""
    return click.option(
        "-o",
        "--output",
        "output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="How to print.",
    )(command)


def home_option(command: F) -> F:
    """``--home DIR``."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder of jobs and stores [TUNER_HOME, else ./tuner-runs].",
    )(command)


def address_option(command: F) -> F:
    """``--address URL``: of a Ray cluster's dashboard."""
    return click.option(
        "--address",
        metavar="URL",
        help="Ask the Ray cluster whose dashboard is there [RAY_API_SERVER_ADDRESS, RAY_ADDRESS, if http://…].",
    )(command)


def on_a_cluster(command: F) -> F:
    """``--address URL`` for a command about jobs: it is run on that cluster's head, and what it prints comes back."""

    @wraps(command)
    def wrapped(*args: Any, address: str | None, **options: Any) -> Any:
        if (url := cluster_of(address)) is None:
            return command(*args, **options)
        from tuner.remote.client import Service

        answer = Service(url).ask(_words(click.get_current_context()))
        click.echo(answer.out, nl=False)
        click.echo(answer.err, nl=False, err=True)
        raise click.exceptions.Exit(answer.code)

    return address_option(cast(F, wrapped))


def cluster_of(address: str | None) -> str | None:
    """The cluster that a command is to ask: of the flag, else of the environment; None for what is here.

    The head's own environment names Ray's port there, which is none of a dashboard.
    """
    if address is not None:
        return address
    named = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    return named if named is not None and named.startswith(("http://", "https://")) else None


def _words(context: click.Context) -> list[str]:
    """The command line that this command was called with, but for what holds on this machine only."""
    words = [str(context.info_name)]
    for param in context.command.params:
        value = context.params.get(str(param.name))
        if param.name in ("address", "home") or value is None or value is False:
            continue
        if isinstance(param, click.Argument):
            words.append(str(value))
        else:
            words += [param.opts[-1]] if value is True else [param.opts[-1], str(value)]
    return words


def data_option(command: F) -> F:
    """``--data DIR``."""
    return click.option(
        "--data",
        "data_path",
        metavar="DIR",
        help="Where the data lies, instead of the spec's data.path [TUNER_DATA].",
    )(command)


def quiet_option(command: F) -> F:
    """``-q``."""
    return click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")(command)


def no_open_option(command: F) -> F:
    """``--no-open``."""
    return click.option("--no-open", is_flag=True, help="Only print the link.")(command)


def job_argument(command: F) -> F:
    """``[JOB]``: an id, the beginning of one, or ``latest``."""
    return click.argument("job", default="latest", metavar="[JOB]")(command)


def print_json(value: Any) -> None:
    """Print JSON to stdout."""
    click.echo(json.dumps(value, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table to stdout; columns named with a trailing ``>`` are right-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.removesuffix(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)

    class Pipe(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    console = Pipe()
    # A pipe has no width of its own: do not fold what a script or a log will read.
    (console if console.is_terminal else Pipe(width=int(os.environ.get("COLUMNS") or WIDEST))).print(table)
