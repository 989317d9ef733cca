"""The token for a Ray cluster, read from the same places and in the same order as Ray reads it."""

import os
from pathlib import Path

from requests import PreparedRequest
from requests.auth import AuthBase

from cluster.errors import AuthRefused

HOW = "set RAY_AUTH_TOKEN_PATH to a file that holds the cluster's token"


def find_token() -> str | None:
    """The token from the environment, else from the file that the environment names, else from Ray's default file.

    Returns:
        The token, or None if there is none.

    Raises:
        AuthRefused: a token file cannot be read, or a token is not valid.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return _checked(token, "RAY_AUTH_TOKEN")
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return _checked(_read(Path(named)), f"{named} (RAY_AUTH_TOKEN_PATH)")
    default = Path.home() / ".ray" / "auth_token"
    return _checked(_read(default), str(default)) if default.exists() else None


class Bearer(AuthBase):
    """Sends the token with a request.

    This is an ``auth`` object, not a plain header, because requests lets a ``.netrc`` replace a plain header.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        request.headers.pop("Authorization", None)
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise AuthRefused(f"cannot read the token file {file}: {reason}; {HOW}") from error


def _checked(token: str, where: str) -> str:
    if not token:
        raise AuthRefused(f"no token in {where}: the file is empty; {HOW}")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise AuthRefused(f"the token in {where} must be one word of printable ASCII characters; {HOW}")
    return token
