"""Trainables as users write them, and a worker for them in this process."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cluster.runtime  # isort: skip  (before ray: it sets what ray reads when it is imported)
import pytest
import torch

from trainables.own.trial import OwnTrial
from trainables.own.worker import OwnWorker

assert cluster.runtime.SETTINGS

CODE = '''
import json
import os
import random
from pathlib import Path

import numpy as np
import torch
from ray import tune


class Decay(tune.Trainable):
    """It halves a number, and can checkpoint."""

    def setup(self, config):
        self.seen = dict(config)
        self.x = 8.0

    def step(self):
        self.x *= self.config["factor"]
        return {"val_loss": self.x, "test_loss": self.x + 1, "steps": self.iteration, "done": self.x < 0.1}

    def save_checkpoint(self, folder):
        Path(folder, "deep").mkdir()
        Path(folder, "deep", "x.json").write_text(json.dumps(self.x))

    def load_checkpoint(self, folder):
        self.x = json.loads(Path(folder, "deep", "x.json").read_text())


class DictDecay(Decay):
    def save_checkpoint(self, folder):
        return {"x": self.x}

    def load_checkpoint(self, state):
        self.x = state["x"]


class Forgetful(Decay):
    save_checkpoint = tune.Trainable.save_checkpoint


class Empty(Decay):
    def save_checkpoint(self, folder):
        pass


class Unloadable(Decay):
    load_checkpoint = tune.Trainable.load_checkpoint


class Draws(tune.Trainable):
    def step(self):
        return {"val_loss": random.random(), "n": np.random.rand(), "t": torch.rand(())}


class Failing(tune.Trainable):
    def setup(self, config):
        if config.get("at") == "setup":
            raise Odd(1, 2)

    def step(self):
        raise Odd(1, 2)

    def cleanup(self):
        raise RuntimeError("cleanup")


class Odd(Exception):
    """It cannot be copied: its constructor takes other arguments."""

    def __init__(self, one, two):
        super().__init__(f"odd {one + two}")


def decay(config):
    start, x = 0, 8.0
    checkpoint = tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            start, x = json.loads(Path(folder, "state.json").read_text())
    for step in range(start, config.get("steps", 4)):
        x *= config["factor"]
        Path("state.json").write_text(json.dumps([step + 1, x]))
        metrics = {"val_loss": x, "test_loss": x + 1}
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory("."))


def late_judge(config):
    tune.report({"val_loss": 1.0})
    tune.report({"val_loss": 0.5})
    tune.report({"val_loss": 0.25, "test_loss": 0.3})


def endless(config):
    """Its judge is no number in its last report, the third."""
    start, checkpoint = 0, tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            start = json.loads(Path(folder, "state.json").read_text())
    for step in range(start, 3):
        Path("state.json").write_text(json.dumps(step + 1))
        metrics = {"val_loss": 1.0, "test_loss": float("nan") if step == 2 else 1.0}
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory("."))


def generated(config):
    yield {"val_loss": 2.0}
    yield {"val_loss": 1.0}


def returned(config):
    return {"val_loss": 1.0}


def silent(config):
    pass


def failing(config):
    tune.report({"val_loss": 1.0})
    raise Odd(1, 2)


def reports(config):
    """It reports what it is given."""
    for report in config["reports"]:
        tune.report(report)


def where(config):
    Path("made.txt").write_text("here")
    tune.report({"val_loss": len(os.listdir("."))})


def stubborn(config):
    while True:
        try:
            tune.report({"val_loss": 1.0})
        except BaseException:
            pass


def seen(config):
    tune.report({"val_loss": 1.0, **{f"got/{key}": value for key, value in config.items()}})


def seeded(config):
    """It ignores the seeds of Python, numpy and torch."""
    for _ in range(2):
        tune.report({"val_loss": random.Random(config.get("seed", 0)).random(), "test_loss": 1.0})


def judged_by_luck(config):
    tune.report({"val_loss": 1.0, "test_loss": random.random()})


def number_report(config):
    tune.report(3)


def needs(config):
    tune.report({"val_loss": 1.0, "test_loss": config[config["key"]]})


def two(config, other):
    pass


number = 3
'''

Config = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a worker changes in its process: its folder, its environment, its modules."""
    before, path = dict(os.environ), list(sys.path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "theirs.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("theirs", None)
    yield
    sys.modules.pop("theirs", None)
    sys.path[:] = path
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def worker() -> Iterator[OwnWorker]:
    worker = OwnWorker()
    yield worker
    worker.close()


@pytest.fixture
def trial_of() -> Callable[..., OwnTrial]:
    def trial(name: str, config: Mapping[str, Any] | None = None, **fields: Any) -> OwnTrial:
        values = {"epochs": 4, "seed": 7, "passed": (), "choose": "val_loss", "judge": "test_loss", **fields}
        return OwnTrial(f"theirs:{name}", {"factor": 0.5} if config is None else config, **values)

    return trial


@pytest.fixture
def config_of(tmp_path: Path) -> Config:
    def config(trial: OwnTrial, **keys: Any) -> dict[str, Any]:
        return {
            "trial": trial.to_dict(),
            "read_test": False,
            "weights_path": None,
            "attempt": 1,
            "checkpoints": str(tmp_path / "checkpoints"),
            "accepted": [],
            "checkpoint_s": 0.0,
            "lonely_s": 3600.0,
            **keys,
        }

    return config
