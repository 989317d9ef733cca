"""Checks a user's own optimizer before any trial starts: it updates the weights, and a trial can resume with it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from safetensors import torch as safetensors
from torch import Tensor

from trainables.catalog import is_dotted
from trainables.config import TrialConfig
from trainables.data.splits import Splits
from trainables.errors import CodeError
from trainables.schedules import Schedule
from trainables.training.model_check import GPU_BATCH, first_images, guarded, threads_set
from trainables.training.trainer import Training, digest, plan_of

UPDATES = 2
"""Updates of the check; the second shows whether a state that was written and read continues as if it never was."""
_OF_TORCH = ("state", "param_groups", "defaults")
"""Attributes of every optimizer, which a checkpoint has."""
ASKED = 1000
"""Most updates at which a schedule of the user's own is asked for its factor."""


def check_optimizer(config: TrialConfig, splits: Splits, announce: Callable[[str], None] = lambda line: None) -> None:
    """Build a user's own optimizer, take an update, and continue from its state as it is in a checkpoint.

    It trains on the first images, on the CPU, with a constant learning rate. For trials on a GPU the batch is small. A
    schedule of the user's own is asked for its factors. Nothing is done for a trial with neither.

    Args:
        config: the trial.
        splits: its data.
        announce: called with a line of text before the training, and for what is no error but may be unintended.

    Raises:
        CodeError: the optimizer or the schedule cannot be used; the line says why.
        TrainableError: a batch is larger than the training set.
    """
    _check_schedule(config, splits)
    if config.optimizer is None:
        return
    path = config.optimizer.name
    announce(f"checking the optimizer: {path} takes {UPDATES} updates on the CPU")
    batch = min(GPU_BATCH, config.batch_size) if config.gpu else config.batch_size
    hyper = replace(config.hyper, schedule="constant")
    config = replace(config, hyper=hyper, epochs=UPDATES, batch_size=batch, gpu=False)
    part = first_images(splits, batch)
    with threads_set(config.threads):
        training = guarded(path, lambda: Training(config, part))
        _announce_untrained(training, announce)
        before = _weights(training)
        report = guarded(path, training.run_epoch)
        if not (math.isfinite(report.train_loss) and math.isfinite(report.val_loss)):
            raise CodeError(f"{path}: the loss is not finite after one update with the learning rate {hyper.lr:g}")
        state = guarded(path, lambda: safetensors.load(safetensors.save(training.state())))
        expected = _epoch(path, training)
        if digest(before) == digest(_weights(training)):
            raise CodeError(f"{path} does not move the weights: {UPDATES} updates changed none of them")
        resumed = guarded(path, lambda: Training(config, part))
        try:
            resumed.load_state(state)
        except (KeyError, RuntimeError) as error:
            raise CodeError(f"{path} does not resume from a checkpoint: {error}") from error
        if _epoch(path, resumed) == expected and _plain(resumed) == _plain(training):
            return
        another = guarded(path, lambda: Training(config, part))
        guarded(path, another.run_epoch)
        if _epoch(path, another) == expected and _plain(another) == _plain(training):
            raise CodeError(
                f"{path} does not resume from a checkpoint: it continues in another way than without one; keep all "
                "that the next update needs in self.state, in the parameter groups, or in state_dict and "
                "load_state_dict of your own"
            )
        announce(
            f"warning: {path}: two trainings of the same seed differ, so results cannot be reproduced; draw random "
            "numbers from torch, numpy.random or random"
        )


def check_setting(config: TrialConfig, splits: Splits) -> None:
    """Build the user's own optimizer of a trial, and ask a schedule of the user's own for its factors; train nothing.

    A class may refuse a value at the end of a range that it takes in the middle.

    Args:
        config: the trial.
        splits: its data.

    Raises:
        CodeError, TrainableError: as for ``check_optimizer``.
    """
    _check_schedule(config, splits)
    if config.optimizer is not None:
        built = replace(config, hyper=replace(config.hyper, schedule="constant"), gpu=False)
        guarded(config.optimizer.name, lambda: Training(built, first_images(splits, config.batch_size)))


def _epoch(path: str, training: Training) -> object:
    """Train an epoch; return all that it changed, as values that can be compared."""
    report = guarded(path, training.run_epoch)
    # As text, two losses that are no number are equal.
    return repr(replace(report, seconds=0.0)), digest(training.state())


def _plain(training: Training) -> Mapping[str, str]:
    """The attributes of the optimizer that are plain values, as texts: one of them may act at a later update."""
    own = {name: value for name, value in vars(training.optimizer).items() if name not in _OF_TORCH}
    return {name: text for name, value in own.items() if (text := _text(value)) is not None}


def _text(value: object) -> str | None:
    """A text that is equal for equal values; None for a value of another kind."""
    if value is None or isinstance(value, bool | int | float | complex | str):
        return repr(value)
    if isinstance(value, Tensor):
        return digest({"": value.detach().cpu()})
    if isinstance(value, Mapping):
        return _text([part for item in value.items() for part in item])
    if isinstance(value, list | tuple):
        texts = [_text(part) for part in value]
        return None if None in texts else repr(texts)
    return None


def _weights(training: Training) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in training.model.named_parameters()}


def _check_schedule(config: TrialConfig, splits: Splits) -> None:
    path = config.hyper.schedule
    if not is_dotted(path):
        return
    plan = plan_of(config, len(splits.train))
    schedule = Schedule(config.hyper, plan)
    steps = range(0, plan.updates, max(1, plan.updates // ASKED))
    if max([schedule.lr_factor(step) for step in steps]) == 0:
        raise CodeError(f"{path} is 0 at every update: the training would not change any weight")


def _announce_untrained(training: Training, announce: Callable[[str], None]) -> None:
    trained = {id(parameter) for group in training.optimizer.param_groups for parameter in group["params"]}
    every = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
    left_out = sum(parameter.numel() for parameter in every if id(parameter) not in trained)
    if left_out:
        total = sum(parameter.numel() for parameter in every)
        announce(f"note: {left_out:,} of {total:,} weights are in no parameter group, so they are never trained")
