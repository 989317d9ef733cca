"""A job in MLflow's own pages, opened in a real browser with the links of ``tuner ui``."""

import re
import signal
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.faults.services import free_port
from tests.tuner.browser import PATIENCE_MS, Visit, chromium, visit
from tests.tuner.whole_jobs import Ended, Place
from tuner.storage.events import Stage
from tuner.tracking.sync_state import load

SCREEN = {"width": 2400, "height": 1400}
"""Large, because MLflow's table draws only the visible rows and columns."""
ALWAYS = ["404 /ajax-api/2.0/mlflow/users/current"]
"""Errors that MLflow's own pages cause once per visit: without authentication, this path does not exist."""

NOTICE = "ResizeObserver loop completed with undelivered notifications."
"""Chromium sometimes reports this when it lays charts out again. It is harmless."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        expect.set_options(timeout=PATIENCE_MS)
        yield made


@pytest.fixture(scope="module")
def links(searched: tuple[Place, Ended], browser: Browser) -> Iterator[list[str]]:
    """The links that ``tuner ui`` prints. At the end Ctrl-C stops it, and no process is left."""
    where, port = searched[0], free_port()
    command = ["ui", "--no-open", "--port", str(port)]
    process = where.start(*command, env={"PYTHONUNBUFFERED": "1"}, name="-ui")
    try:
        while (printed := (where.root / "out-ui").read_text()).count("\n") < 2:
            assert process.poll() is None, (where.root / "err-ui").read_text()
            time.sleep(0.1)
        yield printed.split()
    finally:
        process.send_signal(signal.SIGINT)
        ended = where.ended(process, "-ui")
    assert (ended.code, ended.out) == (0, printed)
    assert where.processes_left() == []


def wrong(seen: Visit) -> list[str]:
    return [error for error in seen.wrong if NOTICE not in error]


def address(link: str, page: str) -> str:
    return link.partition("#")[0] + "#" + page


def test_the_first_link_shows_the_parent_run_its_children_and_their_settings(
    searched: tuple[Place, Ended], links: list[str], browser: Browser
) -> None:
    job = searched[0].job
    trials, [first_round] = job.record().trials.values(), job.record().rounds
    confirmed = f"noam-{winner(searched, 'noam')}-confirm-{first_round.seeds[0]}"
    with visit(browser, viewport=SCREEN) as seen:
        seen.page.goto(links[0])
        expect(seen.page.get_by_role("link", name=job.id, exact=True).first).to_be_visible()
        for name in ("adam_l2-0", "noam-2", confirmed):
            expect(seen.page.get_by_role("link", name=name, exact=True).first).to_be_visible()
        rows = seen.page.locator(".ag-center-cols-container .ag-row")
        expect(rows).to_have_count(1 + len(trials))
        headers = " ".join(seen.page.locator(".ag-header-cell").all_inner_texts())
        for column in ("val/acc", "test/acc", "tuner.stage", "tuner.state", "lr", "warmup"):
            assert column in headers
        assert wrong(seen) == ALWAYS


def winner(searched: tuple[Place, Ended], arm: str) -> int:
    return searched[0].job.record().of(Stage.CONFIRM, arm)[0].number


def test_the_parent_run_shows_the_verdicts_the_report_and_the_exports(
    searched: tuple[Place, Ended], links: list[str], browser: Browser
) -> None:
    job = searched[0].job
    [first_round] = job.record().rounds
    with visit(browser, viewport=SCREEN) as seen:
        seen.page.goto(links[1])
        expect(seen.page.get_by_role("heading", name=job.id).first).to_be_visible()
        verdicts = seen.page.locator("table", has_text="verdict").first
        expect(verdicts).to_be_visible()
        for arm in job.record().arms:
            expect(verdicts.locator("td", has_text=arm).first).to_be_visible()
        expect(
            seen.page.get_by_role("link", name=re.compile(f"^noam-.-confirm-{first_round.seeds[2]}")).first
        ).to_be_visible()
        seen.page.goto(links[1].partition("?")[0] + "/artifacts")
        for name in ("report.html", "report.md", "spec.yaml", "leaderboard.json", "exports"):
            expect(seen.page.get_by_text(name, exact=True).first).to_be_visible()
        assert wrong(seen) == ALWAYS


def test_a_trials_curves_are_drawn(searched: tuple[Place, Ended], links: list[str], browser: Browser) -> None:
    note = load(searched[0].job.tracked)
    with visit(browser, viewport=SCREEN) as seen:
        seen.page.goto(
            address(links[0], f"/experiments/{note.experiment}/runs/{note.runs['search/noam/0']}/model-metrics")
        )
        for name in ("train/acc", "train/loss", "val/acc", "val/loss"):
            expect(seen.page.get_by_text(f"noam-0 ({name})").first).to_be_visible()
        expect(seen.page.locator(".js-plotly-plot .trace .js-line").nth(3)).to_be_attached()
        assert wrong(seen) == ALWAYS


def test_the_winner_is_registered_as_champion(
    searched: tuple[Place, Ended], links: list[str], browser: Browser
) -> None:
    with visit(browser, viewport=SCREEN) as seen:
        seen.page.goto(address(links[0], "/models/tiny"))
        expect(seen.page.get_by_text("champion").first).to_be_visible()
        seen.page.goto(address(links[0], "/models/tiny/versions/1"))
        expect(seen.page.get_by_text(f"of job {searched[0].job.id}").first).to_be_visible()
        # The page requests a file that only models of MLflow's own flavours have.
        assert wrong(seen) == [*ALWAYS, "404 /model-versions/get-artifact"]
