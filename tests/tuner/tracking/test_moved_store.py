"""A moved or copied workspace takes its runs, artifacts and models along. Nothing is written where it was."""

import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from tests.tuner.whole_jobs import Place, mlflow_runs, place, wait_for
from trainables.simulated import EPOCH_S
from tuner.errors import ServiceError
from tuner.jobs.workspace import Workspace
from tuner.tracking.client import connect
from tuner.tracking.moved_store import PLACES, follow_move
from tuner.tracking.sync_state import load

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")

ODD = "what? 100%20 #1; a@b&c=d+e"
"""A folder's name that means something else in a URL."""
SPEC = """\
name: tiny
data: {name: digits, train_images: 200, val_images: 100, test_images: 100}
model: {name: elu_net, width: 0.03}
baseline: adam_l2
arms: [adam_l2, noam]
claim: setting
budget: {trials: 2, epochs: 4, batch_size: 20}
scheduler: none
confirm: {seeds: 3}
"""


@pytest.fixture
def told(tmp_path: Path) -> tuple[Workspace, str]:
    """A workspace with a store that has one experiment of ours, and a run with one artifact."""
    workspace = Workspace(tmp_path / "old home")
    workspace.path.mkdir()
    client = connect(workspace.tracking_uri)
    run = client.create_run(client.create_experiment("ours", artifact_location=workspace.artifacts.as_uri()))
    write_artifact(client, run.info.run_id, tmp_path)
    client.create_registered_model("ours")
    client.create_model_version("ours", f"{run.info.artifact_uri}/model", run.info.run_id)
    return workspace, run.info.run_id


def write_artifact(client: Any, run: str, folder: Path) -> None:
    (folder / "artifact").write_text("x")
    client.log_artifact(run, str(folder / "artifact"))
    (folder / "artifact").unlink()


def artifacts(workspace: Workspace, run: str) -> list[str]:
    """The names of a run's artifacts, in the folder that the store names."""
    uri = connect(workspace.tracking_uri).get_run(run).info.artifact_uri
    return [file.name for file in Path(url2pathname(urlsplit(uri).path)).iterdir()]


def places(workspace: Workspace) -> set[str]:
    """All places of artifacts that a store names, without MLflow's own experiment."""
    with closing(sqlite3.connect(workspace.tracking_store)) as store:
        found = {row[0] for table, column in PLACES for row in store.execute(f"SELECT {column} FROM {table}")}
    return {uri for uri in found if uri and uri.startswith("file:")}


@pytest.mark.parametrize("name", ["new home", ODD])
def test_the_store_of_a_moved_workspace_names_its_artifacts_where_they_are(
    told: tuple[Workspace, str], tmp_path: Path, name: str
) -> None:
    old, run = told
    moved = Workspace(old.path.rename(tmp_path / name))
    follow_move(moved)
    assert artifacts(moved, run) == ["artifact"]
    assert len(places(moved)) == 3
    assert all(uri.startswith(moved.artifacts.as_uri()) for uri in places(moved))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_copied_workspace_and_its_original_have_their_own_artifacts(
    told: tuple[Workspace, str], tmp_path: Path
) -> None:
    old, run = told
    copy = Workspace(Path(shutil.copytree(old.path, tmp_path / "copy")))
    for workspace in (copy, old):
        follow_move(workspace)
        assert all(uri.startswith(workspace.artifacts.as_uri()) for uri in places(workspace))
        assert artifacts(workspace, run) == ["artifact"]


def test_an_experiment_whose_artifacts_are_elsewhere_stays_as_it_is(
    told: tuple[Workspace, str], tmp_path: Path
) -> None:
    workspace, _ = told
    client, elsewhere = connect(workspace.tracking_uri), (tmp_path / "elsewhere" / "artifacts").as_uri()
    run = client.create_run(client.create_experiment("theirs", artifact_location=elsewhere)).info.run_id
    write_artifact(client, run, tmp_path)
    moved = Workspace(workspace.path.rename(tmp_path / "new home"))
    follow_move(moved)
    assert elsewhere in places(moved)
    assert artifacts(moved, run) == ["artifact"]


