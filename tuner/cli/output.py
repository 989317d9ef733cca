"""The options that commands share, and how commands print: a table for people, JSON for scripts."""

import codecs
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from trainables.foreign_text import printable

F = TypeVar("F", bound=Callable[..., Any])

PLAIN_ASCII = "plain_ascii"


def output_option(command: F) -> F:
    """``-o table|json``."""
    return click.option(
        "-o",
        "--output",
        "output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="Output format.",
    )(command)


def home_option(command: F) -> F:
    """``--home DIR``."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        help="Workspace folder of jobs and stores [TUNER_HOME, else ./tuner-runs].",
    )(command)


def address_option(command: F) -> F:
    """``--address URL``: the dashboard of a Ray cluster."""
    return click.option(
        "--address",
        metavar="URL",
        help="Use the Ray cluster with this dashboard [RAY_API_SERVER_ADDRESS, else RAY_ADDRESS, if http://…].",
    )(command)


def on_a_cluster(command: F) -> F:
    """``--address URL`` for a command about jobs: the cluster's head runs the command, and this machine prints it."""

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
    """The cluster's dashboard URL from the option, else from the environment. None means this machine.

    On the head, the environment holds the address of Ray itself, which is not a dashboard URL and is ignored.
    """
    if address is not None:
        return address
    url = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    return url if url is not None and url.startswith(("http://", "https://")) else None


def _words(context: click.Context) -> list[str]:
    """The command line of this call, without the options that apply to this machine only."""
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
        help="Folder of the data set, instead of the spec's data.path [TUNER_DATA].",
    )(command)


def quiet_option(command: F) -> F:
    """``-q``."""
    return click.option("-q", "--quiet", is_flag=True, help="Show no progress on stderr.")(command)


def no_open_option(command: F) -> F:
    """``--no-open``."""
    return click.option("--no-open", is_flag=True, help="Print the link without opening it.")(command)


def job_argument(command: F) -> F:
    """``[JOB]``: a job's id, the beginning of an id, or ``latest``."""
    return click.argument("job", default="latest", metavar="[JOB]")(command)


def print_error(message: str) -> None:
    """Print ``error: …`` on stderr, without control codes: a message can hold the text of a user's error."""
    click.echo(f"error: {printable(message)}", err=True)


def exit_code(error: Exception) -> int:
    """The exit code for an error that a user can cause."""
    from cluster.errors import ClusterError
    from tuner.errors import TunerError

    return error.exit_code if isinstance(error, TunerError) else 3 if isinstance(error, ClusterError) else 2


def print_json(value: Any) -> None:
    """Print JSON to stdout."""
    click.echo(json.dumps(value, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table to stdout. A column whose name ends with ``>`` is right-aligned."""
    from rich.console import Console

    from tuner.monitor.table import drawn, wide

    class Pipe(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    console = Pipe()
    (console if console.is_terminal else Pipe(width=wide())).print(drawn(columns, rows, title))


def replace_unprintable() -> None:
    """Print a question mark for what stdout or stderr cannot encode, such as a ± in ASCII. It must not end a search."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            if codecs.lookup(stream.encoding).name == "ascii":
                # Click writes UTF-8 to a stream whose encoding is called ascii.
                codecs.register(_plain_ascii)
                stream.reconfigure(encoding=PLAIN_ASCII)
            stream.reconfigure(errors="replace")


def _plain_ascii(name: str) -> codecs.CodecInfo | None:
    """ASCII by another name."""
    if name != PLAIN_ASCII:
        return None
    known = codecs.lookup("ascii")
    return codecs.CodecInfo(
        known.encode,
        known.decode,
        incrementalencoder=known.incrementalencoder,
        incrementaldecoder=known.incrementaldecoder,
        name=PLAIN_ASCII,
    )
