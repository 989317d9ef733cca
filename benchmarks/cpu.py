"""Training on a CPU: images per second of all trials that train at once, against the training loop of the tutorials.

Each trial has its own process, as in a search. Ours uses one thread. The peer uses torch's default threads and a
``DataLoader`` with one process per CPU. Both train the same net on the same images in float32.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.gpu import MADE_UP, Size, Tutorial
from benchmarks.measuring import Comparison, Goal, Result, interleaved, seconds
from trainables.config import TrialConfig
from trainables.data.cache import load
from trainables.data.request import DataRequest
from trainables.data.splits import Splits
from trainables.training import process
from trainables.training.trainer import Training

DATA = DataRequest(MADE_UP.name, train_images=2000, val_images=200, test_images=200)
WIDTH, EPOCHS = 0.125, 3

Epoch = Callable[[], object]
"""Trains one epoch and evaluates."""


def measure(pairs: int, data: DataRequest = DATA, width: float = WIDTH, epochs: int = EPOCHS) -> Result:
    """Compare with one trial per CPU at once, and with one trial alone."""
    size = Size("cpu", data, width)
    with tempfile.TemporaryDirectory() as cache:
        load(data, Path(cache))
        compared = tuple(
            Comparison(
                f"Training, {at_once} trial{'s' * (at_once > 1)} at once",
                "NCHW, DataLoader, default threads",
                "images/s",
                *interleaved(
                    partial(_images_per_s, ours, size, Path(cache), epochs, at_once),
                    partial(_images_per_s, theirs, size, Path(cache), epochs, at_once),
                    pairs,
                ),
                goal,
            )
            for at_once, goal in ((len(os.sched_getaffinity(0)), Goal(3, "least")), (1, None))
        )
    how = (
        f"An ELU net of width {width:g} trains on random images of 32x32, with flip and crop, batches of"
        f" {size.batch_size} and float32. The figure is the training images per second of all trials together, over"
        f" {epochs} epochs of {data.train_images:,} images with their evaluation. One epoch before them is not counted."
    )
    return Result(how, compared)


def ours(size: Size, splits: Splits) -> Epoch:
    """The training of our worker."""
    process.set_up(threads=1)
    return Training(config_of(size), splits).run_epoch


def theirs(size: Size, splits: Splits) -> Epoch:
    """The training of the tutorials."""
    return Tutorial(size, splits).epoch


def config_of(size: Size) -> TrialConfig:
    """The configuration of the trial, in float32."""
    return replace(size.trial(), precision="fp32")


def _images_per_s(kind: Callable[[Size, Splits], Epoch], size: Size, cache: Path, epochs: int, at_once: int) -> float:
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(at_once)]
    processes = [context.Process(target=_trial, args=(kind, size, cache, epochs, end)) for _, end in pipes]
    for started in processes:
        started.start()
    # The timing starts when all processes are ready.
    for ready, _ in pipes:
        ready.recv()
    for ready, _ in pipes:
        ready.send(None)
    found = sum(float(pipe.recv()) for pipe, _ in pipes)
    for started in processes:
        started.join()
    return found


def _trial(
    kind: Callable[[Size, Splits], Epoch], size: Size, cache: Path, epochs: int, parent: "Connection[object, object]"
) -> None:
    torch.manual_seed(0)
    splits = load(size.data, cache)
    epoch = kind(size, splits)
    epoch()
    parent.send("ready")
    parent.recv()
    took_s = seconds(lambda: [epoch() for _ in range(epochs)])
    parent.send(epochs * len(splits.train) / took_s)
