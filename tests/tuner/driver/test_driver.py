"""Whole jobs on a real Ray, with real studies and a real MLflow store: what they leave, and how they end."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

from tests.tuner.whole_jobs import SPEC, Ended, Place, mlflow_rows, mlflow_runs, place, wait_for
from trainables.space import Plan
from tuner.jobs.record import Record, Trial
from tuner.jobs.request import spec_of
from tuner.jobs.workspace import Workspace
from tuner.spec.trial_config import round_seeds
from tuner.storage.events import Stage, State
from tuner.storage.journal import read
from tuner.tracking.background_sync import open_writer
from tuner.tracking.run_layout import METRICS
from tuner.verdict.ranking import build

Searched = tuple[Place, Ended]
ARMS, TRIALS, EPOCHS, SEEDS = 3, 3, 6, 3
RUN_STATUS = {State.COMPLETE: "FINISHED", State.PRUNED: "KILLED", State.RUNNING: "KILLED"}
OPTUNA_STATES = {
    State.COMPLETE: "COMPLETE",
    State.PRUNED: "PRUNED",
    State.DIVERGED: "FAIL",
    State.FAILED: "FAIL",
    State.RUNNING: "RUNNING",
}


def runs_of(where: Place) -> Mapping[str, Any]:
    """MLflow's runs by trial key; the parent's is empty."""
    runs = mlflow_runs(where)
    by_key = {run.data.tags["tuner.trial"]: run for run in runs}
    assert len(by_key) == len(runs), "no trial has two runs"
    return by_key


def history(rows: list[tuple[Any, ...]], run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Metric name to (step, value) of one run."""
    found: dict[str, list[tuple[int, float]]] = {}
    for run, key, step, _, value, _ in rows:
        if run == run_id:
            found.setdefault(key, []).append((step, value))
    return found


def check_books_agree(where: Place) -> Record:
    """Studies, journal and MLflow hold the same trials, each epoch once, in the same states."""
    record, runs, rows = where.job.record(), runs_of(where), mlflow_rows(where)
    assert set(runs) == {"", *record.trials}
    for key, trial in record.trials.items():
        run = runs[key]
        assert (run.data.tags["tuner.stage"], run.data.tags["tuner.arm"]) == (trial.stage, trial.arm)
        assert run.data.tags["mlflow.parentRunId"] == runs[""].info.run_id
        assert run.info.status == RUN_STATUS.get(trial.state, "FAILED")
        assert [epoch.epoch for epoch in trial.epochs] == list(range(1, len(trial.epochs) + 1))
        metrics = history(rows, run.info.run_id)
        for ours, theirs in METRICS.items():
            assert metrics.get(theirs, []) == [(epoch.epoch, epoch.metric(ours)) for epoch in trial.epochs]
    for arm in record.arms:
        study = optuna.load_study(study_name=f"{where.job.id}/{arm}", storage=where.home.storage_url)
        asked = {trial.number: trial.state.name for trial in study.trials if trial.state.name != "WAITING"}
        assert asked == {trial.number: OPTUNA_STATES[trial.state] for trial in record.of(Stage.SEARCH, arm)}
    return record


def scratch_left(where: Place) -> list[str]:
    """What lies among the temporary files, beside torch's own cache."""
    return [file.name for file in where.scratch.iterdir() if not file.name.startswith("torchinductor_")]


def confirm_runs(record: Record) -> list[Trial]:
    return record.of(Stage.CONFIRM)


def test_a_search_ends_well_and_prints_only_its_table(searched: Searched) -> None:
    where, ended = searched
    assert ended.code == 0, ended.err
    lines = [line.split()[0] for line in ended.out.splitlines() if line.split()]
    assert lines == [f"{where.job.id}:", "arm", lines[2], "adam_l2", "adamw_restarts", "noam"]
    assert "Traceback" not in ended.err
    printed = dict(line.split(":", 1) for line in ended.err.splitlines() if line.startswith(("reproduce:", "browse:")))
    assert set(printed) == {"reproduce", "browse"}
    for command in printed.values():
        subprocess.run([*shlex.split(command), "--help"], check=True, cwd=where.cwd, env=where.env())


