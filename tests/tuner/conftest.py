"""One complete small search, shared by the tests that check its results; and the command line in this process."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tuner.events import History
from tests.tuner.spec_texts import SPEC
from tests.tuner.whole_jobs import Ended, Place, place
from tuner.cli import main
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.workspace import Workspace
from tuner.storage.journal import encode

Tuner = Callable[..., Ended]


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Ended]]:
    """A place where ``tuner run`` has ended, and the result of the command. Tests must not change the place."""
    with place(tmp_path_factory.mktemp("searched")) as made:
        yield made, made.tuner("run", "spec.yaml")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace, which commands use."""
    monkeypatch.setenv("TUNER_HOME", str(tmp_path / "home"))
    return Workspace.find()


@pytest.fixture
def searched_home(searched: tuple[Place, Ended], monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The workspace of the shared search, which commands use."""
    monkeypatch.setenv("TUNER_HOME", str(searched[0].home.path))
    return searched[0].home


@pytest.fixture
def tuner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Ended]:
    """Runs the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["tuner", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def made_up_job(home: Workspace) -> Callable[[str, History], JobFolder]:
    """Writes a made-up job into the empty workspace."""

    def write(job: str, history: History) -> JobFolder:
        folder = JobFolder(home.path / "jobs" / job)
        folder.path.mkdir(parents=True)
        folder.spec.write_text(SPEC)
        history.alter_job(job=job)
        first = history.record().job
        start = {"ms": history.entries[0].ms, "spec": first.spec, "folder": first.folder, "simulate": False}
        folder.start.write_text(json.dumps(start))
        folder.journal.write_bytes(b"".join(map(encode, history.entries)))
        return folder

    return write
