"""What all benchmarks share: the order of the runs, the judgement of the figures, and the page of the results."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import __main__ as table
from benchmarks import page
from benchmarks.breakdown import PARTS, parts_of
from benchmarks.measuring import Comparison, Figure, Goal, Result, interleaved
from tests.tuner.events import History, event_of, report
from tests.tuner.spec_texts import spec_of
from tuner.storage.events import Entry, Event


def test_the_sides_run_in_turn_and_neither_is_always_first() -> None:
    ran: list[str] = []

    def side(name: str) -> float:
        ran.append(name)
        return float(len(ran))

    ours, theirs = interleaved(lambda: side("ours"), lambda: side("peer"), 2, warmup=1)
    assert ran == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert (ours, theirs) == ((4.0, 5.0), (3.0, 6.0))


def test_a_comparison_is_judged_by_the_median_of_the_ratios_of_its_pairs() -> None:
    compared = Comparison("t", "p", "s", (1.0, 10.0, 3.0), (2.0, 2.0, 3.0), Goal(1.0, "most"))
    assert compared.ratios() == [0.5, 5.0, 1.0]
    assert compared.ratio() == 1.0


@pytest.mark.parametrize(("at", "met"), [("least", [False, True, True]), ("most", [True, True, False])])
def test_a_goal_is_met_at_its_value(at: str, met: list[bool]) -> None:
    goal = Goal(2.0, "least" if at == "least" else "most")
    assert [goal.met(value) for value in (1.9, 2.0, 2.1)] == met


def test_the_parts_of_a_search_add_up_to_the_time_of_its_workers() -> None:
    def at(second: float, event: Event) -> Entry:
        return Entry(0, round(1000 * second), 0.0, event)

    def begun(trial: str) -> Event:
        return event_of("attempt", trial=trial, attempt=1, epoch=0)

    def epoch(trial: str, number: int, seconds: float) -> Event:
        return event_of("epoch", trial=trial, attempt=1, **{**report(number, 0.5, 0.5), "seconds": seconds})

    def ended(trial: str) -> Event:
        return event_of("end", trial=trial, state="complete", reason=None, result={})

    (described,) = History(spec_of()).entries

    events = [
        replace(described, ms=1000),
        at(2, begun("a")),
        at(2, begun("b")),
        at(7, epoch("a", 1, 2.0)),
        at(8, epoch("b", 1, 2.0)),
        at(8, ended("b")),
        at(10, epoch("a", 2, 2.5)),
        at(10.5, ended("a")),
        at(11, begun("c")),
        at(13, epoch("c", 1, 1.0)),
        at(13, ended("c")),
    ]
    found = parts_of(events, 0.0, 15.0)
    assert tuple(found) == PARTS
    assert found["start-up"] == (7 - 2) + (8 - 2)
    assert found["training"] == 7.5
    assert found["reporting"] == pytest.approx(0.5 + 0.5 + 1.0)
    assert found["ending"] == 4.0
    assert sum(found.values()) == pytest.approx(2 * 15)


def test_the_page_shows_for_every_goal_whether_it_is_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = Result(
        "How.",
        (Comparison("Faster", "peer", "s", (1.0,), (10.0,), Goal(0.5, "most")),),
        figures=(Figure("Slow", "s", (3.0, 4.0, 5.0), Goal(2.0, "most")),),
    )
    monkeypatch.setattr("benchmarks.start.measure", lambda pairs: result)
    table.run("start", 1, tmp_path)
    kept = json.loads((tmp_path / "start.json").read_text())
    assert kept["command"] == "python -m benchmarks start --pairs 1"
    lines = page.page(tmp_path).splitlines()
    assert "| Faster, against peer | 1 s | 10 s | 0.1 (0.1 to 0.1; 1) | ≤ 0.5 ×: met |" in lines
    assert "| Slow | 4 s |  | (3 to 5; 3) | ≤ 2 s: **missed** |" in lines
    assert "- `python -m benchmarks cpu`" in lines


def test_the_page_in_the_repository_matches_its_results() -> None:
    """Finds a figure that was changed by hand, and one that is older than its result."""
    assert page.PAGE.read_text() == page.page(table.RESULTS)