def test_studies_journal_and_mlflow_agree_and_nothing_is_left_running(searched: Searched) -> None:
    where, _ = searched
    record = check_books_agree(where)
    assert (len(record.of(Stage.SEARCH)), len(confirm_runs(record))) == (ARMS * TRIALS, ARMS * SEEDS)
    assert record.state == "finished"
    states = Counter(trial.state for trial in record.trials.values())
    assert set(states) <= {State.COMPLETE, State.PRUNED}
    assert states[State.PRUNED] > 0
    assert {run.info.status for run in mlflow_runs(where)} == {"FINISHED", "KILLED"}
    assert runs_of(where)[""].info.status == "FINISHED"


def test_every_complete_trial_trained_all_its_epochs_and_no_pruned_one_did(searched: Searched) -> None:
    for trial in searched[0].job.record().trials.values():
        assert (len(trial.epochs) == EPOCHS) == (trial.state == State.COMPLETE)


def test_child_runs_hold_the_settings(searched: Searched) -> None:
    runs = runs_of(searched[0])
    for key, trial in searched[0].job.record().trials.items():
        params = runs[key].data.params
        assert {knob: params[knob] for knob in trial.hyper} == {knob: str(v) for knob, v in trial.hyper.items()}
        assert params["seed"] == str(trial.seed)
    parent = runs[""].data
    assert (parent.params["budget.trials"], parent.params["baseline"]) == (str(TRIALS), "adam_l2")
    assert parent.tags["tuner.state"] == "finished"


def test_the_parent_run_holds_the_verdict_and_the_files(searched: Searched) -> None:
    where, _ = searched
    parent = runs_of(where)[""]
    assert parent.data.tags["mlflow.note.content"] == where.job.summary.read_text()
    stored = Path(parent.info.artifact_uri.removeprefix("file://"))
    files = {str(file.relative_to(stored)) for file in stored.rglob("*") if file.is_file()}
    exports = {f"exports/{arm}.yaml" for arm in where.job.record().arms}
    assert len({file for file in files if file.startswith("models/")}) == 2, "the winner's export and its weights"
    assert {file for file in files if not file.startswith("models/")} == {
        *("spec.yaml", "report.html", "report.md", "leaderboard.json"),
        *exports,
    }
    assert (stored / "spec.yaml").read_text() == SPEC
    assert stored.is_relative_to(where.home.artifacts)


def test_the_test_set_is_read_in_confirm_runs_only(searched: Searched) -> None:
    where, _ = searched
    rows = mlflow_rows(where)
    for key, run in runs_of(where).items():
        names = {name for name in history(rows, run.info.run_id) if name.startswith("test/")}
        assert names == ({"test/acc", "test/loss"} if key.startswith("confirm/") else set())
    for event in (entry.to_json() for entry in read(where.job.journal)):
        if event["kind"] == "epoch":
            assert not any(name.startswith("test") for name in event)


def test_winners_are_the_best_on_validation_and_are_confirmed_on_the_same_fresh_seeds(searched: Searched) -> None:
    record = searched[0].job.record()
    spec = spec_of(searched[0].job)
    for arm in record.arms:
        complete = [trial for trial in record.of(Stage.SEARCH, arm) if trial.state == State.COMPLETE]
        best = max(complete, key=lambda trial: trial.epochs[-1].metric("val_acc"))
        runs = record.of(Stage.CONFIRM, arm)
        assert record.rounds[0].winners[arm] == best.number
        assert all(run.hyper == best.hyper for run in runs)
        assert tuple(run.seed for run in runs) == round_seeds(spec, 1, SEEDS)


def test_the_first_trial_of_every_arm_is_its_default(searched: Searched) -> None:
    record = searched[0].job.record()
    for arm in record.job.arms:
        first = record.trials[f"search/{arm.name}/0"]
        assert {knob: first.hyper[knob] for knob in arm.default} == pytest.approx(dict(arm.default))
    assert record.plan == Plan(EPOCHS, 10)


