"""Connects to MLflow: its settings, its errors as ``ServiceError``, and the password from a file."""

import fcntl
import logging
import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# MLflow reads these variables when it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
# By default MLflow prints a link on stdout for every run that ends.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# By default MLflow retries for minutes without checking. A retried create_run makes a second run.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from alembic.util.exc import CommandError as AlembicError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking.request_auth import registry
from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider
from requests.auth import HTTPBasicAuth
from requests.exceptions import HTTPError as HttpStatus
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema, RequestException, SSLError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from urllib3.exceptions import HTTPError

from tuner.errors import ServiceError, Unreachable, without_password
from tuner.storage.atomic_files import set_aside
from tuner.storage.database_url import is_down, sqlite_file
from tuner.tracking.credentials import password_is_in_a_file, tracking_credentials
from tuner.tracking.server_check import check_database, is_half_made

# The exception says what MLflow could not write. Its log would only add a traceback.
logging.getLogger("mlflow").setLevel(logging.CRITICAL)
logging.getLogger("alembic").setLevel(logging.ERROR)

FAILURES = (MlflowException, RequestException, SQLAlchemyError, AlembicError, OSError)
NEVER = (SSLError, InvalidURL, InvalidSchema, MissingSchema)
"""Errors of the network that stay: a certificate that is not trusted, and no address at all."""
NETWORK = (ConnectionError, TimeoutError, socket.gaierror, RequestException, HTTPError)
LOST, REFUSED, FORBIDDEN = "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "PERMISSION_DENIED"
"""MLflow's error codes: no such run or experiment; a deleted run (among other causes); HTTP status 403."""
THERE_ALREADY = "RESOURCE_ALREADY_EXISTS"
INTERNAL, NOT_NOW = "INTERNAL_ERROR", ("TEMPORARILY_UNAVAILABLE", "RESOURCE_EXHAUSTED", "REQUEST_LIMIT_EXCEEDED")
"""What a server answers if its database is down, and if it is busy. A local store raises the first for anything."""
_CREDENTIALS = re.compile(r"://[^/@\s]+@")


def connect(uri: str) -> Any:
    """A client of the tracker at a URI, and of the registered models there.

    Raises:
        ServiceError: its database cannot be reached or is not MLflow's, or the file with the password cannot be read.
    """
    _use_password_file(uri)
    with tracker_errors(without_password(uri)):
        check_database(uri)
        if (file := sqlite_file(uri)) is not None and is_half_made(uri) is not False:
            _make_tables(uri, file)
        return MlflowClient(tracking_uri=uri)


@contextmanager
def tracker_errors(shown: str, what: str = "written") -> Iterator[None]:
    """Raise errors of a tracker as ``ServiceError``, and as ``Unreachable`` if a later try may succeed.

    Args:
        shown: the tracker's URI without a password, for messages.
        what: what failed: ``written`` or ``read``.
    """
    try:
        yield
    except FAILURES as error:
        if isinstance(error, MlflowException) and error.error_code == FORBIDDEN:
            raise ServiceError(
                f"MLflow at {shown} refuses us (403: {_reason(error)}); if this is not the name that it knows"
                " itself by, start it with --allowed-hosts"
            ) from error
        kind = Unreachable if _may_pass(error, shown) else ServiceError
        raise kind(f"MLflow at {shown} cannot be {what}: {_reason(error)}") from error


@contextmanager
def there_already() -> Iterator[None]:
    """Ignore the error that something exists already, because another process has just created it."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != THERE_ALREADY:
            raise


class _PasswordFile(RequestAuthProvider):
    """Gives MLflow's requests the password from a file. Workers would inherit a password in the environment."""

    NAME = "tuner-password-file"

    def get_name(self) -> str:
        return self.NAME

    def get_auth(self) -> HTTPBasicAuth | None:
        found = tracking_credentials()
        return None if found is None else HTTPBasicAuth(*(part.encode() for part in found))


registry._request_auth_provider_registry.register(_PasswordFile)  # type: ignore[no-untyped-call]


def _use_password_file(uri: str) -> None:
    if uri.startswith("http") and password_is_in_a_file():
        tracking_credentials()  # an unreadable file is reported here, in one line
        os.environ["MLFLOW_TRACKING_AUTH"] = _PasswordFile.NAME


def _make_tables(uri: str, file: Path) -> None:
    """Make the tables of an SQLite file, in one process at a time: two at once leave half of them, for good.

    Half of the tables, which a killed process leaves too, are set aside: nothing was stored in them.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        check_database(uri)
        half = is_half_made(uri)
        if half:
            set_aside(file, "unfinished")
        if half is not False:
            MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    finally:
        os.close(folder)


def _may_pass(error: BaseException, shown: str) -> bool:
    """Whether the same call may succeed later: the tracker does not answer, or cannot work at the moment."""
    causes = list(_causes(error))
    if any(isinstance(cause, NEVER) for cause in causes):
        return False
    # MLflow calls every error of its own database temporary.
    if any(isinstance(cause, DBAPIError) for cause in causes):
        return is_down(error)
    if isinstance(error, MlflowException) and error.error_code in NOT_NOW:
        return True
    if isinstance(error, MlflowException) and error.error_code == INTERNAL and shown.startswith("http"):
        return True
    # A response that reports an error is false in requests.
    answers = [cause.response for cause in causes if isinstance(cause, HttpStatus) and cause.response is not None]
    if any(answer.status_code < 500 and answer.status_code not in (408, 429) for answer in answers):
        return False
    return any(isinstance(cause, NETWORK) for cause in causes)


def _reason(error: BaseException) -> str:
    """The first line of the network's or database's error, if there is one, otherwise of the error itself.

    Passwords are masked.
    """
    causes = list(_causes(error))
    network = [cause for cause in causes if isinstance(cause, OSError | HTTPError)]
    databases = [cause.orig for cause in causes if isinstance(cause, DBAPIError) and cause.orig is not None]
    root = (network or databases or [error])[-1]
    lines = str(getattr(root, "strerror", None) or root).strip().splitlines()
    return _CREDENTIALS.sub("://***@", lines[0]) if lines else type(root).__name__


def _causes(error: BaseException | None) -> Iterable[BaseException]:
    """An error and its causes, one by one. urllib3 passes some causes only as an argument."""
    while error is not None:
        yield error
        handed = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        error = error.__cause__ or error.__context__ or handed
