"""The page in a browser: it draws every figure, in both themes and on a narrow screen, and requests nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.tuner.browser import chromium, visit
from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from tuner.report.findings import findings
from tuner.report.html import html
from tuner.storage.events import State
from tuner.verdict.ranking import build

SPEC = spec_of()
UNDRAWN = """() => [...document.querySelectorAll(".plot")]
    .filter((place) => !place.querySelector(".main-svg .trace, .main-svg .point")).map((place) => place.id)"""
SIZES = "() => [document.documentElement.scrollWidth, window.innerWidth]"
PAPER_AND_INK = """() => [getComputedStyle(document.body).backgroundColor,
    getComputedStyle(document.querySelector(".xtick text")).fill]"""
WHITE, BLACK = "rgb(255, 255, 255)", "rgb(20, 23, 26)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a finished job's page."""
    history = History(SPEC)
    for arm in history.arms:
        for number in range(6):
            history.trial(arm, number, [0.3 + 0.05 * epoch + 0.01 * number for epoch in range(8)])
        history.trial(arm, 6, [0.3], State.PRUNED)
        history.trial(arm, 7, [float("nan")], State.DIVERGED)
    tests = {"adam_l2": {1: 0.50, 2: 0.51, 3: 0.52}, "noam": {1: 0.6, 2: 0.61, 3: 0.621}}
    history.confirm(1, {"adam_l2": 5, "noam": 5}, tests)
    record = history.record()
    file = Path(tmp_path_factory.mktemp("report"), "job-1.html")
    file.write_text(html(findings(record, SPEC, build(record, SPEC))), encoding="utf-8")
    return file.as_uri()


def opened(page: Page, report: str) -> Page:
    page.goto(report)
    expect(page.locator("#theme")).to_be_visible()
    page.wait_for_function(f"() => ({UNDRAWN})().length === 0")
    return page


@pytest.mark.parametrize(
    "screen",
    [
        {"viewport": {"width": 1200, "height": 900}, "color_scheme": "light"},
        {"viewport": {"width": 1200, "height": 900}, "color_scheme": "dark"},
        {"viewport": {"width": 400, "height": 800}, "color_scheme": "light"},
    ],
    ids=["light", "dark", "narrow"],
)
def test_every_figure_is_drawn_without_errors(browser: Browser, report: str, screen: dict[str, Any]) -> None:
    with visit(browser, **screen) as seen:
        page = opened(seen.page, report)
        assert page.locator(".plot").count() > 15
        width, room = page.evaluate(SIZES)
        assert width == room
        paper, _ = page.evaluate(PAPER_AND_INK)
        assert paper == (BLACK if screen["color_scheme"] == "dark" else WHITE)
        assert seen.wrong == []


def test_the_theme_can_be_switched_and_figures_follow(browser: Browser, report: str) -> None:
    with visit(browser, color_scheme="dark") as seen:
        page = opened(seen.page, report)
        paper, ink = page.evaluate(PAPER_AND_INK)
        page.get_by_role("button", name="Show in light colours").click()
        expect(page.get_by_role("button", name="Show in dark colours")).to_be_visible()
        other_paper, other_ink = page.evaluate(PAPER_AND_INK)
        assert (paper, other_paper) == (BLACK, WHITE)
        assert ink != other_ink
        page.emulate_media(color_scheme="light")
        assert page.evaluate(PAPER_AND_INK)[0] == WHITE
        assert seen.wrong == []


def test_every_figure_has_a_description(browser: Browser, report: str) -> None:
    with visit(browser) as seen:
        page = opened(seen.page, report)
        expect(page.get_by_role("img", name="Forest plot. noam +10.03 [+9.02, +11.05].")).to_be_visible()
        assert page.locator(".plot[role=img][aria-label]").count() == page.locator(".plot").count()


def test_printing_uses_a_white_page_and_the_width_of_the_paper(browser: Browser, report: str) -> None:
    with visit(browser, color_scheme="dark") as seen:
        page = opened(seen.page, report)
        page.emulate_media(media="print", color_scheme="dark")
        page.wait_for_function("() => document.querySelector('.main-svg').getBoundingClientRect().width <= 330")
        assert page.evaluate(PAPER_AND_INK)[0] == WHITE
        assert page.locator("#theme").is_hidden()
        page.emulate_media(media="screen", color_scheme="dark")
        page.wait_for_function("() => document.querySelector('.main-svg').getBoundingClientRect().width > 330")
        assert page.evaluate(PAPER_AND_INK)[0] == BLACK
        assert seen.wrong == []