def test_arms_were_asked_in_turn(searched: Searched) -> None:
    order = [trial.arm for trial in searched[0].job.record().of(Stage.SEARCH)]
    assert order == ["adam_l2", "adamw_restarts", "noam"] * TRIALS


def test_nothing_is_left_but_what_lies_in_the_home(searched: Searched) -> None:
    where, _ = searched
    assert where.processes_left() == []
    assert [file.name for file in where.cwd.iterdir()] == ["spec.yaml"]
    assert scratch_left(where) == []
    assert [file for file in (where.root / "user").rglob("*") if file.is_file()] == []
    assert {file.name for file in where.home.path.iterdir()} == {
        "artifacts",
        "cache",
        "jobs",
        "mlflow.db",
        "studies.db",
    }


@pytest.fixture
def copied(searched: Searched, tmp_path: Path) -> Place:
    """A copy of the searched home that may be changed."""
    shutil.copytree(searched[0].home.path, tmp_path / "home")
    for folder in ("cwd", "user"):
        (tmp_path / folder).mkdir()
    return Place(tmp_path, searched[0].scratch, searched[0].mark)


def test_syncing_twice_changes_nothing(copied: Place) -> None:
    runs, rows = runs_of(copied), mlflow_rows(copied)
    for _ in range(2):
        ended = copied.tuner("sync")
        assert (ended.code, ended.out) == (0, ""), ended.err
    again = runs_of(copied)
    assert {key: run.info.run_id for key, run in again.items()} == {key: run.info.run_id for key, run in runs.items()}
    assert {key: run.info.end_time for key, run in again.items()} == {k: run.info.end_time for k, run in runs.items()}
    assert mlflow_rows(copied) == rows


@pytest.mark.filterwarnings("ignore")
def test_sending_everything_again_leaves_one_run_a_trial_and_one_row_an_epoch(copied: Place) -> None:
    runs, rows = runs_of(copied), mlflow_rows(copied)
    copied.job.tracked.unlink()
    writer = open_writer(spec_of(copied.job), copied.home, copied.job)
    writer.send()
    assert json.loads(copied.job.tracked.read_text())["offset"] == copied.job.journal.stat().st_size
    assert writer.runs == {key: run.info.run_id for key, run in runs.items()}
    assert mlflow_rows(copied) == rows
    check_books_agree(copied)


@pytest.mark.filterwarnings("ignore")
def test_a_tracker_that_was_never_there_is_filled_from_the_journal(copied: Place) -> None:
    (copied.home.path / "mlflow.db").unlink()
    copied.job.tracked.unlink()
    open_writer(spec_of(copied.job), copied.home, copied.job).send()
    record = check_books_agree(copied)
    assert len(record.trials) == ARMS * TRIALS + ARMS * SEEDS


@pytest.mark.filterwarnings("ignore")
def test_a_job_that_died_after_it_had_finished_says_so_and_a_resume_completes_it(copied: Place) -> None:
    job, record = copied.job, copied.job.record()
    assert not job.unpublished.exists(), "the job has ended well"
    published = [job.report, job.summary, job.leaderboard, *map(job.export, record.arms)]
    for file in (*published, job.tracked, copied.home.tracking_store):
        file.unlink()
    job.unpublished.touch()
    lacks = "its report, exports, studies, MLflow runs or registered model are not complete"
    way_out = f"finish them with: tuner resume {job.id}"
    assert f"lacks:   {lacks}; {way_out}" in copied.tuner("status").out
    assert json.loads(copied.tuner("status", "-o", "json").out)["lacks"] == lacks
    assert f"warning: the job has finished, but {lacks}; {way_out}" in copied.tuner("leaderboard").err
    found = copied.tuner("doctor")
    assert (found.code, "not complete" in found.out) == (5, True)
    ended = copied.tuner("resume")
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"{job.id}: finished")
    assert all(file.exists() for file in published)
    assert check_books_agree(copied) == record
    assert copied.tuner("export", "latest", "--best", "-o", "best.yaml").code == 0
    assert MlflowClient(tracking_uri=copied.home.tracking_uri).get_model_version_by_alias("tiny", "champion")
    for command in ("status", "leaderboard"):
        said = copied.tuner(command)
        assert "not complete" not in said.out + said.err
    again = copied.tuner("resume")
    assert (again.code, f"job {job.id} is finished" in again.err) == (2, True)


