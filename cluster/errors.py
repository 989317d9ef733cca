"""Errors that a user of this package can cause: ``ClusterError``, and subclasses that a caller may handle differently.

::

    ClusterError        the message is one clear line
    ├── Unreachable     no answer from the address in time; a later attempt may succeed
    ├── AuthRefused     the token is missing, wrong or unreadable
    └── NoSuchJob       the cluster has no submission with this id
"""


class ClusterError(Exception):
    """Ray cannot be started or reached, or rejects a request; the message is one clear line."""


class Unreachable(ClusterError):
    """No answer from the address in time."""


class AuthRefused(ClusterError):
    """The token is missing, wrong or unreadable."""


class NoSuchJob(ClusterError):
    """The cluster has no submission with this id."""


def first_line(error: object) -> str:
    """The first non-empty line of an error message, or the name of the error's type if there is none."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__)
