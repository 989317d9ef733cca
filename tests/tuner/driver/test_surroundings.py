"""A job in surroundings that are allowed and odd: its folders' names, its encoding, its folder of temporary files."""

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cluster import runtime
from cluster.runtime import LONGEST_SOCKET, SOCKET, scratch_parent
from tests.tuner.conftest import Tuner
from tests.tuner.spec_texts import SPEC, spec_of
from tests.tuner.whole_jobs import ROOT, Place, place
from tuner.driver.preflight import preflight
from tuner.errors import SpecError
from tuner.jobs.workspace import Workspace

ODD = "what? 100%20 #1; a@b&c=d+e"
"""A folder's name that means something else in a URL."""
ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NET = """\
from torch import nn

print("±")


def build(classes, shape):
    print("±")
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
"""
SPEC_OF_NET = """\
# ± is no ASCII
name: odd
data: {name: digits, train_images: 200, val_images: 100, test_images: 100}
model: {name: "net_of_odd:build"}
baseline: adam_l2
arms: [adam_l2, noam]
claim: setting
budget: {trials: 1, epochs: 2, batch_size: 20}
scheduler: none
confirm: {seeds: 3}
"""


class OddPlace(Place):
    """A place whose home has an odd name."""

    @property
    def home(self) -> Workspace:
        """The workspace of its jobs."""
        return Workspace(self.root / ODD)


def rows(database: Path, table: str) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_a_job_runs_under_an_odd_home_with_a_long_tmpdir_and_an_output_that_knows_ascii_only(tmp_path: Path) -> None:
    with place(tmp_path / "place", SPEC_OF_NET, {"net_of_odd.py": NET}) as plain:
        odd = OddPlace(plain.root, plain.scratch, plain.mark)
        temporary = plain.scratch / ("long" * 30)
        temporary.mkdir()
        ended = odd.ended(odd.start("run", "spec.yaml", env={**ASCII, "TMPDIR": str(temporary)}))
        assert ended.code == 0, ended.err
        assert "warning: MLflow" not in ended.err
        assert ended.out.isascii()
        assert ended.err.isascii()
        assert " ? " in ended.out, "a sign that ASCII lacks"
        assert (rows(odd.home.studies, "trials"), rows(odd.home.tracking_store, "runs")) == (2, 1 + 2 + 6)
        assert {path.name for path in odd.root.iterdir()} == {"cwd", "user", "out", "err", ODD}
        assert {path.name for path in odd.cwd.iterdir()} - {"__pycache__"} == {"spec.yaml", "net_of_odd.py"}
        assert "±" in odd.job.summary.read_text(encoding="utf-8")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "ascii:strict"])
def test_every_command_replaces_what_it_cannot_print(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC.replace("name: job", "name: job→"), encoding="utf-8")
    command = [sys.executable, "-m", "tuner.cli", "validate", "spec.yaml"]
    env = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert ended.returncode == 2
    assert b"job?" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_manifests_are_utf_8_whatever_the_terminal_is(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(f"# ±\n{SPEC}", encoding="utf-8")
    command = [sys.executable, "-m", "tuner.cli", "render", "kubernetes", "spec.yaml", "--image", "x/y:1"]
    env = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=True)
    assert "# ±" in ended.stdout.decode()


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Sets the folder of temporary files."""

    def change(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", None)

    return change


def test_the_scratch_folder_is_where_temporary_files_are_as_long_as_sockets_fit(
    tmp_path: Path, temporary: Callable[[Path], None]
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as short:
        fits = Path(short, "x" * (LONGEST_SOCKET - len(SOCKET) - len(short) - 1))
        temporary(fits)
        assert scratch_parent() == fits
        temporary(Path(f"{fits}x"))
        assert scratch_parent() == Path("/tmp")


def test_without_a_short_folder_a_job_is_refused_before_it_exists(
    tuner: Tuner,
    home: Workspace,
    tmp_path: Path,
    temporary: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temporary(tmp_path / ("long" * 30))
    monkeypatch.setattr(runtime, "SHORT_FOLDERS", ())
    (tmp_path / "spec.yaml").write_text(SPEC)
    ended = tuner("run", "spec.yaml")
    assert (ended.code, ended.err.count("error: ")) == (2, 1)
    assert "TMPDIR: " in ended.err
    assert "too long for sockets" in ended.err
    assert not home.path.exists()
    with pytest.raises(SpecError, match="TMPDIR"):
        preflight(spec_of(), home)
