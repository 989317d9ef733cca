"""Optuna's dashboard on a job's studies: it shows them, changes nothing, and answers this machine only."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.faults.services import free_port
from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from tests.tuner.whole_jobs import Ended, Place
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.workspace import Workspace

Tuner = Callable[..., Ended]


@dataclass(frozen=True)
class Shown:
    """A dashboard that is up: its address, the links that were printed, and its processes' command lines."""

    base: str
    link: str
    arms: str
    commands: str


@pytest.fixture(scope="module")
def shown(searched: tuple[Place, Ended]) -> Iterator[Shown]:
    """The dashboard on the shared search."""
    where, port = searched[0], free_port()
    process = where.start(
        "dashboard", "--no-open", "--port", str(port), env={"PYTHONUNBUFFERED": "1"}, name="-dashboard"
    )
    out, err = (where.root / f"{stream}-dashboard" for stream in ("out", "err"))
    try:
        while not out.read_text():
            assert process.poll() is None, err.read_text()
        commands = "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in where.processes())
        yield Shown(f"http://127.0.0.1:{port}", out.read_text().strip(), err.read_text(), commands)
    finally:
        process.terminate()
        ended = where.ended(process, "-dashboard")
    assert ended.code == 0
    assert where.processes_left() == []


def test_it_shows_the_studies_of_the_job(shown: Shown, searched: tuple[Place, Ended]) -> None:
    studies = requests.get(f"{shown.base}/api/studies", timeout=30).json()["study_summaries"]
    job = searched[0].job
    ids = {study["study_name"]: study["study_id"] for study in studies}
    assert sorted(ids) == sorted(f"{job.id}/{arm}" for arm in job.record().arms)
    assert shown.link == f"{shown.base}/dashboard/studies/{ids[f'{job.id}/adam_l2']}"
    assert f"noam: {shown.base}/dashboard/studies/{ids[f'{job.id}/noam']}" in shown.arms
    trials = requests.get(f"{shown.base}/api/studies/{ids[f'{job.id}/noam']}", timeout=30).json()["trials"]
    assert len(trials) == 3
    assert requests.get(shown.link, timeout=30).status_code == 200


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/api/studies/1"), ("POST", "/api/studies"), ("PUT", "/x")])
def test_requests_that_change_something_are_refused(shown: Shown, method: str, path: str) -> None:
    answer = requests.request(method, shown.base + path, data=json.dumps({"study_name": "x"}), timeout=30)
    assert answer.status_code == 403
    assert len(requests.get(f"{shown.base}/api/studies", timeout=30).json()["study_summaries"]) == 3


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example:1", ""])
def test_requests_under_other_host_names_are_refused(shown: Shown, host: str) -> None:
    assert requests.get(shown.base, headers={"Host": host}, timeout=30).status_code == 403


def test_no_command_line_shows_the_database(shown: Shown) -> None:
    assert "tuner.monitor.optuna_dashboard" in shown.commands
    assert "sqlite" not in shown.commands


def test_without_the_package_the_error_names_the_install_command(
    tuner: Tuner, made_up_job: Callable[[str, History], JobFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up_job("job-1", History(spec_of()))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ended = tuner("dashboard", "job-1")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.strip() == (
        'error: Optuna\'s dashboard is not installed; install it with: pip install "tuner[dashboard]"'
    )


def test_a_job_without_studies_is_4_and_makes_no_database(
    tuner: Tuner, home: Workspace, made_up_job: Callable[[str, History], JobFolder]
) -> None:
    made_up_job("job-1", History(spec_of()))
    ended = tuner("dashboard", "job-1", "--no-open")
    assert ended.code == 4
    assert "job job-1 has no studies in sqlite:///" in ended.err
    assert not home.studies.exists()


def test_a_simulated_job_has_no_dashboard(tuner: Tuner, made_up_job: Callable[[str, History], JobFolder]) -> None:
    folder = made_up_job("job-1", History(spec_of()))
    folder.start.write_text(json.dumps({**folder.started(), "simulate": True}))
    ended = tuner("dashboard", "job-1")
    assert ended.code == 2
    assert "is a simulation" in ended.err
