"""Requests to a Ray dashboard. Every failure becomes an error with a message of one clear line."""

import os
import re
from typing import Any
from urllib.parse import urlsplit

import requests

from cluster.auth import HOW, Bearer, find_token
from cluster.errors import AuthRefused, ClusterError, Unreachable, first_line

CONNECT_S = 3.0
ANSWER_S = 30.0
"""Time limit for every answer after the first one: a busy head may be slow."""
FIRST_ANSWER_S = 2.0
API_VERSION = "4"
"""Version of Ray's Jobs API. Ray increases it when an old client cannot use a new cluster."""
EXAMPLE = "http://127.0.0.1:8265"
HINT = "is the head up, and is its port published or forwarded?"


def find_address(address: str | None) -> str:
    """URL of the dashboard: ``address``, else ``RAY_API_SERVER_ADDRESS``, else ``RAY_ADDRESS``.

    Raises:
        ClusterError: no address is set, or it is not valid.
    """
    named = {"--address": address}
    named |= {name: os.environ.get(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")}
    for where, text in named.items():
        if text:
            return _checked(text.strip(), where)
    raise ClusterError(f"no cluster address; pass --address or set RAY_ADDRESS, for example {EXAMPLE}")


def _checked(text: str, where: str) -> str:
    def wrong(why: str) -> ClusterError:
        return ClusterError(f"{where} {text!r} {why}; it must be the address of the dashboard, for example {EXAMPLE}")

    if text.startswith("ray://"):
        raise wrong("is an address for Ray Client")
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong("has no valid port or host") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isprintable() or " " in text:
        raise wrong("is not http(s)://host:port")
    if parts.username is not None or parts.password is not None:
        raise ClusterError(f"{where} contains a user name or a password; {HOW}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise wrong("has more than a host and a port")
    if "://" not in text and port is None:
        raise wrong("has no port")
    return f"{parts.scheme}://{parts.netloc}"


class Dashboard:
    """A Ray dashboard. Making one checks that the server is a Ray dashboard and accepts the token.

    Args:
        address: URL of the dashboard.
        token: token of the cluster; None if there is none.
    """

    def __init__(self, address: str, token: str | None) -> None:
        self.address = address
        self.auth = Bearer(token)
        self._has_token = token is not None
        self.ray_version = self._version()

    @classmethod
    def connect(cls, address: str | None) -> "Dashboard":
        """The dashboard at ``address``, or at the address from the environment.

        Raises:
            Unreachable: no server answers at the address.
            AuthRefused: the token is missing or wrong.
            ClusterError: the server is not a Ray dashboard, or its version of Ray is not compatible.
        """
        return cls(find_address(address), find_token())

    def get(self, path: str) -> Any:
        """The dashboard's answer to GET ``path``; None if it answers 404."""
        return self.ask("GET", path)

    def ask(self, method: str, path: str) -> Any:
        """The dashboard's answer; None if it answers 404.

        Raises:
            ClusterError: the dashboard reports an error or does not answer.
        """
        answer = self._send(method, path)
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise ClusterError(f"the Ray cluster at {self.address} reports an error: {self.why(answer.text)}")
        return self._json(answer)

    def is_open(self) -> bool:
        """Whether the dashboard answers a request without a token."""
        return self._send("GET", "/api/version", auth=Bearer(None), check_auth=False).status_code == 200

    @staticmethod
    def why(text: str) -> str:
        """The last line of a failure. Ray sends nested tracebacks, and the last line has the reason."""
        lines = [line.strip() for line in text.splitlines()]
        said = [line for line in lines if any(character.isalpha() for character in line)]
        return re.sub(r"^\w+Error: ", "", said[-1]).rstrip(".") if said else "no reason given"

    def _version(self) -> str:
        answer = self._send("GET", "/api/version", answer_s=FIRST_ANSWER_S)
        if answer.status_code in (502, 503, 504):
            raise Unreachable(
                f"the Ray cluster at {self.address} is not ready (HTTP {answer.status_code}); try again in a moment"
            )
        found = self._json(answer) if answer.status_code == 200 else None
        if not isinstance(found, dict) or not isinstance(found.get("ray_version"), str):
            raise self._no_dashboard(answer)
        if found.get("version") != API_VERSION:
            raise ClusterError(
                f"Ray {found['ray_version']} at {self.address} and Ray {local_ray_version()} here are not compatible; "
                "install the cluster's version here"
            )
        return str(found["ray_version"])

    def _send(
        self, method: str, path: str, auth: Bearer | None = None, answer_s: float = ANSWER_S, check_auth: bool = True
    ) -> requests.Response:
        try:
            answer = requests.request(
                method,
                f"{self.address}{path}",
                auth=auth or self.auth,
                timeout=(CONNECT_S, answer_s),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise self.lost(error) from error
        if check_auth and answer.status_code in (401, 403):
            raise self.refused(answer.status_code)
        return answer

    def lost(self, error: Exception) -> ClusterError:
        """The error for a request without an answer."""
        if isinstance(error, requests.exceptions.SSLError):
            return Unreachable(f"no TLS connection to {self.address}: {_reason(error)}; does this server need http://?")
        if isinstance(error, requests.exceptions.ConnectTimeout):
            return Unreachable(f"no answer from {self.address}; {HINT}")
        if isinstance(error, requests.exceptions.Timeout):
            return Unreachable(f"{self.address} accepts connections but does not answer; is this Ray's dashboard port?")
        return Unreachable(f"cannot connect to {self.address}: {_reason(error)}; {HINT}")

    def refused(self, status: int) -> ClusterError:
        """The error for an answer with status 401 or 403."""
        if not self._asks_for_tokens():
            return self._no_dashboard(status)
        if not self._has_token:
            return AuthRefused(f"the Ray cluster at {self.address} requires a token, and none is set here; {HOW}")
        return AuthRefused(f"the Ray cluster at {self.address} rejects this token; {HOW}")

    def _asks_for_tokens(self) -> bool:
        answer = self._send("GET", "/api/authentication_mode", auth=Bearer(None), check_auth=False)
        try:
            return bool(answer.status_code == 200 and answer.json()["authentication_mode"] == "token")
        except (ValueError, KeyError, TypeError):
            return False

    def _json(self, answer: requests.Response) -> Any:
        try:
            return answer.json()
        except ValueError:
            raise self._no_dashboard(answer) from None

    def _no_dashboard(self, answer: requests.Response | int) -> ClusterError:
        code = answer if isinstance(answer, int) else answer.status_code
        return ClusterError(
            f"the server at {self.address} is not a Ray dashboard (HTTP {code}); Ray's default port is 8265"
        )


def local_ray_version() -> str:
    """The version of Ray that is installed here. Does not import Ray."""
    from importlib.metadata import version

    return version("ray")


def _reason(error: Exception) -> str:
    """The message of the operating system. requests wraps it in several exceptions."""
    text = first_line(error)
    for known in ("Name or service not known", "Temporary failure in name resolution", "Connection refused"):
        if known in text:
            return known.lower()
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = getattr(cause, "reason", None) or cause.__cause__ or cause.__context__
    return "the connection was lost" if "aborted" in text else text
