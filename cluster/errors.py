"""What a user of this package can cause: ``ClusterError``, and below it what a caller may want to tell apart.

::

    ClusterError        the message is one clear line
    ├── Unreachable     nothing answers at the address, or not in time; asking again later may help
    ├── AuthRefused     the token is missing, wrong or cannot be read
    └── NoSuchJob       the cluster does not know a submission of this id
"""


class ClusterError(Exception):
    """Ray cannot be started, reached or asked for what was wanted; the message is one clear line."""


class Unreachable(ClusterError):
    """Nothing answers at the address, or not in time."""


class AuthRefused(ClusterError):
    """The token is missing, wrong or cannot be read."""


class NoSuchJob(ClusterError):
    """The cluster does not know a submission of this id."""


def first_line(error: object) -> str:
    """The first line of what a library says that has anything in it."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__)
