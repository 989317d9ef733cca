"""The GPU benchmark runs, at a tiny size on CPU, and says so where there is no GPU."""

import subprocess
import sys

import pytest
import torch

from benchmarks.gpu import Size, measured
from trainables.data.request import DataRequest

TINY = Size(
    device="cpu",
    data=DataRequest("digits", train_images=100, val_images=50),
    width=0.05,
    batch_size=50,
    at_once=(1, 2),
    seconds=0.1,
)


@pytest.mark.slow
def test_it_compares_one_trial_with_both_peers_and_several_with_one() -> None:
    result = measured(TINY, pairs=1)
    assert [comparison.peer for comparison in result.comparisons] == [
        "plain updates",
        "a DataLoader's loop, as in the tutorials",
        "one trial alone",
    ]
    assert all(figure > 0 for comparison in result.comparisons for figure in comparison.ours + comparison.theirs)
    assert set(result.details["images/s by trials at once"]) == {1, 2}  # type: ignore[call-overload]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_is_skipped_in_one_line() -> None:
    ended = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], capture_output=True, text=True, check=True)
    assert ended.stdout + ended.stderr == "gpu: skipped, there is no GPU here\n"
