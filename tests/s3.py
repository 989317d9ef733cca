"""An S3-like server kept small: real HTTP on loopback; it can be taken away and put back, and forgets nothing."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

HOST = "127.0.0.1"
BUCKET = "tuner-tests"


class S3Server:
    """A server of one bucket."""

    def __init__(self) -> None:
        self._port = 0
        self._server: Any = None

    def start(self) -> None:
        """Answer, at the same address as before."""
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request
        self._server = ThreadedMotoServer(ip_address=HOST, port=self._port, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        """Refuse connections from now on."""
        self._server.stop()

    @property
    def env(self) -> dict[str, str]:
        """What its clients have in their environment."""
        return {
            "AWS_ACCESS_KEY_ID": "made-up",
            "AWS_SECRET_ACCESS_KEY": "made-up-too",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{HOST}:{self._port}",
        }

    def objects(self, prefix: str = "") -> list[str]:
        """Names of the objects of the bucket, as the server has them."""
        from moto.core.base_backend import BackendDict
        from moto.s3.models import s3_backends

        backends: BackendDict[Any] = s3_backends
        bucket = next(iter(backends.values()))["aws"].buckets[BUCKET]
        return sorted(key for key in bucket.keys if key.startswith(prefix))


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server with an empty bucket, and this process its client."""
    from pyarrow.fs import S3FileSystem

    server = S3Server()
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.env.items():
            patch.setenv(name, value)
        made = S3FileSystem(endpoint_override=server.env["AWS_ENDPOINT_URL"], allow_bucket_creation=True)
        made.create_dir(BUCKET)
        yield server
    server.stop()
