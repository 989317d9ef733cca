"""Runs a driver for a Python program: under a supervisor in a process of its own, and its errors become exceptions.

The program may have children, threads and signal handlers of its own, and the supervisor must not touch them. When the
program ends, the standard input of the supervisor closes, and the job stops; it can be resumed.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cluster.errors import ClusterError
from trainables.errors import TrainableError
from tuner.control.begin import Drive
from tuner.errors import Interrupted, ServiceError, SpecError, TunerError, error_of


def drive_to_its_end(drive: Drive, quiet: bool) -> None:
    """Run a driver until the job has ended, and show its progress on stderr: a table in a terminal, else lines.

    Args:
        drive: the driver.
        quiet: show nothing.

    Raises:
        KeyboardInterrupt: Ctrl-C, or "interrupt" in a notebook. The job has stopped and can be resumed.
        TunerError: the job failed or was stopped; the class says why.
    """
    with tempfile.TemporaryDirectory(prefix="tuner-") as scratch:
        errors = Path(scratch, "error.json")
        options = [*drive.options, "--home", str(drive.workspace.path), "--errors", str(errors)]
        options += ["--quiet"] if quiet else []
        code = _run([str(drive.folder.path), str(drive.silent_s), *options], _is_terminal(sys.stderr))
        if code:
            raise _error(code, errors, drive.folder.id)


@contextmanager
def user_errors() -> Iterator[None]:
    """Raise the errors of the lowest packages as ``TunerError`` too, so that one ``except`` catches all."""
    try:
        yield
    except TrainableError as error:
        raise SpecError(str(error)) from error
    except ClusterError as error:
        raise ServiceError(str(error)) from error


def say(quiet: bool) -> Callable[[str], None]:
    """Prints a message on stderr, unless ``quiet``."""
    return (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))


def _run(words: list[str], terminal: bool) -> int:
    process = subprocess.Popen(
        [sys.executable, "-m", "tuner.cli", "supervise", *words],
        stdin=subprocess.PIPE,
        stderr=None if terminal else subprocess.PIPE,
        # Ctrl-C in a terminal reaches this process only, which passes it on once.
        process_group=0,
    )
    try:
        while True:
            try:
                return _wait(process)
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
    finally:
        # After any other exception, the supervisor stops the job when its standard input closes.
        for pipe in (process.stdin, process.stderr):
            if pipe is not None:
                pipe.close()


def _wait(process: "subprocess.Popen[bytes]") -> int:
    if process.stderr is not None:
        # A notebook shows what is printed here, and not what another process writes to a terminal.
        for line in process.stderr:
            print(line.decode(errors="replace").rstrip("\n"), file=sys.stderr, flush=True)
    return process.wait()


def _is_terminal(stream: IO[str]) -> bool:
    try:
        return stream.isatty() and stream.fileno() == 2
    except (OSError, ValueError):
        return False


def _error(code: int, file: Path, job: str) -> BaseException:
    try:
        message = str(json.loads(file.read_bytes())["message"])
    except (OSError, ValueError):
        # The supervisor has printed why.
        message = f"the driver of job {job} ended with exit code {code}"
    if code == 128 + signal.SIGINT:
        return KeyboardInterrupt(f"job {job} was interrupted; resume it with: tuner.open({job!r}).resume()")
    if code == 128 + signal.SIGTERM:
        return Interrupted(message, signal.SIGTERM)
    error: TunerError = error_of(code)(message)
    error.add_note(f"look at it with: tuner.open({job!r})")
    return error
