"""The command line in this process. It starts no interpreter, so thousands of calls are cheap."""

import io
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

from tuner.cli import _run


@dataclass(frozen=True)
class Answer:
    """The exit code, output and duration of a command; ``crash`` is an exception that the command did not catch."""

    code: int
    out: str
    err: str
    seconds: float
    crash: BaseException | None = None


def call(*args: object) -> Answer:
    """Run ``tuner`` with these arguments in the current folder."""
    out, err = io.StringIO(), io.StringIO()
    code, crash = 1, None
    started = time.monotonic()
    with patch.object(sys, "argv", ["tuner", *map(str, args)]), redirect_stdout(out), redirect_stderr(err):
        try:
            code = _run()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            crash = error
    return Answer(code, out.getvalue(), err.getvalue(), time.monotonic() - started, crash)
