"""The pictures of ``docs/verdict.md``: the page says what the verdict computes, and the simulation shows the luck."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks import verdict_pictures as pictures

PAGE = Path("docs/verdict.md")


@pytest.mark.parametrize("lines", [pictures.example_table, pictures.example_verdicts, pictures.simulated_table])
def test_the_page_has_the_numbers_that_the_verdict_gives(lines: Callable[[], Sequence[str]]) -> None:
    written = PAGE.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines() if line not in written] == []


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_picture_of_the_page_is_small_and_needs_no_other_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / "picture.svg"
    pictures.draw(pictures.PICTURES[name], file)
    assert file.stat().st_size < 40_000
    assert "<image" not in file.read_text(encoding="utf-8")
    assert f"images/verdict-{name}.svg" in PAGE.read_text(encoding="utf-8")
    assert (pictures.FOLDER / f"verdict-{name}.svg").exists()


def test_seeds_of_one_search_are_wrong_when_searches_have_luck_and_searches_are_not() -> None:
    shares = pictures.false_beats()
    seeds, searches = shares["5 seeds of one search"], shares["searches, four looks"]
    assert seeds[0] < 5
    assert seeds[-1] > 40
    assert max(searches) < 5
