"""The output of a submission is separated from Ray's own lines in the same log, in any order."""

import pytest

from cluster.jobs import _own_words

RAY = "2026-11-24 06:48:12,123\tINFO job_manager.py:568 -- Runtime env is setting up.\n"
STARTED = "Running entrypoint for job one: echo 1; echo 2\n"


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (RAY, ""),
        (f"{RAY}{STARTED}", ""),
        (f"{RAY}{STARTED}1\n2\n", "1\n2\n"),
        (f"{RAY}1\n{STARTED}2\n", "1\n2\n"),
        (f"1\n{STARTED}2\n", "1\n2\n"),
    ],
)
def test_rays_preface_is_removed(log: str, words: str) -> None:
    assert _own_words("one", log) == words
