"""A folder of named files on a disk or in an S3 bucket; it stores checkpoints and weights.

A string names a folder, so that processes can send it to each other: a path, or ``s3://BUCKET/PREFIX``. The standard
``AWS_*`` variables give a bucket's credentials and region, and the address of a store that is not Amazon's.
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
"""Requests to an unreachable bucket are repeated for this time. A worker waits longer than this for its driver."""
CONNECT_S = 3.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_FINAL = re.compile(r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE|TOKEN|CLIENT_ID|HTTP status 40[013]")
"""Errors that no retry can fix."""


class Files(Protocol):
    """The files of one folder. The folder need not exist: the first write creates it."""

    def read(self, name: str) -> bytes:
        """The content of a file; raises ``FileNotFoundError`` if it does not exist."""

    def write(self, name: str, content: bytes, writer: int) -> None:
        """Write a file completely or not at all.

        Args:
            name: name of the file; an existing file is replaced.
            content: the whole content.
            writer: number of the writer; two writers at the same time must have different numbers.

        Raises:
            DiskFull: the disk is full; an existing file is unchanged.
        """

    def names(self) -> list[str]:
        """Names of everything directly in the folder."""

    def rename(self, old: str, new: str) -> None:
        """Rename a file and replace any file with the new name; do nothing if ``old`` does not exist (any more)."""

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""

    def clear(self) -> None:
        """Delete the folder and everything below it."""


def files_at(folder: Folder, patience_s: float = PATIENCE_S) -> Files:
    """The files of a folder.

    Args:
        folder: a path or an S3 URL.
        patience_s: time in which requests to an unreachable bucket are repeated, before ``StoreError``.
    """
    place = str(folder)
    return _InBucket(place, patience_s) if place.startswith(S3) else _OnDisk(Path(place))


def inside(folder: Folder, *names: str) -> str:
    """The path or URL of a folder or file inside a folder."""
    return "/".join([str(folder).rstrip("/"), *filter(None, names)])


def split(place: Folder) -> tuple[str, str]:
    """The folder of a file, and the file's name in it."""
    folder, _, name = str(place).rpartition("/")
    return folder or ("/" if str(place).startswith("/") else "."), name


def checked(folder: str) -> str:
    """The folder, if its name is valid on every node: an absolute path, or an S3 URL without secrets.

    A slash at the end is removed.

    Raises:
        ValueError: the folder is neither; the message does not repeat a possible secret.
    """
    scheme, separator, rest = folder.partition("://")
    if not separator:
        if not folder.startswith("/"):
            raise ValueError(f"{folder!r} is not an absolute path; write /FOLDER or s3://BUCKET/PREFIX")
        return folder.rstrip("/") or "/"
    if scheme != "s3":
        raise ValueError(f"{scheme}:// is not supported; write /FOLDER or s3://BUCKET/PREFIX")
    bucket, _, prefix = rest.partition("/")
    if "@" in rest or "?" in rest or ":" in bucket:
        raise ValueError(
            "an S3 URL must not contain credentials or options; use AWS_ACCESS_KEY_ID and the other AWS_* variables"
        )
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"{bucket!r} is not a valid bucket name; write s3://BUCKET/PREFIX")
    parts = prefix.rstrip("/").split("/") if prefix.rstrip("/") else []
    if any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise ValueError(f"{prefix!r} is not a valid prefix; write s3://BUCKET/PREFIX")
    return inside(f"{S3}{bucket}", *parts)


class _OnDisk:
    """A folder in a file system; once written, a file survives a power failure."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str) -> bytes:
        # The file is read, not mapped: if another process shortened a mapped file, this process would crash.
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
                raise DiskFull(f"{path}: no space left on the disk; {len(content):,} bytes are needed") from error
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
    """The objects with one prefix in an S3 bucket; an object appears complete, and then every reader sees it."""

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
            # An earlier try may have moved the file although its answer was lost.
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
        """Repeat a call until it succeeds, fails for good or the patience ends: an outage of a bucket may be short."""
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
    # A store that is not Amazon's has no regions. Without a region, the client asks Amazon, which takes seconds.
    return _client(endpoint, region or ("us-east-1" if endpoint else None))


@cache
def _client(endpoint: str | None, region: str | None) -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    return S3FileSystem(
        endpoint_override=endpoint,
        region=region,
        connect_timeout=CONNECT_S,
        # ``_try`` repeats failed calls.
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=1),
        background_writes=False,
        # Send a file in one request if it fits.
        allow_delayed_open=True,
    )


def _reason(error: OSError) -> str:
    """The message from Amazon's error name on, in one line and without the request ID."""
    text = " ".join(str(error).split())
    return re.sub(r" \(Request ID:[^)]*\)", "", text[max(text.find("AWS Error"), 0) :])


def _sync(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
