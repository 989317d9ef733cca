"""The command line: each command parses its arguments, calls one function and prints the result.

Data goes to stdout, messages go to stderr. Heavy modules are imported inside the command that needs them.
"""

import os
import sys
from typing import Any

import click

from tuner import __version__
from tuner.cli.output import exit_code, print_error, replace_unprintable
from tuner.errors import TunerError

EXIT_CODES = """\b
Exit codes:
  0 success                 4 no such job, trial or file
  1 a bug in tuner          5 altered file, or not reproduced
  2 usage or invalid spec   6 the gate --fail-unless was not met
  3 cluster, tracker or     7 the search failed
    storage unreachable   124 --timeout reached
                          130, 143 interrupted
"""


class _Commands(click.Group):
    """A group that exits 0 when its reader closes the pipe, as in ``tuner leaderboard | head``. Click exits 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Python flushes stdout at exit. With a closed pipe that would fail again, so stdout becomes /dev/null.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(0) from None


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EXIT_CODES,
)
@click.version_option(__version__, prog_name="tuner")
def cli() -> None:
    """Search hyperparameters, and find out whether a variant beats the baseline.

    \b
    Start here:
      tuner init search.yaml      write a commented spec
      tuner plan search.yaml      show what it would run, and the estimated cost
      tuner run search.yaml       search, confirm on fresh seeds, print the verdict
      tuner leaderboard           show the verdicts of the latest job
      tuner ui                    browse the trials of the latest job in MLflow
      tuner submit search.yaml    run it on a Ray cluster (--address); then use status, logs, leaderboard, export

    Shell completion: eval "$(_TUNER_COMPLETE=bash_source tuner)" (or zsh_source, fish_source).
    """


def main() -> None:
    """Run the command line. An error that a user can cause prints one line on stderr and sets the exit code."""
    replace_unprintable()
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
    except (TunerError, TrainableError, ClusterError) as error:
        return _fail(str(error), exit_code(error))
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    # Click returns the exit code of ``Exit`` (--help, --version), else the return value of the command: None.
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    print_error(message)
    return code


from tuner.cli import deploy, drive, health, jobs, results, run, service, specs  # noqa: E402

for group in (specs, run, drive, service, jobs, results, health, deploy):
    for command in group.COMMANDS:
        cli.add_command(command)
