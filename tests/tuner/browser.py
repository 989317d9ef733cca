"""A headless Chromium, and visits to pages that record errors. No request leaves this machine."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, Route, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
)
"""In CI the browser runs as root and without a screen. It must not send requests of its own."""
PATIENCE_MS = 60_000


@dataclass
class Visit:
    """An open page and its forbidden actions: errors, failed requests, requests to other machines."""

    page: Page
    wrong: list[str] = field(default_factory=list)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser. Without a browser, a test that needs it is skipped; if ``CI`` is set, it fails."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        missing = "needs a browser: apt-get install chromium"
        assert not os.environ.get("CI"), missing
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        browser.close()


@contextmanager
def visit(browser: Browser, **options: Any) -> Iterator[Visit]:
    """A page in its own profile.

    Args:
        browser: the browser that opens the page.
        options: options of the browser context, such as ``viewport`` and ``color_scheme``.
    """
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    made = Visit(context.new_page())

    def stop(route: Route) -> None:
        made.wrong.append(f"requests {route.request.url}")
        route.abort()

    context.route(lambda url: not _is_here(url), stop)

    def hear(said: ConsoleMessage) -> None:
        # ``check`` records failed requests, with their path.
        if said.type == "error" and not said.text.startswith("Failed to load resource"):
            made.wrong.append(f"logs {said.text}")

    def check(answer: Response) -> None:
        if answer.status >= 400:
            made.wrong.append(f"{answer.status} {urlsplit(answer.url).path}")

    made.page.on("console", hear)
    made.page.on("response", check)
    made.page.on("pageerror", lambda error: made.wrong.append(f"fails with {error}"))
    made.page.on("websocket", lambda socket: made.wrong.append(f"opens {socket.url}"))
    yield made
    context.close()


def _is_here(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("file", "data", "blob") or parts.hostname in ("127.0.0.1", "localhost")
