"""One request to a Ray dashboard, and one clear line for everything that can be wrong with it."""

import os
import re
from typing import Any
from urllib.parse import urlsplit

import requests

from cluster.auth import HOW, Bearer, find_token
from cluster.errors import AuthRefused, ClusterError, Unreachable, first_line

CONNECT_S = 3.0
ANSWER_S = 30.0
"""A busy head may take its time, once it is known to be there."""
FIRST_ANSWER_S = 2.0
API_VERSION = "4"
"""Of Ray's Jobs API; it changes when an old client and a new cluster no longer understand each other."""
EXAMPLE = "http://127.0.0.1:8265"
HINT = "is the head up, and its port published or forwarded?"


def find_address(address: str | None) -> str:
    """URL of the dashboard: as given, else of ``RAY_API_SERVER_ADDRESS``, else of ``RAY_ADDRESS``.

    Raises:
        ClusterError: there is none, or it is none.
    """
    named = {"--address": address}
    named |= {name: os.environ.get(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")}
    for where, text in named.items():
        if text:
            return _checked(text.strip(), where)
    raise ClusterError(f"no cluster is named; give --address or set RAY_ADDRESS, as {EXAMPLE}")


def _checked(text: str, where: str) -> str:
    def wrong(why: str) -> ClusterError:
        return ClusterError(f"{where} {text!r} {why}; the dashboard's address is meant, as {EXAMPLE}")

    if text.startswith("ray://"):
        raise wrong("is an address of Ray Client")
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong("has no valid port or host") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isprintable() or " " in text:
        raise wrong("is not http(s)://host:port")
    if parts.username is not None or parts.password is not None:
        raise ClusterError(f"{where} holds a user or password; {HOW}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise wrong("has more than a host and a port")
    if "://" not in text and port is None:
        raise wrong("has no port")
    return f"{parts.scheme}://{parts.netloc}"


class Dashboard:
    """A Ray dashboard that was found to be one, and that takes our token.

    Args:
        address: its URL.
        token: of the cluster; None if there is none.
    """

    def __init__(self, address: str, token: str | None) -> None:
        self.address = address
        self.auth = Bearer(token)
        self._has_token = token is not None
        self.ray_version = self._version()

    @classmethod
    def connect(cls, address: str | None) -> "Dashboard":
        """The dashboard at an address, or at the environment's.

        Raises:
            Unreachable: nothing answers there.
            AuthRefused: the token is missing or wrong.
            ClusterError: what answers is no Ray dashboard, or one of another Ray.
        """
        return cls(find_address(address), find_token())

    def get(self, path: str) -> Any:
        """What the dashboard answers to a path, or None if it knows no such thing."""
        return self.ask("GET", path)

    def ask(self, method: str, path: str) -> Any:
        """What the dashboard answers, or None if it knows no such thing.

        Raises:
            ClusterError: it says no, or nothing.
        """
        answer = self._send(method, path)
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise ClusterError(f"the Ray cluster at {self.address} fails: {self.why(answer.text)}")
        return self._json(answer)

    def is_open(self) -> bool:
        """Whether it answers anyone, without a token."""
        return self._send("GET", "/api/version", auth=Bearer(None), check_auth=False).status_code == 200

    @staticmethod
    def why(text: str) -> str:
        """What a failure says in the end: Ray sends tracebacks of tracebacks."""
        lines = [line.strip() for line in text.splitlines()]
        said = [line for line in lines if any(character.isalpha() for character in line)]
        return re.sub(r"^\w+Error: ", "", said[-1]).rstrip(".") if said else "it does not say why"

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
                f"the Ray {found['ray_version']} at {self.address} and the Ray {local_ray_version()} here do not "
                "understand each other; install the cluster's version here"
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
        """The error for a request that got no answer."""
        if isinstance(error, requests.exceptions.SSLError):
            return Unreachable(f"no secure connection to {self.address}: {_reason(error)}; is it http:// there?")
        if isinstance(error, requests.exceptions.ConnectTimeout):
            return Unreachable(
                f"nothing answers at {self.address}; is the head up, and its port published or forwarded?"
            )
        if isinstance(error, requests.exceptions.Timeout):
            return Unreachable(f"{self.address} takes connections but does not answer; is it the Ray dashboard's port?")
        return Unreachable(f"cannot connect to {self.address}: {_reason(error)}; {HINT}")

    def refused(self, status: int) -> ClusterError:
        """The error for an answer 401 or 403."""
        if not self._asks_for_tokens():
            return self._no_dashboard(status)
        if not self._has_token:
            return AuthRefused(f"the Ray cluster at {self.address} asks for a token and there is none here; {HOW}")
        return AuthRefused(f"the Ray cluster at {self.address} does not take this token; {HOW}")

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
            f"what answers at {self.address} is not a Ray dashboard (HTTP {code}); its port is 8265 by default"
        )


def local_ray_version() -> str:
    """Ray's version here, without its import."""
    from importlib.metadata import version

    return version("ray")


def _reason(error: Exception) -> str:
    """The operating system's words, which requests wraps several times."""
    text = first_line(error)
    for known in ("Name or service not known", "Temporary failure in name resolution", "Connection refused"):
        if known in text:
            return known.lower()
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = getattr(cause, "reason", None) or cause.__cause__ or cause.__context__
    return "the connection broke" if "aborted" in text else text
