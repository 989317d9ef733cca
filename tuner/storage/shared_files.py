"""Where a job keeps files that other nodes need: ``TUNER_SHARED``, a folder that all nodes mount or an S3 URL."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainables.errors import DiskFull, StoreError
from trainables.file_store import S3, checked, files_at
from tuner.errors import ServiceError, SpecError

VARIABLE = "TUNER_SHARED"
ANSWER_S = 5.0


def shared_root() -> str | None:
    """The place that ``TUNER_SHARED`` names. None if it is not set; a job then keeps all files in its own folder.

    Raises:
        SpecError: it is neither an absolute path nor an S3 URL without credentials.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    try:
        return checked(named)
    except ValueError as error:
        raise SpecError(f"{VARIABLE}: {error}") from None


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise errors of a file store as ``ServiceError``, except ``FileNotFoundError``."""
    try:
        yield
    except (StoreError, DiskFull) as error:
        raise ServiceError(str(error)) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ServiceError(f"{error.filename}: {error.strerror}") from error


def check_writable(root: str) -> None:
    """Write a small file to a folder or bucket, and remove it.

    Raises:
        ServiceError: it fails, or takes longer than ``ANSWER_S``. A mount whose server is gone would wait for ever.
    """
    problems: list[ServiceError] = []

    def check() -> None:
        try:
            _write_and_remove(root)
        except ServiceError as error:
            problems.append(error)

    thread = threading.Thread(target=check, name="shared-check", daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    if thread.is_alive():
        raise ServiceError(f"{VARIABLE}: {root} does not answer within {ANSWER_S:g} s")
    if problems:
        raise ServiceError(f"{VARIABLE}: {problems[0]}")


def _write_and_remove(root: str) -> None:
    if not root.startswith(S3) and not Path(root).is_dir():
        raise ServiceError(f"{root} is no folder here; make it, or mount it")
    name, files = f".tuner-{os.getpid()}", files_at(root, patience_s=0)
    try:
        files.write(name, b"", writer=os.getpid())
    except (StoreError, DiskFull) as error:
        raise ServiceError(str(error)) from error
    except OSError as error:
        raise ServiceError(f"{root} cannot be written: {error.strerror}") from error
    with suppress(StoreError, OSError):
        files.delete(name)
