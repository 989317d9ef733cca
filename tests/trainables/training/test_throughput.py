"""The speed of processes that train at once is really measured, here on CPU."""

from pathlib import Path

import pytest

from tests.trainables.small import NARROW, smallest_trial
from trainables.config import ModelConfig
from trainables.data.splits import Splits
from trainables.errors import TrainableError
from trainables.training.throughput import images_per_s


@pytest.fixture(autouse=True)
def decoded(tiny: Splits) -> None:
    """Decode the data in one process before several processes need it."""


@pytest.mark.parametrize("trials", [1, 2])
def test_the_rates_of_processes_that_train_at_once_add_up(trials: int, cache_dir: Path) -> None:
    rate = images_per_s(smallest_trial("adam_l2", model=NARROW), cache_dir, trials, seconds=0.5)
    assert rate is not None
    assert rate > 10


def own_model(folder: Path, text: str) -> ModelConfig:
    (folder / "own_net_that_is_measured.py").write_text(text)
    return ModelConfig("own_net_that_is_measured:build")


def test_running_out_of_memory_differs_from_other_failures(cache_dir: Path, tmp_path: Path) -> None:
    text = "import torch\ndef build(classes, shape): {}\n"
    # The message is torch's own message on a GPU.
    greedy = own_model(tmp_path, text.format("raise torch.OutOfMemoryError('CUDA out of memory')"))
    assert images_per_s(smallest_trial("adam_l2", model=greedy), cache_dir, 2, 0.1, tmp_path) is None
    broken = own_model(tmp_path, text.format("return torch.nn.Linear(3, classes)"))
    with pytest.raises(TrainableError, match="the trial failed while its speed was measured: CodeError: own_net"):
        images_per_s(smallest_trial("adam_l2", model=broken), cache_dir, 1, 0.1, tmp_path)


def test_a_killed_trial_counts_as_out_of_memory(cache_dir: Path, tmp_path: Path) -> None:
    killed = own_model(tmp_path, "import os, signal\ndef build(classes, shape): os.kill(os.getpid(), signal.SIGKILL)\n")
    assert images_per_s(smallest_trial("adam_l2", model=killed), cache_dir, 1, 0.1, tmp_path) is None


def test_a_model_that_prints_can_be_measured(cache_dir: Path, tmp_path: Path) -> None:
    text = """
import torch
def build(classes, shape):
    print("hello")
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, classes))
"""
    rate = images_per_s(smallest_trial("adam_l2", model=own_model(tmp_path, text)), cache_dir, 1, 0.1, tmp_path)
    assert rate is not None
    assert rate > 10
