"""A request to stop a job, from a signal handler or another thread."""

import signal
from dataclasses import dataclass


@dataclass
class StopRequest:
    """Tells a run to stop; it is true once a stop was requested.

    Args:
        signal_number: the signal that requested it.
        failure: the error that makes the run stop.
    """

    signal_number: int | None = None
    failure: Exception | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None or self.failure is not None

    def ask(self) -> None:
        """Request a stop, as SIGTERM does."""
        self.signal_number = self.signal_number or signal.SIGTERM
