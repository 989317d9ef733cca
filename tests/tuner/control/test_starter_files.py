"""The files that ``tuner init`` writes: they are valid, and they run as they are."""

from pathlib import Path
from typing import Any

import pytest

import tuner
from tests.faults.command_line import call
from tests.tuner.whole_jobs import place
from tuner.control.starter_files import KINDS
from tuner.spec.checks import check
from tuner.spec.search_spec import load

OWN = [kind for kind in KINDS if kind != "search"]
TINY: dict[str, Any] = {"budget": {"trials": 2, "epochs": 2}, "scheduler": "none", "confirm": {"seeds": 3}}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "my study"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_starter_is_valid_and_overwrites_nothing(kind: str, here: Path) -> None:
    answer = call("init", "--kind", kind, "a search.yaml")
    assert (answer.code, answer.out) == (0, "")
    assert "next: tuner plan 'a search.yaml'" in answer.err
    files = {file.name: file.read_text() for file in here.iterdir()}
    assert set(files) == {"a search.yaml"} | ({f"my_{kind}.py"} if kind in OWN else set())
    assert check(load("a search.yaml"), code=False).arms
    assert max(len(line) for text in files.values() for line in text.splitlines()) <= 120
    again = call("init", "--kind", kind, "a search.yaml")
    assert again.code == 2
    assert "exists already; give --force to overwrite it" in again.err
    if kind in OWN:
        Path("a search.yaml").unlink()
        assert call("init", "--kind", kind, "a search.yaml").code == 2
        assert not Path("a search.yaml").exists()
    assert call("init", "--kind", kind, "a search.yaml", "--force").code == 0


@pytest.mark.parametrize("kind", ["optimizer", "trainable"])  # other tests plan an own model
def test_the_code_of_a_starter_is_checked_and_its_arms_are_shown(kind: str, here: Path) -> None:
    call("init", "--kind", kind)
    planned = call("plan", "--no-measure", "search.yaml")
    assert (planned.code, planned.crash) == (0, None), planned.err
    assert all(arm.name in planned.out for arm in load("search.yaml").arms)
    assert f"my_{kind}.py" in planned.out


@pytest.mark.slow
@pytest.mark.parametrize("kind", OWN)
def test_a_starter_runs(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with place(tmp_path) as made:
        monkeypatch.chdir(made.cwd)
        monkeypatch.setenv("TMPDIR", str(made.scratch))
        call("init", "--kind", kind)
        assert call("validate", "search.yaml").code == 0
        job = tuner.run("search.yaml", workspace=made.home, quiet=True, **TINY)
        assert job.state == "finished"
        assert set(job.verdict) == {arm.name for arm in job.spec.arms} - {job.spec.baseline}
        assert job.report(tmp_path / "report.html").exists()
        assert len(job.trials()) > 0
