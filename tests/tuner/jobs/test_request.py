"""How a job is written down: read again it is the same, and a changed spec is refused with what differs."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.tuner.own_jobs import SPEC as OWN
from tests.tuner.spec_texts import SPEC, more
from tests.tuner.spec_texts import spec_of as checked
from tuner.errors import IntegrityError, SpecError
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.request import check_unchanged, new_job, spec_of, storage_of
from tuner.jobs.workspace import Workspace
from tuner.spec.search_spec import load
from tuner.tracking.background_sync import artifacts_of, tracking_uri

FULL = SPEC + (
    "seed: 3\n"
    "metric: {name: val/loss}\n"
    "sampler: {name: tpe, startup_trials: 5}\n"
    "scheduler: {name: asha, first_rung: 2, reduction_factor: 4}\n"
    "parameters:\n  lr: {min: 1e-4, max: 1e-2}\n"
    "resources: {trial_hours: 0.5}\n"
    "confirm: {seeds: 7, margin: 0.25}\n"
)


def job_of(home: Workspace, text: str = SPEC, simulate: bool = False) -> JobFolder:
    return new_job(home, checked(text=text), text, Path("/code"), simulate)


@pytest.mark.parametrize("text", [SPEC, FULL])
def test_a_job_is_read_as_it_was_written(home: Workspace, text: str) -> None:
    folder = job_of(home, text)
    assert spec_of(folder) == checked(text=text)
    assert folder.spec.read_text() == text
    assert (folder.started()["folder"], folder.started()["simulate"]) == ("/code", False)
    check_unchanged(folder)


def test_a_changed_spec_of_own_trainables_is_refused_and_an_unchanged_one_is_not(home: Workspace) -> None:
    folder = job_of(home, OWN)
    check_unchanged(folder)
    folder.spec.write_text(OWN.replace("trials: 2", "trials: 3"))
    with pytest.raises(SpecError, match=r"budget\.trials was 2 and is 3; start a new job"):
        check_unchanged(folder)


def test_a_jobs_id_begins_with_the_specs_name(home: Workspace) -> None:
    assert job_of(home).id.startswith("job-")


def test_a_job_in_a_database_is_refused_if_a_module_would_stay(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "mine"
    code.mkdir()
    (code / ".gitignore").write_text("helper.py\n")
    (code / "helper.py").write_text("")
    module = ModuleType("helper_that_stays")
    module.__file__ = str(code / "helper.py")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(JobFolder, "database", lambda folder: pytest.fail)
    text = SPEC.replace("elu_net", "mine:net")
    with pytest.raises(SpecError, match=r"helper\.py is imported and would not travel: an ignore file names it"):
        new_job(home, checked(text=text), text, code)
    assert [*home.jobs()] == []


def test_a_simulated_job_is_told_from_a_real_one(home: Workspace) -> None:
    folder = job_of(home, simulate=True)
    assert folder.id.startswith("job-simulated-")
    assert folder.started()["simulate"]
    assert spec_of(folder).tracking.experiment == "job-simulated"
    check_unchanged(folder)


def test_a_relative_data_path_means_the_folder_the_job_was_started_in(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SPEC.replace("  name: digits\n", "  name: image_folder\n  path: pictures\n  size: 32\n")
    (tmp_path / "one" / "pictures").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "one")
    folder = job_of(home, text)
    monkeypatch.chdir(tmp_path)
    assert spec_of(folder).data.path == str(tmp_path / "one" / "pictures")
    assert spec_of(folder, "/elsewhere").data.path == "/elsewhere"
    check_unchanged(folder)


def test_a_job_keeps_the_place_of_its_data_whatever_folder_it_is_resumed_in(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SPEC.replace("  name: digits\n", "  name: image_folder\n  path: pictures\n  size: 32\n")
    (tmp_path / "project" / "pictures").mkdir(parents=True)
    (tmp_path / "project" / "spec.yaml").write_text(text + "claim: setting\n")
    monkeypatch.chdir(tmp_path)
    folder = new_job(home, load("project/spec.yaml"), text, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    assert spec_of(folder).data_path == tmp_path / "project" / "pictures"
    check_unchanged(folder)


def test_a_spec_that_says_the_same_in_other_words_is_unchanged(home: Workspace) -> None:
    folder = job_of(home)
    folder.spec.write_text("# my search\n" + SPEC.replace("epochs: 8", "epochs: 8\nseed: 0"))
    check_unchanged(folder)


@pytest.mark.parametrize(
    ("edits", "told"),
    [
        ([("trials: 4", "trials: 40")], ["budget.trials was 4 and is 40"]),
        ([more("seed: 5\n")], ["seed was 0 and is 5"]),
        (
            [more("seed: 5\nmetric: {name: val/loss, goal: minimize}\n"), ("trials: 4", "trials: 5")],
            [
                "budget.trials was 4 and is 5",
                "metric.goal was 'maximize' and is 'minimize'",
                "metric.name was 'val/acc' and is 'val/loss'",
                "seed was 0 and is 5",
            ],
        ),
        ([more("parameters:\n  lr: {min: 1e-4, max: 1e-2}\n")], ["parameters.lr", "0.0001"]),
        ([("  - adam_l2\n", "  - adam_l2\n  - adamw\n")], ["arms was ", "'adamw'"]),
    ],
)
def test_a_changed_spec_is_refused_with_each_difference(
    home: Workspace, edits: list[tuple[str, str]], told: list[str]
) -> None:
    folder = job_of(home)
    text = SPEC
    for old, new in edits:
        text = text.replace(old, new)
    folder.spec.write_text(text)
    with pytest.raises(SpecError) as caught:
        check_unchanged(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder.spec}: changed since job {folder.id} was started: ")
    assert message.endswith("; start a new job")
    for difference in told:
        assert difference in message
    if len(told) > 2:
        assert message.count(" was ") - 1 == len(told)


@pytest.mark.parametrize("scheduler", ["", "scheduler: asha\n", "scheduler: {first_rung: 2}\n"])
def test_a_job_with_the_old_default_of_the_scheduler_is_not_taken_for_a_changed_one(
    home: Workspace, scheduler: str
) -> None:
    named = "{reduction_factor: 3, first_rung: 2}" if "first_rung" in scheduler else "{reduction_factor: 3}"
    folder = job_of(home, f"{SPEC}scheduler: {named}\n")
    folder.spec.write_text(SPEC + scheduler)
    check_unchanged(folder)
    folder.spec.write_text(f"{SPEC}scheduler: {{reduction_factor: 4}}\n")
    with pytest.raises(SpecError, match=r"scheduler\.reduction_factor was 3 and is 4"):
        check_unchanged(folder)


def test_all_sections_of_a_spec_are_compared(home: Workspace) -> None:
    folder = job_of(home)
    folder.spec.write_text(FULL)
    with pytest.raises(SpecError) as caught:
        check_unchanged(folder)
    assert re.findall(r"(?:: |; )([\w.]+) was ", str(caught.value)) == [
        "confirm.margin",
        "confirm.seeds",
        "metric.goal",
        "metric.name",
        "parameters.lr",
        "resources.trial_hours",
        "sampler.startup_trials",
        "scheduler.first_rung",
        "scheduler.reduction_factor",
        "seed",
    ]


def test_a_damaged_beginning_is_named(home: Workspace) -> None:
    folder = job_of(home)
    folder.start.write_bytes(folder.start.read_bytes()[:-20])
    for read in (check_unchanged, spec_of):
        with pytest.raises(IntegrityError, match=f"{folder.start}: damaged"):
            read(folder)


def test_a_job_keeps_the_spec_that_was_run_not_the_file_it_came_from(home: Workspace, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    spec = load(tmp_path / "spec.yaml")
    folder = new_job(home, spec, SPEC, tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC.replace("trials: 4", "trials: 40"))
    check_unchanged(folder)
    assert spec_of(folder) == spec


def test_a_job_about_settings_of_an_older_version_can_continue_though_its_spec_would_now_be_about_methods(
    home: Workspace, tmp_path: Path
) -> None:
    folder = new_job(home, checked(), SPEC, tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC)
    assert load(tmp_path / "spec.yaml").claim == "method"
    assert spec_of(folder).claim == "setting"
    check_unchanged(folder)
    folder.spec.write_text(SPEC + "searches: 4\n")
    with pytest.raises(SpecError, match="changed since job"):
        check_unchanged(folder)


def test_relative_databases_are_those_of_the_folder_the_job_was_started_in(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SPEC + "storage: sqlite:///studies.db\ntracking: {uri: 'sqlite:///../runs.db'}\n"
    (tmp_path / "one" / "two").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "one" / "two")
    folder = job_of(home, text)
    monkeypatch.chdir(tmp_path)
    spec = spec_of(folder)
    assert storage_of(spec, home) == f"sqlite:///{tmp_path}/one/two/studies.db"
    assert tracking_uri(spec, home) == f"sqlite:///{tmp_path}/one/runs.db"
    assert artifacts_of(tracking_uri(spec, home), home) == tmp_path / "one" / "artifacts"
    check_unchanged(folder)
    folder.spec.write_text(text.replace("sqlite:///studies.db", "sqlite:////other.db"))
    with pytest.raises(SpecError, match=r"storage was .* and is 'sqlite:////other.db'"):
        check_unchanged(folder)


@pytest.mark.parametrize(
    ("uri", "below"),
    [("http://host", None), ("databricks", None), ("postgresql://h/db", "home"), ("sqlite:///runs.db", "")],
)
def test_artifacts_lie_beside_a_file_in_the_workspace_or_with_the_server(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, below: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    found = artifacts_of(tracking_uri(checked(), home), home)
    assert found == (None if below is None else tmp_path / below / "artifacts")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert artifacts_of(tracking_uri(checked(), home), home) == home.artifacts
