"""The command line: a thin rim that parses, calls one function and prints.

Data goes to stdout, talk to stderr. Nothing heavy is imported before the command that needs it runs.
"""

import os
import sys
from typing import Any

import click

from tuner import __version__
from tuner.errors import TunerError

EXIT_CODES = """\b
Exit codes:
  0 fine                    4 no such job, trial or file
  1 a bug of ours           5 altered file, or not reproduced
  2 usage or invalid spec   6 the gate --fail-unless was not met
  3 cluster, tracker or     7 the search failed
    storage unreachable   124 --timeout has passed
                          130, 143 interrupted
"""


class _Commands(click.Group):
    """A group whose reader may go: ``tuner leaderboard | head`` is no error, where click would exit with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Nothing more can be written, not even what Python still holds when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(0) from None


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EXIT_CODES,
)
@click.version_option(__version__, prog_name="tuner")
def cli() -> None:
    """Search hyper-parameters, and know whether a variant beats the baseline.

    \b
    Start here:
      tuner init search.yaml      write a commented spec
      tuner plan search.yaml      what it would run, and about what that costs
      tuner run search.yaml       search, confirm on fresh seeds, judge
      tuner leaderboard           the latest job's verdicts
      tuner ui                    browse its trials in MLflow
      tuner submit search.yaml    the same on a Ray cluster (--address); then status, logs, leaderboard, export

    Shell completion: eval "$(_TUNER_COMPLETE=bash_source tuner)" (or zsh_source, fish_source).
    """


def main() -> None:
    """Run the command line; every error a user can cause is one line on stderr and its exit code."""
    sys.exit(_run())


def _run() -> int:
    from cluster.errors import ClusterError
    from trainables.errors import TrainableError

    try:
        code = cli.main(standalone_mode=False)
    except click.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except TunerError as error:
        return _fail(str(error), error.exit_code)
    except TrainableError as error:
        return _fail(str(error), 2)
    except ClusterError as error:
        return _fail(str(error), 3)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    # click returns what ``Exit`` asked for (--help, --version), else what the command returned: nothing.
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    click.echo(f"error: {message}", err=True)
    return code


from tuner.cli import deploy, drive, health, jobs, results, run, service, specs  # noqa: E402

for group in (specs, run, drive, service, jobs, results, health, deploy):
    for command in group.COMMANDS:
        cli.add_command(command)