def test_a_resume_writes_the_report_also_if_the_tracker_is_down(copied: Place) -> None:
    job = copied.job
    job.report.unlink()
    job.unpublished.touch()
    ended = copied.ended(copied.start("resume", env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}))
    assert (ended.code, "127.0.0.1:9" in ended.err, "Traceback" in ended.err) == (3, True, False)
    assert job.report.exists()
    assert job.unpublished.exists()


@pytest.mark.filterwarnings("ignore")
def test_a_relative_tracker_is_one_file_from_every_folder(
    tuner: Callable[..., Ended], home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC + "tracking: {uri: 'sqlite:///runs.db'}\n")
    ended = tuner("run", "spec.yaml", "--simulate", "-q")
    assert ended.code == 0, ended.err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert tuner("sync").code == 0
    assert list(Path().iterdir()) == []
    assert {file.name for file in tmp_path.iterdir()} == {"artifacts", "elsewhere", "home", "runs.db", "spec.yaml"}
    assert list((tmp_path / "artifacts").rglob("report.html"))


def test_confirming_again_estimates_on_new_seeds_and_leaves_the_verdict(copied: Place) -> None:
    before = copied.job.record()
    ended = copied.tuner("confirm", "latest", "--seeds", "3", "-q")
    assert ended.code == 0, ended.err
    record = check_books_agree(copied)
    first, second = record.rounds
    assert set(second.seeds).isdisjoint({*first.seeds, *(trial.seed for trial in before.trials.values())})
    assert second.winners == first.winners
    board, verdict = (build(each, spec_of(copied.job)) for each in (record, before))
    assert (board.round, board.seeds, board.rows) == (1, first.seeds, verdict.rows)
    assert record.state == "finished"
    assert "round 2" in copied.job.summary.read_text()
    assert (copied.job.path / "weights" / "noam-round2.safetensors").exists()
    assert copied.processes_left() == []


def ended_by(where: Place, signal_number: int, whole_group: bool) -> Ended:
    """How a search ends that is told to stop in its midst, as Ctrl-C (the whole group) or ``kill`` (one process) do."""
    process = where.start("run", "spec.yaml")
    wait_for(lambda: has_reported(where), process)
    if whole_group:
        os.killpg(process.pid, signal_number)
    else:
        os.kill(process.pid, signal_number)
    return where.ended(process)


def has_reported(where: Place) -> bool:
    return any('"kind": "epoch"' in path.read_text() for path in where.home.path.glob("jobs/*/journal.jsonl"))


LONG = SPEC.replace("epochs: 6", "epochs: 600").replace(
    "scheduler: {name: asha, first_rung: 2, reduction_factor: 2}\n", ""
)


@pytest.mark.parametrize("wait_s", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_a_second_sigterm_ends_a_search_at_once_and_it_can_be_resumed(tmp_path: Path, wait_s: float) -> None:
    with place(tmp_path, LONG) as where:
        process = where.start("run", "spec.yaml")
        wait_for(lambda: has_reported(where), process)
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            time.sleep(wait_s)
        ended = where.ended(process)
        assert ended.code == 143, ended.err
        assert "Traceback" not in ended.err
        assert where.processes_left() == []
        assert where.job.state() in ("interrupted", "crashed")
        assert any(trial.epochs for trial in where.job.record().trials.values())


@pytest.mark.parametrize(
    ("signal_number", "whole_group", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143)],
    ids=["ctrl-c", "kill"],
)
def test_a_search_that_is_stopped_keeps_what_was_done(
    tmp_path: Path, signal_number: int, whole_group: bool, code: int
) -> None:
    with place(tmp_path, LONG) as where:
        ended = ended_by(where, signal_number, whole_group)
        assert ended.code == code, ended.err
        assert "Traceback" not in ended.err
        assert ended.out == ""
        assert f"error: job {where.job.id} was interrupted" in ended.err
        assert where.processes_left() == []
        assert scratch_left(where) == []
        record = check_books_agree(where)
        assert record.state == "interrupted"
        assert {run.info.status for run in mlflow_runs(where)} == {"KILLED"}
        assert any(trial.epochs for trial in record.trials.values())


