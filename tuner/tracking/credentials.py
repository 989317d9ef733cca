"""User and password of the tracking server, from the environment. The password can be in a file, which is safer."""

import os
from pathlib import Path

from tuner.errors import ServiceError

FILE = "MLFLOW_TRACKING_PASSWORD_FILE"


def tracking_credentials() -> tuple[str, str] | None:
    """User and password for the tracking server; None if no user is named.

    ``MLFLOW_TRACKING_PASSWORD`` wins over the file that ``MLFLOW_TRACKING_PASSWORD_FILE`` names.

    Raises:
        ServiceError: the file cannot be read or holds no password, or a file is named but no user.
    """
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if not user:
        if password_is_in_a_file():
            raise ServiceError(f"{FILE} is set, but MLFLOW_TRACKING_USERNAME is not: whose password is it?")
        return None
    return user, os.environ.get("MLFLOW_TRACKING_PASSWORD") or _from_file(os.environ.get(FILE))


def password_is_in_a_file() -> bool:
    """Whether the password is in a file, and not in the environment."""
    return bool(os.environ.get(FILE)) and not os.environ.get("MLFLOW_TRACKING_PASSWORD")


def _from_file(path: str | None) -> str:
    if not path:
        return ""
    try:
        password = Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ServiceError(f"{FILE}: {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ServiceError(f"{FILE}: {path} holds no text") from None
    if not password:
        raise ServiceError(f"{FILE}: {path} is empty")
    return password
