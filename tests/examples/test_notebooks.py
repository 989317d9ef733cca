"""The notebooks in ``examples``: stored without outputs, and they run from top to bottom."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.tuner.whole_jobs import ROOT, place

NOTEBOOKS = sorted((ROOT / "examples").rglob("*.ipynb"))


def read(file: Path) -> nbformat.NotebookNode:
    found: nbformat.NotebookNode = nbformat.reads(  # type: ignore[no-untyped-call]
        file.read_text(encoding="utf-8"), as_version=4
    )
    return found


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_stored_without_outputs(file: Path) -> None:
    notebook = read(file)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with place(tmp_path) as made:
        for name, value in made.env().items():
            monkeypatch.setenv(name, value)
        notebook = read(file)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(made.cwd)}}).execute()
        assert made.job.state() == "finished"
        shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert any("<table>" in output.get("data", {}).get("text/html", "") for output in shown)
        # The progress is lines of text, because a notebook is no terminal.
        assert any("search/adamw/0 complete" in output.get("text", "") for output in shown)
        assert (made.cwd / "best.yaml").exists()
