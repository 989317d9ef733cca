"""The Ray Tune ``Trainable`` that runs one trial's training. Only it and ``own/user_trainable.py`` import ray."""

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from ray import tune
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.cache import load
from trainables.data.device import DeviceSplits
from trainables.report import ConfirmResult, StepReport
from trainables.training import checkpoints, process
from trainables.training.trainer import Training, device_name, digest
from trainables.worker.watchdog import watchdog

CACHE = "TUNER_CACHE"
"""Environment variable with a node's own folder of decoded data; the driver's may be missing or read-only there."""

_log = logging.getLogger(__name__)


class TrialTrainable(tune.Trainable):
    """Runs one attempt of the trial in its config, and reports once per epoch.

    An actor is reused for the next trial. Only the data is kept from trial to trial: it is mapped, or copied to the
    GPU, once. An actor without a config waits for ``begin``. We do not use Tune's own checkpoints: only Tune knows
    which of them is the newest, and it loses this knowledge when the driver dies.

    Config keys:
        trial: ``TrialConfig.to_dict``.
        cache_dir: folder of decoded data; ``TUNER_CACHE`` in this node's environment overrides it.
        read_test: evaluate on the test images once, after the last epoch.
        weights_path: path or S3 URL to which the final weights are written, or None.
        attempt: fencing number of this attempt of the trial, from 1; every report contains it.
        checkpoints: folder of the trial's checkpoints (a path or an S3 URL), shared by its attempts.
        accepted: (epoch, attempt) of the reports on record, newest first; only their checkpoints may be resumed from.
        checkpoint_s: shortest time between two checkpoints, in seconds; 0 writes one checkpoint per epoch.
        lonely_s: time without a call after which the process ends itself, in seconds, unless the trial is done.
    """

    def begin(self, config: dict[str, Any]) -> dict[str, Any]:
        """Start a trial and train one epoch: its first, or the one after the checkpoint that it resumes from."""
        self.reset(config)  # type: ignore[no-untyped-call]
        result: dict[str, Any] = self.train()  # type: ignore[no-untyped-call]
        return result

    def setup(self, config: dict[str, Any]) -> None:
        """Build the training: resumed from the newest accepted and undamaged checkpoint, or else at epoch 0."""
        if not config:
            return
        watchdog.called()
        self._options = config
        self._saved_at = time.monotonic()
        trial = TrialConfig.from_dict(config["trial"])
        process.set_up(trial.threads)
        # Free the last trial's memory on the device before this trial allocates its own.
        vars(self).pop("training", None)
        data = self._on_device(trial, Path(os.environ.get(CACHE) or config["cache_dir"]).absolute())
        states = checkpoints.newest(config["checkpoints"], config["accepted"])
        self.training = continued(trial, data, states)
        watchdog.expect_call(config["lonely_s"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start the next trial in the same process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch; write a checkpoint unless the trial is done or ``checkpoint_s`` is not yet over.

        A later attempt repeats at most ``checkpoint_s`` seconds of reported training.
        """
        watchdog.called()
        attempt = self._options["attempt"]
        report = self.training.run_epoch()
        done = report.epoch == self.training.config.epochs or report.diverged is not None
        result = None
        if not done:
            if time.monotonic() - self._saved_at >= self._options["checkpoint_s"]:
                checkpoints.save(self._options["checkpoints"], self.training.state(), report.epoch, attempt)
                self._saved_at = time.monotonic()
            watchdog.expect_call(self._options["lonely_s"])
        elif report.diverged is None and self._options["read_test"]:
            result = self._finish()
        return StepReport(attempt, report, result).to_dict() | {"done": done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: Tune asks for a checkpoint when a trial is done, but never resumes from one."""

    def cleanup(self) -> None:
        """Stop the watchdog: from now on no call is expected."""
        watchdog.called()

    def _setup_logdir(self) -> None:
        # Outside a run of Tune, Tune's own method would create folders in the user's home directory.
        if self._storage is not None:
            super()._setup_logdir()  # type: ignore[no-untyped-call]

    def _on_device(self, trial: TrialConfig, cache: Path) -> DeviceSplits:
        """A trial's data on its device; reused if the last trial had the same data."""
        device = torch.device("cuda" if trial.gpu else "cpu")
        wanted = trial.data, cache, device
        if getattr(self, "_wanted", None) != wanted:
            self._wanted, self._data = wanted, DeviceSplits(load(trial.data, cache), device)
        return self._data

    def _finish(self) -> ConfirmResult:
        test = self.training.evaluate("test")
        weights = self.training.weights()
        if self._options["weights_path"]:
            checkpoints.write(self._options["weights_path"], weights, self._options["attempt"])
        return ConfirmResult(
            test_acc=test.acc,
            test_loss=test.loss,
            weights_sha256=digest(weights),
            device=device_name(self.training.device),
            max_active=self.training.max_active(),
        )


def continued(trial: TrialConfig, data: DeviceSplits, states: Iterable[dict[str, Tensor]]) -> Training:
    """The trial's training, resumed from the first of ``states`` that fits it; at epoch 0 if none fits."""
    for state in states:
        training = Training(trial, data)
        if _loaded(training, state):
            return training
        _log.warning("a checkpoint was refused: it does not fit the model")
    return Training(trial, data)


def _loaded(training: Training, state: dict[str, Tensor]) -> bool:
    """Load a state into a new training. False if the state belongs to another model; discard the training then."""
    try:
        training.load_state(state)
    except (KeyError, RuntimeError):
        return False
    return set(training.state()) == set(state)
