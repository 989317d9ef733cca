"""``tuner.run``, ``tuner.open`` and a ``Job``, here and on a cluster."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import tuner
from cluster.errors import ClusterError
from cluster.jobs import Ran
from tests.faults.command_line import call
from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from tests.tuner.whole_jobs import ROOT, SPEC, Ended, Place, place, wait_for
from trainables.report import OwnReport, OwnResult
from tuner.control.rows import epoch_rows, result_numbers, trial_rows
from tuner.errors import NotFound, ServiceError, SpecError
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.workspace import Workspace
from tuner.spec.strict_yaml import read_text
from tuner.storage.file_lock import locked

VALUES = read_text(SPEC, "spec").value


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuner.LocalJob:
    """A simulated job that Python ran. Tests must not change it."""
    folder = tmp_path_factory.mktemp("simulated")
    return tuner.run(VALUES, workspace=folder, simulate=True, quiet=True, budget={"trials": 2}, seed=3)


@pytest.fixture
def job(searched_home: Workspace) -> tuner.LocalJob:
    """The shared job that the command line ran."""
    return tuner.open()


def test_run_ends_with_a_finished_job(simulated: tuner.LocalJob) -> None:
    assert simulated.state == "finished"
    assert (simulated.spec.budget.trials, simulated.spec.budget.epochs, simulated.spec.seed) == (2, 6, 3)
    assert simulated.id.startswith("tiny-simulated-")
    with pytest.raises(SpecError, match="is a simulation: nothing was trained that could be exported"):
        simulated.export("best.yaml")


def test_progress_of_a_program_without_a_terminal_goes_to_its_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_HOME", str(tmp_path))
    with pytest.raises(SpecError, match="only reading this data set tells") as raised:
        tuner.run({**VALUES, "data": {"name": "trainables.data.digits:read"}}, simulate=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error" not in captured.err
    assert "tuner.open(" in raised.value.__notes__[0]
    assert not list(Workspace.find().jobs())


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("nosuch.yaml", NotFound, "nosuch.yaml: no such file"),
        ({"name": "x"}, SpecError, "spec: baseline: is missing"),
        (3, SpecError, "give the path of a spec, a mapping or a tuner.Spec, not an int"),
        ({**VALUES, "model": {"name": "nosuch_module:build"}}, SpecError, "there is no module 'nosuch_module'"),
        ({**VALUES, "seed": None}, SpecError, "spec: seed: "),
    ],
    ids=["file", "keys", "kind", "code", "value"],
)
def test_a_wrong_spec_raises_one_line(spec: Any, error: type[Exception], message: str, home: Workspace) -> None:
    with pytest.raises(error, match=message) as raised:
        tuner.run(spec, simulate=True, quiet=True)
    assert "\n" not in str(raised.value)
    assert not list(home.jobs())


def test_a_job_tells_its_verdict(job: tuner.LocalJob) -> None:
    assert set(job.verdict) == {"adamw_restarts", "noam"}
    board = job.leaderboard
    for row in board["rows"][1:]:
        found = job.verdict[row["arm"]]
        assert (found.baseline, found.outcome) == ("adam_l2", str(row["comparison"]["outcome"]))
        assert found.gain == pytest.approx(row["test_mean"] - board["rows"][0]["test_mean"])
        assert found.text == row["verdict"]


@pytest.mark.parametrize(("name", "what"), [("adam_l2", "'adam_l2' is the baseline"), ("x", "there is no arm 'x'")])
def test_a_name_without_a_verdict_is_told_the_arms_with_one(name: str, what: str, job: tuner.LocalJob) -> None:
    with pytest.raises(KeyError) as caught:
        job.verdict[name]
    assert isinstance(caught.value, NotFound)
    assert str(caught.value) == f"{what}; the arms with a verdict are: adamw_restarts, noam"
    assert job.verdict.get(name) is None


def test_a_job_shows_itself_as_the_leaderboard(job: tuner.LocalJob) -> None:
    shown, page = repr(job), job._repr_html_()
    printed = call("leaderboard", job.id).out
    assert [line.split() for line in shown.splitlines()] == [line.split() for line in printed.strip().splitlines()]
    assert page.count("<tr>") == 1 + 3
    assert f"<caption style='text-align:left'>{job.id}".replace("'", '"') in page


def test_trials_are_a_table(job: tuner.LocalJob) -> None:
    trials, record = job.trials(), job.folder.record()
    assert list(trials["trial"]) == list(record.trials)
    assert list(trials.columns[:4]) == ["trial", "stage", "arm", "search"]
    confirmed = trials[trials["stage"] == "confirm"].set_index("trial")
    for key, row in confirmed.iterrows():
        result = record.trials[str(key)].result
        assert result is not None
        assert row["test_acc"] == result.metric("test_acc")
    searched = trials[trials["stage"] == "search"]
    assert searched["test_acc"].isna().all()
    assert list(searched["knob.lr"]) == [record.trials[key].knobs["lr"] for key in searched["trial"]]
    assert trials.columns[-1].startswith("knob.")


def test_epochs_are_a_table(job: tuner.LocalJob) -> None:
    epochs, record = job.epochs(), job.folder.record()
    assert len(epochs) == sum(len(trial.epochs) for trial in record.trials.values())
    first = epochs[epochs["trial"] == "search/adam_l2/0"]
    assert list(first["val_acc"]) == [report.metric("val_acc") for report in record.trials["search/adam_l2/0"].epochs]
    assert list(first["epoch"]) == list(range(1, len(first) + 1))


def test_the_users_metrics_are_columns_and_hide_none_of_ours(job: tuner.LocalJob) -> None:
    record = job.folder.record()
    trial = record.trials["search/adam_l2/0"]
    trial.epochs[:] = [OwnReport(1, {"rmse": 0.5, "seconds": 9.0}, 0.25)]
    row, epoch = trial_rows(record)[0], epoch_rows(record)[0]
    assert (row["rmse"], row["metric.seconds"], row["trial"]) == (0.5, 9.0, trial.key)
    assert (epoch["rmse"], epoch["seconds"], epoch["metric.seconds"]) == (0.5, 0.25, 9.0)
    assert result_numbers(OwnResult({"test_rmse": 1.5}, "cpu")) == {"test_rmse": 1.5}


def test_without_pandas_one_line_says_what_to_install(job: tuner.LocalJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SpecError, match=r"^trials\(\) needs the package pandas; install it with: pip install pandas$"):
        job.trials()


def test_report_and_export_write_files(job: tuner.LocalJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert job.report() == Path(f"{job.id}.html")
    assert "verdict" in job.report("report.md").read_text().lower()
    with pytest.raises(SpecError, match="exists already"):
        job.report(tmp_path / "report.md")
    with pytest.raises(SpecError, match=r"cannot write a report to 'report\.pdf'"):
        job.report("report.pdf")
    assert "arm: noam" in job.export("noam.yaml", arm="noam").read_text()
    assert job.export("best.json").exists()


def test_a_finished_job_is_not_resumed_or_stopped(job: tuner.LocalJob) -> None:
    with pytest.raises(SpecError, match="is finished"):
        job.resume(quiet=True)
    with pytest.raises(SpecError, match="claim: setting"):
        job.extend(quiet=True)
    with pytest.raises(SpecError, match="seeds is 2; must be at least 3"):
        job.confirm(2)
    with pytest.raises(SpecError, match="is not running; it is finished"):
        job.stop()


def test_open_finds_a_job_by_the_beginning_of_its_id(job: tuner.LocalJob) -> None:
    assert tuner.open(job.id[:-2]).id == job.id
    with pytest.raises(NotFound, match="no job 'other'"):
        tuner.open("other")


def rows_of(database: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


class Loopback(tuner.Service):
    """A cluster whose head is this process."""

    def __init__(self) -> None:
        self.api = type("Api", (), {"address": "http://head:8265"})()

    def ask(self, words: Any, timeout_s: float = 0.0) -> Ran:
        answer = call(*words)
        assert answer.crash is None
        return Ran(answer.code, answer.out, answer.err)


def test_delete_removes_a_job_that_nobody_runs(made_up_job: Callable[[str, History], JobFolder]) -> None:
    folder = made_up_job("tiny-1", History(spec_of()))
    job = tuner.open("tiny-1")
    with locked(folder.lock_file, "tiny-1"), pytest.raises(SpecError, match=r"is running .*; to end it: tuner stop"):
        job.delete()
    job.delete()
    assert not folder.path.exists()
    assert repr(job) == "job tiny-1 was deleted"
    with pytest.raises(NotFound, match="was deleted"):
        job.trials()


@pytest.mark.filterwarnings("ignore")  # of MLflow, about SQLAlchemy
def test_delete_removes_what_belongs_to_the_job_alone(
    searched: tuple[Place, Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(searched[0].home.path, tmp_path / "home")
    monkeypatch.setenv("TUNER_HOME", str(tmp_path / "home"))
    home = Workspace.find()
    models = rows_of(home.tracking_store, "SELECT name FROM registered_models")
    assert len(rows_of(home.studies, "SELECT 1 FROM studies")) == 3
    Loopback().job().delete()
    assert not list(home.jobs())
    assert rows_of(home.studies, "SELECT 1 FROM studies") == []
    assert set(rows_of(home.tracking_store, "SELECT lifecycle_stage FROM runs")) == {("deleted",)}
    assert rows_of(home.tracking_store, "SELECT name FROM registered_models") == models != []


def test_a_job_of_a_cluster_has_the_same_interface(job: tuner.LocalJob, tmp_path: Path) -> None:
    service = Loopback()
    (there,) = service.jobs()
    assert isinstance(there, tuner.Job)
    assert there.id == service.job(job.id[:-2]).id == job.id
    assert (there.state, there.spec, there.verdict) == (job.state, job.spec, job.verdict)
    assert there.trials().equals(job.trials())
    assert there.epochs().equals(job.epochs())
    assert there.leaderboard == json.loads(json.dumps(job.leaderboard, default=str))
    assert (
        there.export(tmp_path / "noam.yaml", arm="noam").read_text()
        == job.export(tmp_path / "2.yaml", "noam").read_text()
    )
    assert there.report(tmp_path / "report.md").exists()
    assert repr(there) == f"job {job.id} on http://head:8265"
    assert "adamw_restarts" in there._repr_html_()
    with pytest.raises(SpecError, match="is not running; it is finished"):
        there.stop()
    with pytest.raises(NotFound, match="no job 'other'"):
        service.job("other")


def test_an_unreachable_cluster_is_a_service_error() -> None:
    with pytest.raises(ServiceError) as raised:
        tuner.connect("http://127.0.0.1:1")
    assert isinstance(raised.value.__cause__, ClusterError)


PROGRAM = """\
import sys
import tuner
try:
    tuner.run("spec.yaml", budget={"epochs": 40, "trials": 20}, scheduler="none")
