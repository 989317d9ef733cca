"""What a job is refused for before it starts."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from tests.tuner.spec_texts import more, spec_of
from tuner.driver.preflight import bytes_needed, preflight
from tuner.errors import ServiceError
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
