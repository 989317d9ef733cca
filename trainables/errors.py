"""The errors that a user of this package can cause and fix.

TrainableError
├── DataError   data is missing, truncated, altered or malformed
├── CodeError   a dotted path cannot be imported, or names the wrong kind of object
├── DiskFull    a checkpoint or weights file does not fit on the disk
└── StoreError  the bucket of checkpoints and weights stays unreachable, or refuses access
"""

import difflib
from collections.abc import Iterable


class TrainableError(Exception):
    """An error that a user of this package can cause; the message is one clear line."""


class DataError(TrainableError):
    """Data is missing, truncated, altered or malformed; the message names the path, and both sums of a checksum."""


class CodeError(TrainableError):
    """A dotted path cannot be imported, or it names the wrong kind of object."""


class StoreError(TrainableError):
    """A bucket stays unreachable, or refuses access; the message names the file and the reason."""


class DiskFull(TrainableError):
    """The disk or the quota is too small for a file; the message names the path and the number of bytes needed."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like a wrong one, or None."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` with the nearest known name, or an empty string."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""
