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
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO

from cluster.errors import ClusterError
from trainables.errors import TrainableError
from tuner.control.begin import Drive
from tuner.errors import Interrupted, ServiceError, SpecError, TunerError, error_of

POLL_S = 0.2


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
        words = [str(drive.folder.path), str(drive.silent_s), *options]
        code = _run(words, None if _is_terminal(sys.stderr) else Path(scratch, "progress"))
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


def _run(words: list[str], progress: Path | None) -> int:
    """Run the supervisor; its stderr is the terminal, or a file whose lines are printed here.

    A file and no pipe: if this process is killed, the driver can still write its last words while it stops.
    """
    with _opened(progress) as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tuner.cli", "supervise", *words],
            stdin=subprocess.PIPE,
            stderr=stderr,
            # Ctrl-C in a terminal reaches this process only, which passes it on once.
            process_group=0,
        )
    assert process.stdin is not None
    # After any other exception than Ctrl-C, the supervisor stops the job, because its standard input closes.
    with process.stdin, _Tail(progress) as tail:
        while True:
            try:
                return _wait(process, tail)
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)


def _wait(process: "subprocess.Popen[bytes]", tail: "_Tail") -> int:
    while True:
        try:
            return process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            tail.show()


def _opened(progress: Path | None) -> AbstractContextManager[IO[bytes] | None]:
    return nullcontext() if progress is None else progress.open("wb")


class _Tail:
    """Prints the lines of a growing file, because a notebook does not show what other processes write."""

    def __init__(self, file: Path | None) -> None:
        self._file = None if file is None else file.open(encoding="utf-8", errors="replace")
        self._begun = ""

    def __enter__(self) -> "_Tail":
        return self

    def __exit__(self, *_: object) -> None:
        self.show()
        if self._file is not None:
            self._file.close()

    def show(self) -> None:
        """Print the lines that are new."""
        if self._file is not None:
            *lines, self._begun = (self._begun + self._file.read()).split("\n")
            for line in lines:
                print(line, file=sys.stderr, flush=True)


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
