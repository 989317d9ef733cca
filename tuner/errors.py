"""The errors that a user of tuner can cause, each with the exit code of the command line.

TunerError                       1  (the root of the tree)
├── SpecError                    2  the spec or the command line is wrong
├── ServiceError                 3  a cluster, tracker or storage is unreachable or refuses us
│   └── Unreachable                 … and a later try may succeed
├── NotFound                     4  no such job, trial or file
├── IntegrityError               5  a file is altered, truncated or too new; or a result is not reproduced
├── GateError                    6  the verdict does not meet ``--fail-unless``
├── SearchFailed                 7  no arm finished, or too many trials failed
├── Interrupted                  130 / 143  stopped by a signal
└── DriverLost                  75  this driver cannot continue, but a new driver can resume the job

The errors of the two lowest packages are user errors too: ``TrainableError`` exits with 2, ``ClusterError`` with 3.
Every other exception is a bug of ours. It exits with 1 and its traceback.
"""

import re

HIDDEN = "***"
"""What is shown instead of a password."""
_PASSWORD_OPTION = re.compile(r"((?:^|[?&])(?:password|passwd|pwd|sslpassword|token)=)[^&]*", re.IGNORECASE)


class TunerError(Exception):
    """Root of the errors that a user can cause. The message is one clear line: the value, the place and the way out."""

    exit_code = 1


class SpecError(TunerError):
    """The spec or the command line is wrong."""

    exit_code = 2


class ServiceError(TunerError):
    """A cluster, tracker or storage is unreachable, or refuses us."""

    exit_code = 3


class Unreachable(ServiceError):
    """A service does not answer, or cannot work at the moment. The same call may succeed later."""


class NotFound(TunerError):
    """There is no such job, trial or file."""

    exit_code = 4


class IntegrityError(TunerError):
    """A file was altered, truncated or written by a newer version; or a result was not reproduced."""

    exit_code = 5


class GateError(TunerError):
    """The verdict does not meet ``--fail-unless``."""

    exit_code = 6


class SearchFailed(TunerError):
    """No arm finished, or too many trials failed."""

    exit_code = 7


class Interrupted(TunerError):
    """A signal stopped the command. Finished work is kept."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class DriverLost(TunerError):
    """Ray, which runs the trials of this driver, died. The job's supervisor starts a new driver."""

    exit_code = 75


def error_of(exit_code: int) -> type[TunerError]:
    """The error class with this exit code, for an error that another ``tuner`` process reported."""
    known = (SpecError, ServiceError, NotFound, IntegrityError, GateError, SearchFailed)
    return next((error for error in known if error.exit_code == exit_code), TunerError)


def without_password(url: str) -> str:
    """The URL with the part before its ``@`` and passwords in its options hidden, so that it can be shown.

    The URL of a file has no password.
    """
    scheme, separator, rest = url.partition("://")
    if scheme.startswith("sqlite"):
        return url
    rest = _PASSWORD_OPTION.sub(rf"\1{HIDDEN}", rest)
    return f"{scheme}{separator}{HIDDEN}@{rest.rpartition('@')[2]}" if "@" in rest else f"{scheme}{separator}{rest}"


def after_colon(reason: str) -> str:
    """A reason to put after a colon: on the same line if it is one line, else below."""
    reason = reason.strip()
    return f"\n{reason}" if "\n" in reason else f" {reason}"
