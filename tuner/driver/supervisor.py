"""Starts a job's driver, and a new one when it dies or hangs, as long as the job makes progress.

The driver is a separate process (``tuner drive``), so the supervisor survives the driver's death. The driver's
standard input is a pipe from the supervisor. When the supervisor dies, the pipe closes and the driver ends itself.
"""

import ctypes
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

from cluster.runtime import scratch_parent
from tuner.errors import DriverLost, TunerError
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.record import load_record
from tuner.storage.events import State

DRIVERS = 20
"""Most drivers of one supervisor."""
FRUITLESS = 2
"""After this many drivers in a row without progress, no new one is started."""
POLL_S = 0.5
ORPHANS_S = 10.0
PR_SET_CHILD_SUBREAPER = 36
"""An option of Linux's prctl."""
ENDS = (0, 2, 3, 4, 5, 6, 7, 130, 143)
"""Exit codes of a driver that has ended the job or explained why not. No new one is started."""


def supervise(folder: JobFolder, options: Sequence[str], silent_s: float, announce: Callable[[str], None]) -> int:
    """Run a job's driver, and a new one whenever it dies. SIGINT and SIGTERM are passed on to it.

    Args:
        folder: the job's folder.
        options: options of ``tuner drive``.
        silent_s: a driver without a sign of life for this long, in seconds, is killed.
        announce: called with a line about each driver that died.

    Returns:
        The exit code for this process.
    """
    fruitless = 0
    strangers = _family()
    _adopt_orphans()
    with _scratch() as scratch, _Signals() as signals:
        for _ in range(DRIVERS):
            before = _progress(folder)
            driver = _Driver(folder, [*options, "--scratch", str(scratch)], signals)
            code = driver.wait(silent_s)
            _end_all(_family() - strangers)
            if code in ENDS:
                return code
            if signals.received is not None:
                return 128 + signals.received
            fruitless = 0 if _progress(folder) > before else fruitless + 1
            # A bug that ends a driver before any progress would end the next one too. Its traceback was printed.
            if fruitless >= FRUITLESS or (code == 1 and fruitless):
                break
            announce(f"the driver of job {folder.id} {_death(code, driver.silent)}; a new one continues the job")
    announce(
        f"error: the driver of job {folder.id} {_death(code, driver.silent)}; try again with: tuner resume {folder.id}"
    )
    return 1


class _Signals:
    """Catches SIGINT and SIGTERM, and passes them on to the running driver."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.driver: subprocess.Popen[bytes] | None = None
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def __enter__(self) -> "_Signals":
        for number in self._before:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if self.driver is not None:
            self.driver.send_signal(number)


class _Driver:
    def __init__(self, folder: JobFolder, options: Sequence[str], signals: _Signals) -> None:
        self.silent = False
        self._folder = folder
        # In its own process group the driver gets Ctrl-C once, from here, and not from the terminal too.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tuner.cli", "drive", str(folder.path), *options],
            stdin=subprocess.PIPE,
            process_group=0,
        )
        signals.driver = self._process
        if signals.received is not None:
            self._process.send_signal(signals.received)

    def wait(self, silent_s: float) -> int:
        """Wait for its end, and kill it if it is silent for too long. Returns its exit code, negative for a signal."""
        sign, since = _life(self._folder), time.monotonic()
        while True:
            try:
                return self._process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                pass
            if (now := _life(self._folder)) != sign:
                sign, since = now, time.monotonic()
            elif time.monotonic() - since > silent_s:
                self.silent = True
                self._process.kill()
                return self._process.wait()


def _adopt_orphans() -> None:
    """Become the parent of processes that a killed driver leaves behind. Ray's outlive it for a while."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _family() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _end_all(left: set[psutil.Process]) -> None:
    """Kill processes that a driver left behind, before a new one starts and at the end of the job."""
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=ORPHANS_S)


def _progress(folder: JobFolder) -> int:
    """The job's progress: epochs trained plus trials ended."""
    try:
        record = load_record(folder.journal)
    except TunerError:
        # There is no journal yet, or it is damaged and the next driver recovers it.
        return 0
    ended = sum(trial.state != State.RUNNING for trial in record.trials.values())
    return ended + sum(len(trial.epochs) for trial in record.trials.values())


def _life(folder: JobFolder) -> tuple[int, ...]:
    """A value that changes as long as the driver is alive."""
    return tuple(file.stat().st_mtime_ns for file in (folder.journal, folder.lock_file) if file.exists())


def _death(code: int, silent: bool) -> str:
    if silent:
        return "showed no sign of life and was killed"
    if code == DriverLost.exit_code:
        return "lost the workers"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


@contextmanager
def _scratch() -> Iterator[Path]:
    folder = tempfile.mkdtemp(prefix="tuner-", dir=scratch_parent())
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
