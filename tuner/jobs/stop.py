"""A request to stop a job, from a signal handler or another thread."""

import signal
from dataclasses import dataclass


@dataclass
class StopRequest:
    """Asks a run to stop, from a signal handler or another thread.

    Args:
        signal_number: the signal that asked.
        failure: why it must stop, where nobody asked.
    """

    signal_number: int | None = None
    failure: Exception | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None or self.failure is not None

    def ask(self) -> None:
        """As SIGTERM does."""
        self.signal_number = self.signal_number or signal.SIGTERM
