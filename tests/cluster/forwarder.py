"""A port forward that a test can interrupt and restore."""

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from urllib.parse import urlsplit


class Forwarder:
    """Forwards connections from its own port to a server.

    Args:
        url: URL of the server.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 80)
        self._open: list[socket.socket] = []
        self._listener = self._listen(0)
        self.port = int(self._listener.getsockname()[1])

    @property
    def address(self) -> str:
        """URL of the forwarder."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Forwarder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def cut(self) -> None:
        """Close all connections and accept no new ones."""
        for connection in (self._listener, *self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def heal_after(self, seconds: float) -> None:
        """Accept connections again after a delay. Does not wait for it."""

        def heal() -> None:
            time.sleep(seconds)
            self._listener = self._listen(self.port)

        threading.Thread(target=heal, daemon=True).start()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()
        return listener

    def _serve(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
                self._open += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(65536):
            sink.sendall(chunk)
    for connection in (source, sink):
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