except KeyboardInterrupt as error:
    print(error)
    sys.exit(9)
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path, modules={"program.py": PROGRAM}) as made:
        yield made


@pytest.mark.slow
def test_ctrl_c_leaves_a_job_that_can_be_resumed(program: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen(
        [sys.executable, "program.py"], cwd=program.cwd, env=program.env(), stdout=subprocess.PIPE, text=True
    )
    wait_for(
        lambda: any(job.journal.exists() and b'"epoch"' in job.journal.read_bytes() for job in program.home.folders()),
        process,
    )
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 9
    assert "was interrupted; resume it with: tuner.open(" in out
    assert program.job.state() == "interrupted"
    assert program.processes_left() == []


@pytest.mark.slow
def test_a_job_stops_when_the_program_that_runs_it_is_killed(program: Place) -> None:
    process = subprocess.Popen([sys.executable, "program.py"], cwd=program.cwd, env=program.env(), text=True)
    wait_for(
        lambda: any(job.journal.exists() and b'"epoch"' in job.journal.read_bytes() for job in program.home.folders()),
        process,
    )
    process.kill()
    process.wait()
    deadline = time.monotonic() + 120
    while program.processes() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert program.processes() == []
    assert program.job.state() == "interrupted"


def test_python_dash_m_tuner_is_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tuner", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("tuner, version")
