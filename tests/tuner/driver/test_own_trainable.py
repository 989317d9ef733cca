"""Whole jobs with trainables of users': killed in the middle, resumed, and silent about the judge metric."""

import json
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.trainables.own.mnist import write_mnist
from tests.tuner.whole_jobs import Ended, Place, place, wait_for
from tuner.jobs.record import Record
from tuner.storage.events import EpochReported, Stage, State
from tuner.storage.journal import read

WITHHELD = 86753.09375
"""What the trainable reports as its judge metric during the search; as a binary fraction it is exact."""
CODE = f"""
import json
import time
from pathlib import Path

from ray import tune


class Train(tune.Trainable):
    def setup(self, config):
        self.loss = 4.0

    def step(self):
        time.sleep(0.05)
        self.loss *= self.config["factor"]
        Path("loss.txt").write_text(str(self.loss))
        test = self.loss + self.config["seed"] / 2**40 if self.config["read_test"] else {WITHHELD}
        return {{"val_loss": self.loss, "test_loss": test}}

    def save_checkpoint(self, folder):
        Path(folder, "loss.json").write_text(json.dumps(self.loss))

    def load_checkpoint(self, folder):
        self.loss = json.loads(Path(folder, "loss.json").read_text())


def train(config):
    own = Train(config)
    for _ in range(4):
        tune.report(own.step())
"""
SPEC = """\
name: own
metric: {choose: val_loss, judge: test_loss, goal: minimize}
pass: [seed, read_test]
baseline: slow
arms:
  - {name: slow, trainable: "theirs:Train", parameters: {factor: {min: 0.6, max: 0.9}}}
  - {name: fast, trainable: "theirs:train", parameters: {factor: {min: 0.3, max: 0.5}}}
budget: {trials: 2, epochs: 8}
scheduler: none
confirm: {seeds: 3}
claim: setting
"""


@contextmanager
def killed_and_resumed(root: Path, spec: str, modules: dict[str, str], after: int) -> Iterator[tuple[Place, Ended]]:
    """A job whose processes are all killed after some reports, and that was resumed then."""
    with place(root, spec, modules) as where:
        # Ray's examples look for MNIST in the home folder.
        write_mnist(where.root / "user" / "data")
        process = where.start("run", "spec.yaml")
        wait_for(lambda: reports(where) >= after, process)
        for pid in where.processes():
            os.kill(pid, signal.SIGKILL)
        process.wait()
        yield where, where.tuner("resume", where.job.id)


def reports(where: Place) -> int:
    if not where.home.path.exists() or not [*where.home.path.glob("jobs/*/journal.jsonl")]:
        return 0
    return sum(isinstance(entry.event, EpochReported) for entry in read(where.job.journal))


def record_of(where: Place) -> Record:
    record = Record()
    for entry in read(where.job.journal):
        record.add(entry)
    return record


def test_a_job_of_own_trainables_survives_a_kill_and_withholds_the_judge_metric(tmp_path: Path) -> None:
    with killed_and_resumed(tmp_path, SPEC, {"theirs.py": CODE}, after=5) as (where, ended):
        assert ended.code == 0, ended.err
        record = record_of(where)
        assert all(trial.state == State.COMPLETE for trial in record.trials.values()), ended.err
        for key, trial in record.trials.items():
            factor = float(trial.begun.hyper["factor"])
            expected = [4.0 * factor**step for step in range(1, (4 if "/fast/" in key else 8) + 1)]
            assert [report.metric("val_loss") for report in trial.epochs] == pytest.approx(expected)
            if trial.begun.stage == Stage.CONFIRM:
                assert trial.result is not None
                seed = trial.begun.seed % 2**31
                assert trial.result.metric("test_loss") == pytest.approx(expected[-1] + seed / 2**40)
            else:
                assert trial.result is None
        shown = (str(WITHHELD)[:7].encode(), struct.pack(">d", WITHHELD), struct.pack("<d", WITHHELD))
        files = [file for file in where.root.rglob("*") if file.is_file() and file.name != "theirs.py"]
        # The code travels nowhere, so only its copies beside the spec may have the number.
        leaks = [file for file in files if any(value in file.read_bytes() for value in shown)]
        assert [file for file in leaks if file.suffix != ".pyc"] == []
        board = json.loads(where.tuner("leaderboard", where.job.id, "-o", "json").out)
        for row in board["rows"]:
            results = {
                trial.result.metric("test_loss")
                for trial in record.trials.values()
                if trial.result is not None and trial.begun.arm == row["arm"]
            }
            assert set(row["tests"].values()) == results
            assert len(results) == 3
        assert not [*where.cwd.glob("loss.txt")]


ARMS = {
    "functions": (
        "mean_loss, goal: minimize",
        "tune_basic_example:easy_objective",
        "custom_func_checkpointing:train_func",
        "parameters: {width: {min: 1, max: 20}}, fixed: {height: 1, steps: 6}",
    ),
    "classes": (
        "mean_loss, goal: minimize",
        "custom_func_checkpointing:train_func",
        "custom_checkpointing_with_callback:OptimizationTrainable",
        "parameters: {width: {min: 1, max: 20}}, fixed: {height: 1}",
    ),
    "mnist": (
        "mean_accuracy, goal: maximize, unit: points",
        "mnist_pytorch_trainable:TrainMNIST",
        "mnist_pytorch:train_mnist",
        "parameters: {lr: {min: 0.01, max: 0.1}}, fixed: {momentum: 0.5, should_checkpoint: true}",
    ),
    "xgboost": (
        "test-logloss, goal: minimize",
        "xgboost_example:train_breast_cancer",
        "xgboost_example:train_breast_cancer_cv",
        "parameters: {eta: {min: 0.01, max: 0.3}}, "
        "fixed: {objective: 'binary:logistic', eval_metric: [logloss, error]}",
    ),
    "lightgbm": (
        "binary_logloss, goal: minimize",
        "lightgbm_example:train_breast_cancer",
        "lightgbm_example:train_breast_cancer_cv",
        "parameters: {learning_rate: {min: 0.01, max: 0.3}}, "
        "fixed: {objective: binary, metric: [binary_error, binary_logloss], verbose: -1}",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ARMS)
def test_two_of_rays_examples_are_a_job_without_an_edit(name: str, tmp_path: Path) -> None:
    metric, first, second, knobs = ARMS[name]
    spec = f"""\
name: rays
metric: {{choose: {metric}}}
baseline: one
arms:
  - {{name: one, trainable: "ray.tune.examples.{first}", {knobs}}}
  - {{name: two, trainable: "ray.tune.examples.{second}", {knobs}}}
budget: {{trials: 2, epochs: 6}}
scheduler: none
confirm: {{seeds: 3}}
claim: setting
"""
    with killed_and_resumed(tmp_path, spec, {}, after=5) as (where, ended):
        assert ended.code == 0, ended.err
        trials = record_of(where).trials.values()
        assert len(trials) == 10
        assert {trial.state for trial in trials} == {State.COMPLETE}
        assert {len(trial.epochs) for trial in trials} == {6}
        assert max(trial.attempts for trial in trials) == 2
