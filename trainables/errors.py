"""What can go wrong in a way that the user of this package can put right.

TrainableError
├── DataError   data is missing, truncated, altered or of the wrong form
├── CodeError   a dotted path cannot be imported, or is not what it should be
├── DiskFull    a checkpoint or weights do not fit on the disk
└── StoreError  the bucket that they are kept in is away for long, or refuses us
"""


class TrainableError(Exception):
    """What a user of this package can cause; the message is one clear line."""


class DataError(TrainableError):
    """Data is missing, truncated or altered; the message names the path and, for a checksum, both sums."""


class CodeError(TrainableError):
    """A dotted path cannot be imported, or what it names is not what it should be."""


class StoreError(TrainableError):
    """A bucket does not answer any more, or refuses us; the message names the file and says why."""


class DiskFull(TrainableError):
    """No room, or no quota, for a file; the message names the path and the bytes that are needed."""
