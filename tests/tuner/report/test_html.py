"""The HTML page: one self-contained file, the verdict first, and no text of a spec or a log becomes markup."""

import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from tests.tuner.events import History
from tests.tuner.spec_texts import more, spec_of
from trainables.config import derive_seed
from tuner.report.findings import findings
from tuner.report.html import html
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import State, TrialBegun, TrialEnded
from tuner.verdict.ranking import build

SPEC = spec_of()
BASE = {1: 0.50, 2: 0.51, 3: 0.52}
BETTER = {1: 0.60, 2: 0.61, 3: 0.621}
WINNERS = {"adam_l2": 0, "noam": 1}


class Page(HTMLParser):
    """A page as a browser parses it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            self.scripts[-1] += data
        elif self._within != "style":
            self.words.append(data)

    @property
    def figures(self) -> dict[str, Any]:
        """Data and layout of each figure."""
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found

    @property
    def alts(self) -> dict[str, str]:
        """The description of each figure for readers who cannot see it."""
        return {str(a["id"]): str(a["aria-label"]) for _, a in self.tags if a.get("role") == "img"}


def page_of(history: History, spec: SearchSpec = SPEC) -> Page:
    record = history.record()
    return Page(html(findings(record, spec, build(record, spec))))


def searched() -> History:
    history = History(SPEC)
    history.trial("adam_l2", 0, [0.4, 0.5])
    history.trial("adam_l2", 1, [0.4, 0.45])
    history.trial("noam", 0, [0.4], State.PRUNED)
    history.trial("noam", 1, [0.4, 0.6125])
    history.trial("noam", 2, [float("nan")], State.DIVERGED)
    return history


def finished(tests: dict[int, float] = BETTER) -> History:
    history = searched()
    history.confirm(1, WINNERS, {"adam_l2": BASE, "noam": tests})
    history.add("state", state="finished")
    return history


def test_the_verdict_comes_first_and_every_figure_has_a_description() -> None:
    page = page_of(finished())
    words = [word.strip() for word in page.words if word.strip()]
    assert words[2] == "The best setting of noam beats the best setting of adam_l2."
    assert set(page.alts) == set(page.figures)
    assert "noam +10.03 [+9.02, +11.05]" in page.alts["forest"]
    assert "noam 61.03 ± 1.05 (n = 3)" in page.alts["seeds"]


def test_every_expected_figure_is_drawn() -> None:
    names = set(page_of(finished()).figures)
    assert {"forest", "seeds", "learning", "anytime-trials", "anytime-epochs", "cost", "schedule-lr"} <= names
    assert {"parallel-noam", "slice-noam-lr", "slice-noam-warmup", "parallel-adam_l2"} <= names


def test_an_arm_has_one_colour_in_all_figures() -> None:
    figures = page_of(finished()).figures
    drawn = [json.dumps(figures[name]) for name in ("forest", "seeds", "learning", "anytime-trials", "schedule-lr")]
    assert all("#2485C7" in figure or "rgba(36,133,199" in figure for figure in drawn)


def test_the_page_loads_nothing_from_other_hosts_and_runs_no_other_script() -> None:
    page = page_of(finished())
    policy = next(str(a["content"]) for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe" not in policy
    assert [a for _, a in page.tags if "src" in a or str(a.get("href", "data:")).startswith("http")] == []
    assert not re.search(r"url\(|@import", page.text.split("</style>")[0])
    assert {name for _, a in page.tags for name in a if name.startswith("on")} == set()


@pytest.mark.parametrize("history", [History(SPEC), searched()], ids=["nothing has begun", "no confirm run"])
def test_a_job_without_a_verdict_has_a_page(history: History) -> None:
    page = page_of(history)
    assert "there is no verdict yet" in page.text
    assert not {"forest", "seeds", "train-loss"} & set(page.figures)


def test_arms_without_a_winner_have_a_page() -> None:
    history = History(SPEC)
    for arm in history.arms:
        history.trial(arm, 0, [0.4], State.FAILED)
    page = page_of(history)
    assert "There is no winner" in page.text
    assert "Training time by outcome" in page.text


def test_a_search_by_loss_shows_the_loss() -> None:
    spec = spec_of(more("metric: {name: val/loss}\n"))
    history = History(spec)
    for number, loss in enumerate((1.5, 1.25, 1.4)):
        history.trial("noam", number, [0.5], losses=[loss])
    page = page_of(history, spec)
    assert "Expected best validation loss" in page.text
    assert page.alts["anytime-trials"].endswith("and 1.25 after 3.")


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{7*7}}{%x%}&lt;b&gt;"


def test_text_of_specs_and_logs_is_never_markup() -> None:
    """Specs allow any text in paths, folders and options. Machines report any text as versions and devices."""
    spec = spec_of(
        ("  name: elu_net\n", f"  name: own:net\n  options: {{o: {json.dumps(HOSTILE)}}}\n"),
        ("  name: digits\n", f"  name: image_folder\n  path: {json.dumps(HOSTILE)}\n"),
        more(f"code: {json.dumps(HOSTILE)}\n"),
    )
    history = History(spec)
    history.alter_job(git_commit=HOSTILE, machine={"system": HOSTILE, "cpus": "2"})
    history.trial("noam", 0, [0.5, 0.6])
    history.trial("noam", 1, [0.5], State.FAILED)
    history.confirm(1, {"adam_l2": 0, "noam": 0}, {"adam_l2": BASE, "noam": BETTER})
    for number, entry in enumerate(history.entries):
        if isinstance(end := entry.event, TrialEnded):
            result = end.result and replace(end.result, device=HOSTILE)
            history.entries[number] = replace(entry, event=replace(end, reason=HOSTILE, result=result))
    page, plain = page_of(history, spec), page_of(finished())
    assert len(page.scripts) == len(plain.scripts) == 3
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in plain.tags}
    assert {name for _, a in page.tags for name in a} == {name for _, a in plain.tags for name in a}
    assert sum(HOSTILE in word for word in page.words) >= 4
    assert "49" not in "".join(word for word in page.words if "alert(2)" in word)


def test_plotly_gets_escaped_text_too() -> None:
    """A choice is the only knob with free text. No spec allows such a value for restarts, so the test adds one."""
    spec = spec_of(("- variant: noam", "- adamw_restarts"))
    history = History(spec)
    for number in range(3):
        history.trial("adamw_restarts", number, [0.5, 0.6])
    record = history.record()
    found = findings(record, spec, build(record, spec))
    arm = found.arms[1]
    knob = next(knob for knob in arm.knobs if knob.name == "restarts")
    object.__setattr__(knob, "values", (*knob.values, HOSTILE))
    object.__setattr__(arm.trials[1], "knobs", {**arm.trials[1].knobs, "restarts": HOSTILE})
    page = Page(html(found))
    assert len(page.scripts) == 3
    inside = json.dumps(page.figures)
    assert "alert(2)" in inside
    assert "<img" not in inside
    assert "<script" not in inside


def test_two_hundred_trials_of_fifty_epochs_stay_below_ten_megabytes() -> None:
    spec = spec_of(("  epochs: 8", "  epochs: 50"), ("  trials: 4", "  trials: 100"))
    draw = random.Random(derive_seed(0, "size"))
    history = History(spec)
    for number in range(100):
        for name in history.arms:
            history.trial(name, number, [draw.random() for _ in range(50)])
    for number, entry in enumerate(history.entries):
        if isinstance(begun := entry.event, TrialBegun):
            knobs = {**begun.knobs, "lr": 10 ** draw.uniform(-4, -2)}
            history.entries[number] = replace(entry, event=replace(begun, knobs=knobs))
    text = page_of(history, spec).text
    assert len(text.encode()) < 10_000_000


def test_the_figures_of_a_long_search_draw_some_of_its_trials_and_its_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.report.findings.MOST_DRAWN", 4)
    history = History(SPEC)
    for number in range(10):
        for arm in history.arms:
            history.trial(arm, number, [0.1, 0.9 if number == 5 else 0.5])
    record = history.record()
    found = findings(record, SPEC, build(record, SPEC))
    assert [trial.label for trial in found.arms[0].drawn] == ["0", "3", "5", "6", "9"]
    page = Page(html(found))
    # Three lines of each trial: two epochs and a gap.
    assert len(page.figures["learning"]["data"][0]["x"]) == 5 * 3
    assert len(found.arms[0].trials) == 10
