"""A folder of files by name, on a disk or in an S3 bucket: what checkpoints and weights are kept in.

A folder is told by a string, so that it can travel: a path, or ``s3://BUCKET/PREFIX``. Credentials of a bucket, its
region and the address of a store that is not Amazon's come from the standard ``AWS_*`` variables.
"""

import errno
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from trainables.errors import DiskFull, StoreError

T = TypeVar("T")

Folder = str | Path
S3 = "s3://"
PATIENCE_S = 45.0
"""How long a bucket that does not answer is asked again: shorter than a worker waits for its driver's next call."""
CONNECT_S = 3.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_FINAL = re.compile(r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE|TOKEN|CLIENT_ID|HTTP status 40[013]")
"""Refusals that another try would only hear again."""


class Files(Protocol):
    """The files of one folder. The folder need not exist: it is made by writing to it."""

    def read(self, name: str) -> bytes:
        """All of a file; raises ``FileNotFoundError`` if there is none."""

    def write(self, name: str, content: bytes, writer: int) -> None:
        """Write a file whole or not at all.

        Args:
            name: of the file; one that is there is replaced.
            content: all of it.
            writer: number of who writes: two that write at once must not have the same.

        Raises:
            DiskFull: there is no room; what was there before is as it was.
        """

    def names(self) -> list[str]:
        """Names of all that is in the folder itself."""

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, over any file of that name; nothing if it is not there (any more)."""

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""

    def clear(self) -> None:
        """Remove the folder and all below it."""


def files_at(folder: Folder, patience_s: float = PATIENCE_S) -> Files:
    """The files of a folder.

    Args:
        folder: a path or an S3 URL.
        patience_s: how long a bucket that does not answer is asked again, before ``StoreError``.
    """
    place = str(folder)
    return _InBucket(place, patience_s) if place.startswith(S3) else _OnDisk(Path(place))


def inside(folder: Folder, *names: str) -> str:
    """The place of a folder or file in a folder."""
    return "/".join([str(folder).rstrip("/"), *filter(None, names)])


def split(place: Folder) -> tuple[str, str]:
    """The folder of a file, and its name there."""
    folder, _, name = str(place).rpartition("/")
    return folder or ("/" if str(place).startswith("/") else "."), name


def checked(folder: str) -> str:
    """A folder that all nodes can name: an absolute path or an S3 URL without anything secret.

    Raises:
        ValueError: it is neither; the message does not repeat what may be a secret.
    """
    scheme, separator, rest = folder.partition("://")
    if not separator:
        if not folder.startswith("/"):
            raise ValueError(f"{folder!r} is not an absolute path; write /FOLDER or s3://BUCKET/PREFIX")
        return folder.rstrip("/") or "/"
    if scheme != "s3":
        raise ValueError(f"no store is known for {scheme}://; write /FOLDER or s3://BUCKET/PREFIX")
    bucket, _, prefix = rest.partition("/")
    if "@" in rest or "?" in rest or ":" in bucket:
        raise ValueError("an S3 URL holds no credentials and no options; these are in AWS_ACCESS_KEY_ID and the like")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"{bucket!r} is no bucket's name; write s3://BUCKET/PREFIX")
    parts = prefix.rstrip("/").split("/") if prefix.rstrip("/") else []
    if any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise ValueError(f"{prefix!r} is no prefix; write s3://BUCKET/PREFIX")
    return inside(f"{S3}{bucket}", *parts)


class _OnDisk:
    """A folder of a file system; a file outlasts a loss of power once it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str) -> bytes:
        # Read, not mapped: a mapped file that another process shortens would end this one.
        return (self._path / name).read_bytes()

    def write(self, name: str, content: bytes, writer: int) -> None:
        path, partial = self._path / name, self._path / f".{name}.{writer}"
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            _sync(self._path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"{path}: no room on the disk; {len(content):,} bytes are needed") from error
            raise
        finally:
            with suppress(OSError):
                partial.unlink()

    def names(self) -> list[str]:
        return [path.name for path in self._path.iterdir()] if self._path.exists() else []

    def rename(self, old: str, new: str) -> None:
        with suppress(FileNotFoundError):
            (self._path / old).replace(self._path / new)
            _sync(self._path)

    def delete(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)

    def clear(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


class _InBucket:
    """What begins with a prefix in an S3 bucket; an object appears whole, and is seen by all from then on."""

    def __init__(self, url: str, patience_s: float) -> None:
        self._url = url
        self._path = url.removeprefix(S3)
        self._patience_s = patience_s

    def read(self, name: str) -> bytes:
        content: bytes = self._try("read", name, lambda s3, path: s3.open_input_file(path).readall())
        return content

    def write(self, name: str, content: bytes, writer: int) -> None:
        def put(s3: Any, path: str) -> None:
            with s3.open_output_stream(path) as stream:
                stream.write(content)

        self._try("written", name, put)

    def names(self) -> list[str]:
        def listed(s3: Any, path: str) -> list[str]:
            from pyarrow.fs import FileSelector

            return [found.base_name for found in s3.get_file_info(FileSelector(path, allow_not_found=True))]

        return self._try("listed", "", listed)

    def rename(self, old: str, new: str) -> None:
        def move(s3: Any, path: str) -> None:
            before = inside(self._path, old)
            # A try whose answer was lost may have done it.
            if s3.get_file_info(before).is_file:
                s3.move(before, path)

        self._try("written", new, move)

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._try("removed", name, lambda s3, path: s3.delete_file(path))

    def clear(self) -> None:
        with suppress(FileNotFoundError):
            self._try("removed", "", lambda s3, path: s3.delete_dir(path))

    def _try(self, done: str, name: str, call: Callable[[Any, str], T]) -> T:
        """Call until it succeeds, is refused for good or patience ends: a store may be away for a moment."""
        deadline = time.monotonic() + self._patience_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return call(_s3(), inside(self._path, name))
            except FileNotFoundError:
                raise
            except OSError as error:
                reason = _reason(error)
                if _FINAL.search(reason) or time.monotonic() + pause_s > deadline:
                    raise StoreError(f"{inside(self._url, name)}: cannot be {done}: {reason}") from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _s3() -> Any:
    environment = os.environ
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    # A store that is not Amazon's has no regions, and asking Amazon's machines for ours would take seconds.
    return _client(endpoint, region or ("us-east-1" if endpoint else None))


@cache
def _client(endpoint: str | None, region: str | None) -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    return S3FileSystem(
        endpoint_override=endpoint,
        region=region,
        connect_timeout=CONNECT_S,
        # How often and how long is asked is ours to say.
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=1),
        background_writes=False,
        # A file that fits into one request is sent in one.
        allow_delayed_open=True,
    )


def _reason(error: OSError) -> str:
    """Amazon's own word for it, and what follows, in one line."""
    text = " ".join(str(error).split())
    return re.sub(r" \(Request ID:[^)]*\)", "", text[max(text.find("AWS Error"), 0) :])


def _sync(folder: Path) -> None:
    """Make a rename in ``folder`` last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
