"""Errors of a connection to a cluster: a message of one line within five seconds, different for each cause."""

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.auth import Bearer
from cluster.dashboard_api import API_VERSION, Dashboard, find_address
from cluster.errors import AuthRefused, ClusterError, Unreachable
from cluster.jobs import JobsApi
from tests.cluster.ray_cluster import RayCluster
from tests.faults.services import free_ports

WITHIN_S = 5.0


def refusal(address: str | None) -> ClusterError:
    """The error of a connection attempt. Its message has one line, and it comes in time."""
    started = time.monotonic()
    with pytest.raises(ClusterError) as caught:
        JobsApi.connect(address)
    assert time.monotonic() - started < WITHIN_S
    assert "\n" not in str(caught.value)
    return caught.value


@contextmanager
def served(status: int, text: str, kind: str = "text/html") -> Iterator[str]:
    """A web server with the same answer to every request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://head:8265", "http://head:8265"),
        ("https://ray.example.org", "https://ray.example.org"),
        ("http://[::1]:8265/", "http://[::1]:8265"),
        ("head:8265", "http://head:8265"),
    ],
)
def test_an_address_is_a_url_or_host_and_port(given: str, url: str) -> None:
    assert find_address(given) == url


@pytest.mark.parametrize(
    "given",
    [
        *(
            "head",
            "auto",
            "local",
            "ray://head:10001",
            "ftp://head:8265",
            "http://",
            "http://head:x",
            "http://head:99999",
        ),
        *(
            "http://head:8265/api",
            "http://head:8265?a=b",
            "http://user:pw@head:8265",
            "http://he ad:8265",
            "http://a\nb:1",
        ),
    ],
)
def test_an_invalid_address_is_refused(given: str) -> None:
    error = refusal(given)
    assert "pw" not in str(error)
    assert str(error).startswith("--address ")


def test_without_an_argument_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(refusal(None)) == (
        "no cluster address; pass --address or set RAY_ADDRESS, for example http://127.0.0.1:8265"
    )
    monkeypatch.setenv("RAY_ADDRESS", "http://one:1")
    assert find_address(None) == "http://one:1"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://two:2")
    assert find_address(None) == "http://two:2"
    assert find_address("http://three:3") == "http://three:3"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "two")
    with pytest.raises(ClusterError, match=r"^RAY_API_SERVER_ADDRESS 'two' has no port"):
        find_address(None)


def test_a_refused_connection_is_reported_with_the_address_and_a_hint() -> None:
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    error = refusal(address)
    assert isinstance(error, Unreachable)
    assert str(error) == (
        f"cannot connect to {address}: connection refused; is the head up, and is its port published or forwarded?"
    )


def test_a_host_that_does_not_exist_is_reported() -> None:
    error = refusal("http://no-such-host.invalid:8265")
    assert isinstance(error, Unreachable)
    assert "name" in str(error)


def test_a_server_that_accepts_connections_but_never_answers_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        error = refusal(f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert isinstance(error, Unreachable)
    assert "does not answer" in str(error)


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (200, "<html>hello</html>", "text/html"),
        (404, "not here", "text/plain"),
        (200, '{"version": "4"}', "application/json"),
        (200, "[1]", "application/json"),
        (301, "", "text/plain"),
        (500, "boom", "text/plain"),
        (401, "who are you?", "text/plain"),
        (403, "Invalid Host header", "text/plain"),
    ],
)
def test_a_server_that_is_not_a_ray_dashboard_is_reported(status: int, text: str, kind: str) -> None:
    with served(status, text, kind) as address:
        error = refusal(address)
        assert str(error) == (
            f"the server at {address} is not a Ray dashboard (HTTP {status}); Ray's default port is 8265"
        )


def test_a_dashboard_that_is_just_starting_is_reported() -> None:
    with served(503, "") as address:
        assert isinstance(refusal(address), Unreachable)


def test_an_incompatible_ray_is_reported_with_both_versions() -> None:
    import ray
    from ray.dashboard.modules.version import CURRENT_VERSION

    assert CURRENT_VERSION == API_VERSION
    with served(200, json.dumps({"version": "99", "ray_version": "9.8.7"}), "application/json") as address:
        error = str(refusal(address))
    assert "9.8.7" in error
    assert ray.__version__ in error


def test_a_missing_token_and_a_wrong_token_have_different_messages(
    shared_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = refusal(shared_cluster.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    wrong = refusal(shared_cluster.address)
    assert isinstance(missing, AuthRefused)
    assert isinstance(wrong, AuthRefused)
    assert "requires a token, and none is set here; set RAY_AUTH_TOKEN_PATH" in str(missing)
    assert "rejects this token; set RAY_AUTH_TOKEN_PATH" in str(wrong)


def test_a_submit_with_an_old_token_is_refused(shared_cluster: RayCluster, tmp_path: Path) -> None:
    dashboard = Dashboard(shared_cluster.address, shared_cluster.token_file.read_text())
    dashboard.auth = Bearer("old")
    with pytest.raises(AuthRefused, match="rejects this token"):
        JobsApi(dashboard).submit("refused-1", "true", tmp_path)
    with pytest.raises(AuthRefused, match="rejects this token"):
        JobsApi(dashboard).submissions()


def in_environment(token: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)


def in_named_file(token: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "token").write_text(f"{token}\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "token"))


def in_default_file(token: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(token)
    monkeypatch.setenv("HOME", str(home))


@pytest.mark.parametrize("put", [in_environment, in_named_file, in_default_file])
def test_the_token_is_read_from_the_same_places_as_ray_reads_it(
    put: Callable[[str, Path, pytest.MonkeyPatch], None],
    shared_cluster: RayCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(shared_cluster.token_file.read_text(), tmp_path, monkeypatch)
    assert JobsApi.connect(shared_cluster.address).auth_is_on()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"two words", "one word"),
        (b"\xff\xfe", "not text"),
        (b"a\nb", "one word"),
    ],
)
def test_a_token_file_without_a_token_is_reported(
    content: bytes | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    error = refusal("http://127.0.0.1:1")
    assert isinstance(error, AuthRefused)
    assert str(file) in str(error)
    assert reason in str(error)


def test_a_netrc_does_not_replace_the_token(
    shared_cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.touch(mode=0o600)
    netrc.write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(shared_cluster.token_file))
    assert JobsApi.connect(shared_cluster.address).submit("netrc-1", "true") in (True, False)