OWN_MODEL = """\
import pathlib
from torch import nn


class Net(nn.Module):
    def __init__(self, classes, shape):
        super().__init__()
        self.linear = nn.Linear(shape[0] * shape[1] * shape[2], classes)

    def forward(self, images):
        if self.training:
            self.count()
        return self.linear(images.flatten(1))

    def count(self):
        FAILURE


def build(classes, shape):
    return Net(classes, shape)


def build_words(classes, shape):
    return "no net"
"""
OWN = SPEC.replace("{name: elu_net, width: 0.03}", "{name: 'mine:build'}")


def own_model(failure: str) -> Mapping[str, str]:
    return {"mine.py": OWN_MODEL.replace("FAILURE", failure)}


@pytest.mark.slow
def test_when_the_users_model_fails_in_every_trial_the_first_error_is_shown_once(tmp_path: Path) -> None:
    spec = OWN + "resources: {retries: 0}\n"
    # The check before the job trains one update.
    failure = """\
        self.updates = getattr(self, "updates", 0) + 1
        if self.updates > 5:
            raise ValueError("\\x1b]0;title\\x07\\x9b31mmy own mistake")"""
    with place(tmp_path, spec, own_model(failure.strip())) as where:
        ended = where.tuner("run", "spec.yaml", "-q")
        assert ended.code == 7, ended.err
        assert ended.err.count("ValueError: my own mistake") == 1
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", ended.err)
        assert "in forward" in ended.err
        assert ended.out == ""
        assert where.job.record().state == "failed"
        assert "RUNNING" not in {run.info.status for run in mlflow_runs(where)}
        assert where.processes_left() == []


def test_a_trial_that_fails_once_is_tried_again_and_no_epoch_is_told_twice(tmp_path: Path) -> None:
    # The first training of all fails in its third epoch.
    failure = """\
        self.updates = getattr(self, "updates", 0) + 1
        mark = pathlib.Path(__file__).with_name("failed")
        if self.updates == 25 and not mark.exists():
            mark.touch()
            raise OSError("a passing fault")"""
    spec = (
        OWN.replace("arms: [adam_l2, adamw_restarts, noam]", "arms: [adam_l2, noam]")
        .replace("trials: 3", "trials: 1")
        .replace("scheduler: {name: asha, first_rung: 2, reduction_factor: 2}", "scheduler: none")
    )
    with place(tmp_path, spec + "resources: {retries: 1, concurrent: 1}\n", own_model(failure.strip())) as where:
        ended = where.tuner("run", "spec.yaml", "-q")
        assert ended.code == 0, ended.err
        assert (where.cwd / "failed").exists()
        assert "a passing fault" not in ended.err
        record = check_books_agree(where)
        assert {trial.state for trial in record.trials.values()} == {State.COMPLETE}
        assert {len(trial.epochs) for trial in record.trials.values()} == {EPOCHS}


def test_a_model_that_is_no_module_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with place(tmp_path, OWN.replace("mine:build", "mine:build_words"), own_model("pass")) as where:
        ended = where.tuner("run", "spec.yaml")
        assert ended.code == 2
        assert "error: mine:build_words returned an object of type str, not a torch.nn.Module" in ended.err
        assert "Traceback" not in ended.err
        assert not (where.home.path / "jobs").exists()


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with place(tmp_path) as where:
        where.home.path.write_text("a file, not a folder")
        ended = where.tuner("run", "spec.yaml")
        assert ended.code in (2, 3)
        assert str(where.home.path) in ended.err
        assert "Traceback" not in ended.err