def test_a_chosen_folder_of_artifacts_that_is_away_is_not_taken_for_moved(
    told: tuple[Workspace, str], tmp_path: Path
) -> None:
    workspace, _ = told
    client, elsewhere = connect(workspace.tracking_uri), (tmp_path / "share" / "artifacts").as_uri()
    run = client.create_run(client.create_experiment("theirs", artifact_location=elsewhere)).info.run_id
    write_artifact(client, run, tmp_path)
    (tmp_path / "share").rename(tmp_path / "not mounted")
    follow_move(workspace)
    (tmp_path / "not mounted").rename(tmp_path / "share")
    assert elsewhere in places(workspace)
    assert artifacts(workspace, run) == ["artifact"]


def test_a_workspace_that_is_reached_by_two_paths_was_not_moved(told: tuple[Workspace, str], tmp_path: Path) -> None:
    workspace, _ = told
    before = places(workspace)
    (tmp_path / "link").symlink_to(workspace.path)
    follow_move(Workspace(tmp_path / "link"))
    assert places(workspace) == before


def test_without_a_store_there_is_nothing_to_do_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    follow_move(Workspace(tmp_path))
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(ServiceError, match=r"mlflow\.db cannot be written: file is not a database"):
        follow_move(Workspace(tmp_path))


def studies(workspace: Workspace) -> int:
    """Trials in the studies' file."""
    with closing(sqlite3.connect(workspace.studies)) as database:
        return int(database.execute("SELECT count(*) FROM trials").fetchone()[0])


@pytest.mark.slow
def test_a_job_goes_on_in_a_moved_home_with_an_odd_name_and_nothing_comes_back_at_the_old_place(tmp_path: Path) -> None:
    with place(tmp_path / "place", SPEC) as old:
        process = old.start("run", "spec.yaml")
        wait_for(lambda: [*old.home.path.glob("jobs/*/tracked.json")], process)
        process.send_signal(signal.SIGINT)
        assert old.ended(process).code == 130, old.ended(process).err
        begun = {run.info.run_id for run in mlflow_runs(old)}
        new = Moved(old.root, old.scratch, old.mark)
        old.home.path.rename(new.home.path)

        for command in (("resume",), ("sync",), ("reproduce", "models:/tiny@champion")):
            ended = new.tuner(*command)
            assert ended.code == 0, (command, ended.err)
            assert "nothing is lost" not in ended.err

        assert not old.home.path.exists()
        runs = mlflow_runs(new)
        assert begun
        assert begun <= {run.info.run_id for run in runs}
        assert len(runs) == 1 + 4 + 6, "each trial has one run, and the job has one"
        assert studies(new.home) == 4
        assert all(uri.startswith(new.home.artifacts.as_uri()) for uri in places(new.home))
        assert {path.name for path in new.root.iterdir()} == {"cwd", "user", "out", "err", new.home.path.name}


class Moved(Place):
    """A place whose home has been moved to a folder with an odd name."""

    @property
    def home(self) -> Workspace:
        """The workspace of its jobs."""
        return Workspace(self.root / ODD)


CAPPED = f"""\
name: capped
data: {{name: digits}}
model: {{name: elu_net}}
baseline: adam_l2
arms: [adam_l2, adamw]
budget: {{trials: 2, epochs: 2, max_hours: {48 * EPOCH_S / 3600:.6f}}}
scheduler: none
resources: {{concurrent: 1}}
searches: {{at: [3, 4]}}
confirm: {{margin: 0}}
"""
"""The time is up after the first look: a search takes about 12 epochs of made-up time."""


def test_a_job_in_a_moved_home_is_extended_and_its_note_is_still_about_its_tracker(tmp_path: Path) -> None:
    with place(tmp_path / "place", CAPPED) as old:
        assert old.tuner("run", "spec.yaml", "--simulate", "-q").code == 0
        new = Moved(old.root, old.scratch, old.mark)
        old.home.path.rename(new.home.path)
        follow_move(new.home)
        assert load(new.job.tracked).tracker == new.home.tracking_uri
        before = len(mlflow_runs(new))
        ended = new.tuner("extend", "-q")
        assert ended.code == 0, ended.err
        assert len(mlflow_runs(new)) > before
        assert not old.home.path.exists()
