"""A follower of the journal: a thread that keeps another store up to date, and retries while the store is unreachable.

MLflow, the studies' database and Postgres follow the journal this way. None of them ever holds up the search. Each
follower reads the journal file itself, so nothing is lost when it fails or when the process dies.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tuner.errors import TunerError, Unreachable
from tuner.storage.events import Entry

FIRST_RETRY_S = 1.0


@dataclass(frozen=True)
class Pace:
    """How often a follower sends, and how long it tries.

    Args:
        pause_s: shortest time between two sends.
        beat_s: longest time between two sends, also without a new event.
        longest_retry_s: longest pause after a failure. The first pause is 1 s, and each next one twice as long.
        give_up_s: when the job has ended, how long the store must have failed without a break before the rest is left
            to ``tuner sync``.
        patience_s: when the job has ended, how long a slow store is waited for; None waits for it to end.
    """

    pause_s: float
    beat_s: float
    longest_retry_s: float
    give_up_s: float
    patience_s: float | None = None


class NothingLeft(Exception):
    """Raised by a sender when it will never send again: the follower ends without a problem."""


class Follower:
    """Calls a sender in a thread, soon after each event and at least once per beat.

    Args:
        name: of the store, for messages.
        send: sends everything new in the journal, and raises what goes wrong.
        pace: how often, and how long to try.
    """

    def __init__(self, name: str, send: Callable[[], None], pace: Pace) -> None:
        self.problem: Exception | None = None
        """What went wrong at the last try; None if it went well."""
        self._name = name
        self._send = send
        self._pace = pace
        self._ending = threading.Event()
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{name}-follower", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def on_event(self, entry: Entry) -> None:
        """Send soon: an event was written."""
        self._news.set()

    def drain(self) -> None:
        """Send the rest and end; ``problem`` says what failed."""
        self._ending.set()
        self._news.set()
        self._thread.join(self._pace.patience_s)
        if self._thread.is_alive():
            self.problem = self.problem or Unreachable(
                f"{self._name} did not take everything within {self._pace.patience_s:g} s"
            )

    def warning(self, job: str) -> str | None:
        """One line about what the store lacks, and what to do about it; None if it lacks nothing."""
        problem = self.problem  # the thread may still live, and change it
        if problem is None:
            return None
        if isinstance(problem, Unreachable):
            return f"warning: {problem}; nothing is lost: tuner sync {job} sends the rest"
        text = str(problem) if isinstance(problem, TunerError) else f"{type(problem).__name__}: {problem}"
        return f"warning: {self._name} lacks a part of job {job}: {text}; once that is mended: tuner sync {job}"

    def _run(self) -> None:
        failing_since: float | None = None
        retry_s = FIRST_RETRY_S
        while True:
            ending = self._ending.is_set()
            self._news.clear()
            try:
                self._send()
                self.problem, failing_since, retry_s = None, None, FIRST_RETRY_S
            except NothingLeft:
                return
            except Exception as error:
                # The thread must survive any error: the next try, or ``tuner sync``, may succeed.
                self.problem = error
                failing_since = failing_since or time.monotonic()
            if failing_since is None:
                if ending:
                    return
                self._ending.wait(self._pace.pause_s)
                self._news.wait(self._pace.beat_s)
            elif not ending:
                self._ending.wait(retry_s)
                retry_s = min(2 * retry_s, self._pace.longest_retry_s)
            elif time.monotonic() - failing_since >= self._pace.give_up_s:
                return
            else:
                time.sleep(FIRST_RETRY_S)
