"""What a user of tuner can cause, each with the exit code the command line ends with.

TunerError                       1  (never raised itself)
├── SpecError                    2  the spec or the command line is wrong
├── ServiceError                 3  cluster, tracker or storage cannot be reached, or refuses us
├── NotFound                     4  no such job, trial or file
├── IntegrityError               5  altered, truncated or newer file; not reproduced
├── GateError                    6  ``--fail-unless`` was not met
├── SearchFailed                 7  no arm finished, or failures over the limit
├── Interrupted                  130 / 143
└── DriverLost                  75  the driver cannot go on, but another on the same job can

Errors of the two leaves (``TrainableError``, ``ClusterError``) are user errors too: 2 and 3.
Everything else is a bug of ours and exits 1 with its traceback.
"""

import difflib
from collections.abc import Iterable


class TunerError(Exception):
    """Root of what a user can cause: the message is one clear line that names the value, the place and the way out."""

    exit_code = 1


class SpecError(TunerError):
    """The spec or the command line is wrong."""

    exit_code = 2


class ServiceError(TunerError):
    """A cluster, tracker or storage cannot be reached, or refuses us."""

    exit_code = 3


class NotFound(TunerError):
    """No such job, trial or file."""

    exit_code = 4


class IntegrityError(TunerError):
    """A file was altered, cut short or written by a newer version; or a result was not reproduced."""

    exit_code = 5


class GateError(TunerError):
    """The verdict asked for by ``--fail-unless`` did not come."""

    exit_code = 6


class SearchFailed(TunerError):
    """No arm finished, or too many trials failed."""

    exit_code = 7


class Interrupted(TunerError):
    """Stopped by a signal; what was done is kept."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class DriverLost(TunerError):
    """What runs the trials died under this driver; the job's supervisor starts another."""

    exit_code = 75


def error_of(exit_code: int) -> type[TunerError]:
    """The error that the command line ends with so; for what another ``tuner`` said."""
    known = (SpecError, ServiceError, NotFound, IntegrityError, GateError, SearchFailed)
    return next((error for error in known if error.exit_code == exit_code), TunerError)


def without_password(url: str) -> str:
    """A URL that may be shown: what stands before its ``@`` is left out."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}***@{rest.rpartition('@')[2]}" if "@" in rest else url


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
