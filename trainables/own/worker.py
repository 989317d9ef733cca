"""``OwnWorker``: the Ray actor that runs a user's own trainable."""

from typing import Any


class OwnWorker:
    """Runs one attempt of an own trainable after another."""

    def begin(self, config: dict[str, Any]) -> dict[str, Any]:
        """Start a trial and take its first report."""
        raise NotImplementedError

    def train(self) -> dict[str, Any]:
        """Take another report."""
        raise NotImplementedError

    def stop(self) -> None:
        """No call will follow."""
