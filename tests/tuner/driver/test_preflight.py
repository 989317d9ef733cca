"""What a job is refused for before it starts."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from tests.tuner.spec_texts import more, spec_of
from tuner.driver.preflight import bytes_needed, preflight
from tuner.errors import ServiceError, SpecError
from tuner.jobs.workspace import Workspace

Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.mark.parametrize("short", [0, 1])
def test_a_disk_without_room_for_the_job_is_refused_with_its_path_and_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    spec, home = spec_of(more("resources: {concurrent: 1}\n")), Workspace(tmp_path / "not" / "there")
    needed = bytes_needed(spec, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10 * needed, 0, needed - short))
    if not short:
        preflight(spec, home)
        return
    with pytest.raises(ServiceError, match=rf"{home.path}: the job needs about {needed:,} bytes there, and"):
        preflight(spec, home)


def test_more_epochs_wider_nets_and_more_trials_at_once_need_more_room() -> None:
    spec = spec_of()
    longer = spec.model_copy(update={"budget": spec.budget.model_copy(update={"epochs": 10 * spec.budget.epochs})})
    wider = spec.model_copy(update={"model": spec.model.model_copy(update={"width": 2.0})})
    least = bytes_needed(spec, 1)
    assert min(bytes_needed(longer, 1), bytes_needed(wider, 1), bytes_needed(spec, 8)) > least


@pytest.mark.parametrize(
    ("storage", "tracker"),
    [
        ("postgresql+psycopg://a@h/runs", "postgresql://b:x@h:5432/runs"),
        ("sqlite:///runs.db", "sqlite:///./runs.db"),
        ("sqlite:///home/mlflow.db", None),
        (None, "sqlite:///home/studies.db"),
    ],
)
def test_one_database_for_studies_and_tracker_is_refused_with_both_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str | None, tracker: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = spec_of(more(f"storage: {storage or 'null'}\n"))
    if tracker is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker)
    with pytest.raises(SpecError, match=r"storage \(TUNER_STORAGE\) and tracking.uri \(MLFLOW_TRACKING_URI\)") as error:
        preflight(spec, Workspace(tmp_path / "home"))
    assert "x@" not in str(error.value)
    assert not (tmp_path / "home").exists()


def test_databases_of_their_own_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    preflight(spec_of(more("storage: sqlite:///studies.db\n")), Workspace(tmp_path / "home"))
