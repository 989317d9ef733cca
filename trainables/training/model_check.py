"""Checks a user's own model before any trial starts: it must train, and the seed must determine what it does.

Legend: B images, H W pixels, C channels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from trainables.catalog import is_dotted
from trainables.config import TrialConfig
from trainables.data.splits import Arrays, Splits
from trainables.errors import CodeError, TrainableError
from trainables.foreign_text import raised
from trainables.hyper import Hyper
from trainables.training.net import build_model
from trainables.training.trainer import EVALUATION_BATCH, Training, digest

T = TypeVar("T")

GPU_BATCH = 2
"""Most images of an update of the check, which is on the CPU, if the trials are on a GPU."""


def check_model(
    config: TrialConfig, splits: Splits, announce: Callable[[str], None] = lambda line: None, *, train: bool = True
) -> None:
    """Build the model; train a user's own model for one update, twice, with the trial's layout, batch and precision.

    It trains on the first images, on the CPU. For trials on a GPU, whose models may be large, the batch is smaller. A
    model that fails with the smaller batch is checked again with the trial's. Validation runs on two images, or on one
    if the last batch of a real evaluation has one. No test image is read.

    Args:
        config: the trial.
        splits: its data.
        announce: called with a line of text before the training, and if two trainings of the same seed differ.
        train: whether to train it; false if that was done before.

    Raises:
        CodeError: the model's code fails, or it does not return one row of logits per image; or two models that were
            built with the same seed differ.
        TrainableError: a batch is larger than the training set.
    """
    path = config.model.name
    if not (train and is_dotted(path)):
        build_model(config, splits.num_classes, splits.train.images_BHWC.shape[1:])
        return
    announce(f"checking the model: {path} is trained for one update, twice, on the CPU")
    # The check is about the model, so its optimizer is the simplest one. Any schedule fits one update.
    config = replace(config, hyper=Hyper(lr=1e-4, schedule="constant"), optimizer=None, epochs=1)
    batch = config.batch_size
    if config.gpu and GPU_BATCH < batch <= len(splits.train):
        try:
            _train_twice(replace(config, batch_size=GPU_BATCH, gpu=False), splits, announce)
            return
        except CodeError:
            # A model may need more images at once: only the trial's own batch tells that it fails.
            pass
    _train_twice(replace(config, gpu=False), splits, announce)


def _train_twice(config: TrialConfig, splits: Splits, announce: Callable[[str], None]) -> None:
    path, part = config.model.name, first_images(splits, config.batch_size)
    with threads_set(config.threads):
        first, second = (guarded(path, lambda: Training(config, part)) for _ in range(2))
        if digest(first.weights()) != digest(second.weights()):
            raise CodeError(
                f"{path}: two models built with the same seed have different weights, so no result could be "
                "reproduced; draw the initial weights from torch, numpy.random or random, or seed your own generator"
                " from one of them"
            )
        reports = [guarded(path, partial(_trained, training)) for training in (first, second)]
        if reports[0] != reports[1]:
            announce(
                f"warning: {path}: two trainings of the same seed differ, so results cannot be reproduced; draw random "
                "numbers from torch, numpy.random or random, or seed your own generator from one of them"
            )


def guarded(path: str, call: Callable[[], T]) -> T:
    """Call; an exception of the user's code becomes a ``CodeError`` of one line that names ``path``."""
    try:
        return call()
    except TrainableError:
        raise
    except Exception as error:
        raise CodeError(raised(f"{path}: training it", error)) from error


def _trained(training: Training) -> object:
    report = training.run_epoch()
    # As text, two losses that are no number are equal.
    return repr(replace(report, seconds=0.0)), digest(training.state())


def first_images(splits: Splits, batch_size: int) -> Splits:
    """The first images: one batch to train, and one or two to validate, as in the last batch of a real evaluation.

    No test image is among them.
    """
    lasts = [len(part) % EVALUATION_BATCH for part in (splits.val, splits.test)]
    return replace(
        splits,
        train=_first(splits.train, batch_size),
        val=_first(splits.val, 1 if 1 in lasts else 2),
        test=_first(splits.val, 1),
    )


def _first(arrays: Arrays, count: int) -> Arrays:
    # A map of a file on disk is read here, and not when a thread of torch needs it.
    return Arrays(np.array(arrays.images_BHWC[:count]), np.array(arrays.labels_B[:count]))


@contextmanager
def threads_set(count: int) -> Iterator[None]:
    """Set the number of torch's threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
