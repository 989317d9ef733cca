"""Ends a training process that its driver no longer calls."""

import math
import os
import sys
import threading
import time
from typing import NoReturn

LONELY_EXIT = 75
"""Exit status of a worker that its driver no longer calls (``EX_TEMPFAIL``: another attempt may succeed)."""


class Watchdog:
    """Ends this process if an expected call does not come, because the driver is dead or unreachable."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._patience_s = math.inf
        self._deadline = math.inf
        self._thread: threading.Thread | None = None

    def expect_call(self, within_s: float) -> None:
        """End the process unless ``called`` comes within this time."""
        with self._changed:
            self._patience_s, self._deadline = within_s, time.monotonic() + within_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()

    def called(self) -> None:
        """The call has come, or none is expected any more."""
        with self._changed:
            self._deadline = math.inf

    def _watch(self) -> NoReturn:
        with self._changed:
            while (left_s := self._deadline - time.monotonic()) > 0:
                self._changed.wait(min(left_s, threading.TIMEOUT_MAX))
            # The lock is still held, so a call that comes now waits and starts no training whose report would be lost.
            try:
                message = f"tuner: no call for {self._patience_s:g} s; the driver may be dead. This worker ends itself."
                print(message, file=sys.stderr, flush=True)
            finally:
                os._exit(LONELY_EXIT)


watchdog = Watchdog()
"""One per process, because it ends the whole process."""
