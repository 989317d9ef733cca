"""A small job's winner as a registered model: one version whatever dies, and only what was registered is loaded."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

from tests.faults.test_tracker import Died, Mortal
from tests.tuner.whole_jobs import Ended, Place
from trainables.training.trainer import digest
from tuner.api import load_config
from tuner.errors import IntegrityError, NotFound, ServiceError, SpecError
from tuner.export.export_file import Export, read_export
from tuner.export.job_winner import CONFIG, WEIGHTS, as_champion, champion_of, register_winner
from tuner.export.registered_model import download, read_registered
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.workspace import Workspace
from tuner.tracking.client import connect
from tuner.tracking.model_registry import ALIAS, Champion, register_version
from tuner.tracking.writer import Writer
from tuner.verdict.ranking import job_results

# mlflow and SQLAlchemy disagree about deprecations; that is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")

MODEL = "tiny"
URI = f"models:/{MODEL}@{ALIAS}"


@pytest.fixture(scope="module")
def champion(searched: tuple[Place, Ended]) -> Champion:
    """The shared search's winner."""
    found = champion_of(job_results(searched[0].job))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an empty store; making one takes seconds."""
    folder = tmp_path_factory.mktemp("empty")
    connect(Workspace(folder).tracking_uri).search_experiments()
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Workspace:
    """A home whose store is empty."""
    shutil.copytree(made, tmp_path / "store")
    return Workspace(tmp_path / "store")


@pytest.fixture
def client(store: Workspace) -> Any:
    """A client of the store."""
    return connect(store.tracking_uri)


@pytest.fixture
def run(client: Any, store: Workspace) -> str:
    """A parent run."""
    experiment = client.create_experiment("job", artifact_location=store.artifacts.as_uri())
    return str(client.create_run(experiment).info.run_id)


def versions(client: Any) -> list[str]:
    return [str(found.version) for found in client.search_model_versions(f"name = '{MODEL}'")]


def champion_version(client: Any) -> str:
    return str(client.get_model_version_by_alias(MODEL, ALIAS).version)


def test_a_finished_job_has_registered_its_winner(searched: tuple[Place, Ended], tmp_path: Path) -> None:
    where = searched[0]
    client = MlflowClient(tracking_uri=where.home.tracking_uri)
    version = client.get_model_version_by_alias(MODEL, ALIAS)
    best = job_results(where.job).board.best()
    assert (version.tags["tuner.job"], version.tags["tuner.arm"]) == (where.job.id, best)
    export, weights = download(URI, tmp_path, where.home)
    assert (weights.parent / CONFIG).read_bytes() == where.job.export(best).read_bytes()
    assert digest(load_file(weights)) == export.confirm_runs[0].weights_sha256
    assert sorted(file.name for file in weights.parent.iterdir()) == [CONFIG, WEIGHTS]


def test_a_registered_winner_is_ready_to_train(searched_home: Workspace) -> None:
    training = load_config(URI)
    export = read_registered(f"models:/{MODEL}/1", searched_home)
    assert training.config == export.config
    assert not training.run_epoch().diverged


def test_a_registered_winner_is_reproduced(tuner: Callable[..., Ended], searched_home: Workspace) -> None:
    ended = tuner("reproduce", URI)
    assert (ended.code, ended.err.count("epoch ")) == (0, 6)
    assert "weights equal the recorded ones bit for bit" in ended.out


def test_a_job_that_is_sent_again_registers_no_second_version(
    searched: tuple[Place, Ended], store: Workspace, client: Any
) -> None:
    shutil.copytree(searched[0].job.path, store.path / "jobs" / searched[0].job.id)
    folder = JobFolder(store.path / "jobs" / searched[0].job.id)
    for _ in range(2):
        writer = Writer(folder, store.tracking_uri, "job", store.artifacts)
        writer.send()
        register_winner(writer, job_results(folder), pytest.fail)
    assert versions(client) == ["1"]
    assert client.get_model_version_by_alias(MODEL, ALIAS).run_id == writer.runs[""]


@pytest.mark.parametrize("nth", range(1, 11))
def test_whatever_call_it_dies_after_there_is_one_version_and_it_has_the_alias(
    champion: Champion, client: Any, run: str, nth: int
) -> None:
    with pytest.raises(Died):
        register_version(Mortal(client, nth, Died()), run, champion)
    register_version(client, run, champion)
    assert versions(client) == ["1"] == [champion_version(client)]


def test_a_call_that_was_given_up_and_done_after_all_leaves_no_second_version(
    champion: Champion, client: Any, run: str
) -> None:
    register_version(client, run, champion)
    client.create_model_version(MODEL, f"runs:/{run}/{champion.artifact_folder}", run, tags=champion.version_tags)
    assert len(versions(client)) == 2
    register_version(client, run, champion)
    assert versions(client) == ["1"] == [champion_version(client)]


def test_the_alias_is_of_the_job_that_ended_last(champion: Champion, client: Any, run: str, tmp_path: Path) -> None:
    later, earlier = (other_job(champion, tmp_path, name, ms) for name, ms in (("later", 1), ("earlier", -1)))
    register_version(client, run, champion)
    register_version(client, run, later)
    assert champion_version(client) == "2"
    register_version(client, run, earlier)
    assert (len(versions(client)), champion_version(client)) == (3, "2")


def test_an_alias_that_somebody_moved_stays_where_it_is(
    champion: Champion, client: Any, run: str, tmp_path: Path
) -> None:
    for one in (champion, other_job(champion, tmp_path, "later", 1)):
        register_version(client, run, one)
    client.set_registered_model_alias(MODEL, ALIAS, "1")
    register_version(client, run, other_job(champion, tmp_path, "later", 1))
    assert champion_version(client) == "1"


@pytest.mark.parametrize("handed_over", [False, True])
def test_a_version_of_somebody_else_stays_the_champion_until_it_is_handed_over(
    champion: Champion, client: Any, run: str, tmp_path: Path, handed_over: bool
) -> None:
    client.create_registered_model(MODEL)
    client.create_model_version(MODEL, f"runs:/{run}/model", run)
    client.set_registered_model_alias(MODEL, ALIAS, "1")
    for _ in range(2):
        assert register_version(client, run, champion) == ("1", "2")
        assert champion_version(client) == "1"
    if handed_over:
        client.set_registered_model_alias(MODEL, ALIAS, "2")
    kept = register_version(client, run, other_job(champion, tmp_path, "later", 1))
    assert (kept, champion_version(client)) == ((None, "3") if handed_over else (("1", "3"), "1"))
    if handed_over:
        assert register_version(client, run, champion) is None
        assert champion_version(client) == "3"


def test_the_run_says_that_somebody_elses_version_stays_and_how_to_hand_over(
    searched: tuple[Place, Ended], store: Workspace, client: Any, run: str
) -> None:
    shutil.copytree(searched[0].job.path, store.path / "jobs" / searched[0].job.id)
    folder, said = JobFolder(store.path / "jobs" / searched[0].job.id), list[str]()
    client.create_registered_model(MODEL)
    client.create_model_version(MODEL, f"runs:/{run}/model", run)
    client.set_registered_model_alias(MODEL, ALIAS, "1")
    writer = Writer(folder, store.tracking_uri, "job", store.artifacts)
    writer.send()
    register_winner(writer, job_results(folder), said.append)
    (line,) = said
    assert "version 1 of the model 'tiny' was not registered by tuner and keeps the alias 'champion'" in line
    # The command in the message does what it says.
    command = line.partition("to hand the alias over: ")[2]
    code = command.partition(' -c "')[2].removesuffix('"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", command.split(" ")[0].removeprefix("MLFLOW_TRACKING_URI="))
        exec(code)
    assert champion_version(client) == "2"


def other_job(champion: Champion, folder: Path, name: str, later_ms: int) -> Champion:
    (folder / CONFIG).write_bytes(champion.files[CONFIG])
    content = read_export(folder / CONFIG).plain(exclude={"sha256"}) | {"job": name}
    return as_champion(MODEL, Export.sealed(content), champion.files[WEIGHTS], champion.ended_ms + later_ms)


def cut(folder: Path) -> None:
    (folder / CONFIG).write_bytes((folder / CONFIG).read_bytes()[:-100])


def other_weights(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({name: values + 1 for name, values in weights.items()}, folder / WEIGHTS)


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def other_config(folder: Path) -> None:
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(text.replace("verdict: ", "verdict: not ", 1))


@pytest.mark.parametrize("alter", [cut, other_weights, no_weights, other_config])
def test_what_is_not_what_was_registered_is_refused(
    champion: Champion, client: Any, run: str, store: Workspace, alter: Callable[[Path], None]
) -> None:
    register_version(client, run, champion)
    read_registered(URI, store)
    alter(store.artifacts / run / "artifacts" / champion.artifact_folder)
    with pytest.raises(IntegrityError, match=rf"{URI}: .*(altered|not a whole export)"):
        read_registered(URI, store)


def test_an_export_of_another_job_in_its_place_is_refused(
    champion: Champion, client: Any, run: str, store: Workspace, tmp_path: Path
) -> None:
    register_version(client, run, champion)
    other = other_job(champion, tmp_path, "other", 0).files[CONFIG]
    (store.artifacts / run / "artifacts" / champion.artifact_folder / CONFIG).write_bytes(other)
    with pytest.raises(IntegrityError, match="not the one that was registered"):
        read_registered(URI, store)


@pytest.mark.parametrize(
    ("uri", "error", "words"),
    [
        ("models:/other@champion", NotFound, "no registered model 'other'"),
        (f"models:/{MODEL}@best", NotFound, "no alias 'best'"),
        (f"models:/{MODEL}/7", NotFound, "no version 7"),
        (f"models:/{MODEL}", SpecError, "models:/NAME@champion"),
        ("models:/a' or name != '@champion", SpecError, "models:/NAME@champion"),
        ("models:/../x@champion", SpecError, "models:/NAME@champion"),
    ],
)
def test_a_model_that_is_not_there_is_named(
    champion: Champion, client: Any, run: str, store: Workspace, uri: str, error: type[Exception], words: str
) -> None:
    register_version(client, run, champion)
    with pytest.raises(error, match=words):
        read_registered(uri, store)


def test_a_model_of_somebody_elses_is_not_loaded(client: Any, run: str, store: Workspace) -> None:
    client.create_registered_model(MODEL)
    client.create_model_version(MODEL, f"runs:/{run}/model", run)
    client.set_registered_model_alias(MODEL, ALIAS, "1")
    with pytest.raises(IntegrityError, match="was not registered by tuner"):
        read_registered(URI, store)


def test_where_nothing_was_tracked_no_store_is_made(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing was tracked"):
        read_registered(URI, Workspace(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_away_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="cannot be read"):
        read_registered(URI, Workspace(tmp_path), "http://127.0.0.1:9")


def test_lost_weights_register_nothing_and_are_told(
    searched: tuple[Place, Ended], store: Workspace, client: Any
) -> None:
    shutil.copytree(searched[0].job.path, store.path / "jobs" / searched[0].job.id)
    folder, said = JobFolder(store.path / "jobs" / searched[0].job.id), list[str]()
    shutil.rmtree(folder.path / "weights")
    writer = Writer(folder, store.tracking_uri, "job", store.artifacts)
    writer.send()
    register_winner(writer, job_results(folder), said.append)
    assert "no model is registered: job" in said[0]
    assert client.search_registered_models() == []
