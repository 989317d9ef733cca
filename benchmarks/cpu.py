"""Training on a processor: images a second of all trials that train at once, against the tutorials' loop.

Each trial is a process of its own, as in a search: ours with one thread, the peer with torch's default threads and a
``DataLoader`` with a process a processor. Both train the same net on the same images in float32.
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
    """Compare as many trials at once as there are processors, and one alone."""
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
        f"ELU net of width {width:g}, made-up images of 32x32, flip and crop, batch {size.batch_size}, float32:"
        f" {epochs} epochs of {data.train_images:,} images with their evaluation, after one that is not counted;"
        " training images a second of all trials together."
    )
    return Result(how, compared)


def ours(size: Size, splits: Splits) -> Epoch:
    """As a worker of ours trains."""
    process.set_up(threads=1)
    return Training(config_of(size), splits).run_epoch


def theirs(size: Size, splits: Splits) -> Epoch:
    """As the tutorials train."""
    return Tutorial(size, splits).epoch


def config_of(size: Size) -> TrialConfig:
    """The trial, in float32."""
    return replace(size.trial(), precision="fp32")


def _images_per_s(kind: Callable[[Size, Splits], Epoch], size: Size, cache: Path, epochs: int, at_once: int) -> float:
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(at_once)]
    processes = [context.Process(target=_trial, args=(kind, size, cache, epochs, end)) for _, end in pipes]
    for started in processes:
        started.start()
    # None is timed before the last is ready.
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
