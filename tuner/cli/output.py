"""How commands take common options and print: a table for people, JSON for scripts."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

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


def data_option(command: F) -> F:
    """``--data DIR``."""
    return click.option(
        "--data",
        "data_path",
        metavar="DIR",
        help="Where the data lies, instead of the spec's data.path [TUNER_DATA].",
    )(command)


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
    (console if console.is_terminal else Pipe(width=WIDEST)).print(table)
