"""Trainables that nobody here wrote: Ray's own examples, unchanged, killed and resumed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.trainables.own.mnist import write_mnist
from trainables.own.trial import OwnTrial
from trainables.own.worker import OwnWorker
from trainables.report import OwnReport, StepReport


class Example(NamedTuple):
    """An example of Ray's.

    Args:
        name: module below ``ray.tune.examples``, and its trainable.
        config: its config.
        metric: a number that it reports.
        resumes: whether it continues from a checkpoint.
        slow: whether the test takes seconds, most of them for imports.
    """

    name: str
    config: Mapping[str, Any]
    metric: str
    resumes: bool
    slow: bool = False


BASIC = {"width": 10.0, "height": 1.0}
MNIST = {"lr": 0.05, "momentum": 0.5}
XGBOOST = {"objective": "binary:logistic", "eval_metric": ["logloss", "error"], "max_depth": 2, "eta": 0.1}
LIGHTGBM = {"objective": "binary", "metric": ["binary_error", "binary_logloss"], "verbose": -1, "learning_rate": 0.1}
EXAMPLES = (
    Example("tune_basic_example:easy_objective", {**BASIC, "steps": 9}, "mean_loss", False),
    Example("custom_func_checkpointing:train_func", BASIC, "mean_loss", True),
    Example("custom_checkpointing_with_callback:OptimizationTrainable", BASIC, "mean_loss", True),
    Example("mnist_pytorch_trainable:TrainMNIST", MNIST, "mean_accuracy", True, slow=True),
    Example("mnist_pytorch:train_mnist", {**MNIST, "should_checkpoint": True}, "mean_accuracy", False, slow=True),
    Example("xgboost_example:train_breast_cancer", XGBOOST, "test-logloss", False, slow=True),
    Example("xgboost_example:train_breast_cancer_cv", XGBOOST, "test-logloss", False, slow=True),
    Example("lightgbm_example:train_breast_cancer", LIGHTGBM, "binary_logloss", False, slow=True),
    Example("lightgbm_example:train_breast_cancer_cv", LIGHTGBM, "binary_logloss", False, slow=True),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with MNIST where the examples look for it."""
    folder = tmp_path_factory.mktemp("home")
    write_mnist(folder / "data")
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "example",
    [pytest.param(each, marks=[pytest.mark.slow] if each.slow else [], id=each.name) for each in EXAMPLES],
)
def test_an_example_of_rays_runs_unchanged_and_goes_on_after_a_kill(
    example: Example, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: OwnWorker
) -> None:
    monkeypatch.setenv("HOME", str(home))
    name = f"ray.tune.examples.{example.name}"
    trial = OwnTrial(name, example.config, 4, 3, (), example.metric, example.metric)
    config = {
        "trial": trial.to_dict(),
        "read_test": True,
        "attempt": 1,
        "checkpoints": str(tmp_path / "checkpoints"),
        "accepted": [],
        "checkpoint_s": 0.0,
        "lonely_s": 3600.0,
    }
    whole = steps(worker, config | {"checkpoints": str(tmp_path / "whole")})
    assert [step.epoch.epoch for step in whole if step.epoch] == [1, 2, 3, 4]
    assert whole[-1].result is not None
    assert whole[-1].result.metric(example.metric) == report(whole[-1]).metric(example.metric)
    killed = steps(worker, config, calls=2)
    resumed = steps(worker, config | {"attempt": 2, "accepted": [[2, 1], [1, 1]]})
    together = [*killed, *resumed] if example.resumes else resumed
    assert [report(step).epoch for step in together] == [1, 2, 3, 4]
    if "mnist" not in example.name or not example.resumes:  # momentum is not in the checkpoint of the MNIST class
        values = [[report(step).metric(example.metric) for step in some] for some in (together, whole)]
        assert values[0] == values[1]
    if example.name.startswith("mnist"):
        assert report(resumed[-1]).metric("mean_accuracy") > 0.5


def steps(worker: OwnWorker, config: dict[str, Any], calls: int = 100) -> list[StepReport]:
    answers = [worker.begin(json.loads(json.dumps(config)))]
    while worker.busy and len(answers) < calls:
        answers.append(worker.train())
    return [StepReport.from_dict(answer) for answer in answers]


def report(step: StepReport) -> OwnReport:
    assert isinstance(step.epoch, OwnReport)
    return step.epoch
