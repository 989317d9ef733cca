"""The Ray Tune ``Trainable`` around one trial's training: the one file here that imports ray."""

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import torch
from ray import tune
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.cache import load
from trainables.data.device import DeviceSplits
from trainables.report import ConfirmResult, StepReport
from trainables.training import checkpoints, process
from trainables.training.trainer import Training, device_name, digest

LONELY_EXIT = 75
"""Exit status of a worker that its driver has stopped calling (``EX_TEMPFAIL``: another attempt may do better)."""

CACHE = "TUNER_CACHE"
"""The variable that names a node's own folder of decoded data: the driver's may not be there, or not be writable."""

_log = logging.getLogger(__name__)


class TrialTrainable(tune.Trainable):
    """Makes one attempt at the trial described by its config, reporting once an epoch.

    An actor is reused for the next trial: nothing but the data outlives one, mapped here or copied to the GPU once.
    Made without a config it waits for ``begin``. Tune's own checkpoints are not used: which of them is the newest only
    Tune knows, and it forgets when the driver dies.

    Config keys:
        trial: ``TrialConfig.to_dict``.
        cache_dir: folder of decoded data; ``TUNER_CACHE`` in the environment of this node names another.
        read_test: evaluate on the test images after the last epoch, once.
        weights_path: where to leave the final weights (a path or an S3 URL), or None.
        attempt: fencing number of this attempt at the trial, from 1; it is in every report.
        checkpoints: folder of the trial's checkpoints (a path or an S3 URL), shared by its attempts.
        accepted: (epoch, attempt) of the reports on record, newest first: the checkpoints that may be continued.
        checkpoint_s: seconds after a checkpoint within which no other is written; 0 for one an epoch.
        lonely_s: seconds without a call after which the process ends itself, if the trial is not done.
    """

    def begin(self, config: dict[str, Any]) -> dict[str, Any]:
        """Take a trial and train its first epoch, or the one after the checkpoint that it goes on from."""
        self.reset(config)  # type: ignore[no-untyped-call]
        result: dict[str, Any] = self.train()  # type: ignore[no-untyped-call]
        return result

    def setup(self, config: dict[str, Any]) -> None:
        """Build the training, where the newest checkpoint that is accepted and whole left it, else at epoch 0."""
        if not config:
            return
        _watchdog.called()
        self._options = config
        self._saved_at = time.monotonic()
        trial = TrialConfig.from_dict(config["trial"])
        process.set_up(trial.threads)
        # What the last trial took on the device is free before this one takes its own.
        vars(self).pop("training", None)
        data = self._on_device(trial, Path(os.environ.get(CACHE) or config["cache_dir"]).absolute())
        states = checkpoints.newest(config["checkpoints"], config["accepted"])
        self.training = continued(trial, data, states)
        _watchdog.expect_call(config["lonely_s"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch; what it reports can be continued, but for the last ``checkpoint_s``."""
        _watchdog.called()
        attempt = self._options["attempt"]
        report = self.training.run_epoch()
        done = report.epoch == self.training.config.epochs or report.diverged is not None
        result = None
        if not done:
            if time.monotonic() - self._saved_at >= self._options["checkpoint_s"]:
                checkpoints.save(self._options["checkpoints"], self.training.state(), report.epoch, attempt)
                self._saved_at = time.monotonic()
            _watchdog.expect_call(self._options["lonely_s"])
        elif report.diverged is None and self._options["read_test"]:
            result = self._finish()
        return StepReport(attempt, report, result).to_dict() | {"done": done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: Tune asks for a checkpoint when a trial is done, and goes on from none."""

    def cleanup(self) -> None:
        """Let the process wait for its end in peace."""
        _watchdog.called()

    def _setup_logdir(self) -> None:
        # Without a run of Tune's, its own would make folders in the user's home.
        if self._storage is not None:
            super()._setup_logdir()  # type: ignore[no-untyped-call]

    def _on_device(self, trial: TrialConfig, cache: Path) -> DeviceSplits:
        """A trial's data on its device, where the last trial left it if it was the same."""
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
        )


def continued(trial: TrialConfig, data: DeviceSplits, states: Iterable[dict[str, Tensor]]) -> Training:
    """The trial's training at the first of ``states`` that fits it; at epoch 0 if none does."""
    for state in states:
        training = Training(trial, data)
        if _loaded(training, state):
            return training
        _log.warning("a checkpoint was refused: it does not fit the model")
    return Training(trial, data)


def _loaded(training: Training, state: dict[str, Tensor]) -> bool:
    """Load a state into a new training; False, with the training in pieces, if it is one of another net."""
    try:
        training.load_state(state)
    except (KeyError, RuntimeError):
        return False
    moments = ((p, value) for p, values in training.optimizer.state.items() for value in values.values())
    fit = all(value.shape in (p.shape, torch.Size()) for p, value in moments)
    return fit and set(training.state()) == set(state)


class _Watchdog:
    """Ends this process when a call that is expected does not come: its driver is dead, or cut off from it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._patience_s = math.inf
        self._deadline = math.inf
        self._thread: threading.Thread | None = None

    def expect_call(self, within_s: float) -> None:
        with self._changed:
            self._patience_s, self._deadline = within_s, time.monotonic() + within_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()

    def called(self) -> None:
        with self._changed:
            self._deadline = math.inf

    def _watch(self) -> NoReturn:
        with self._changed:
            while (left_s := self._deadline - time.monotonic()) > 0:
                self._changed.wait(min(left_s, threading.TIMEOUT_MAX))
            # Still under the lock: a call that comes now waits, and trains nothing that nobody would hear of.
            try:
                message = f"tuner: no call for {self._patience_s:g} s, is the driver gone? This worker ends itself."
                print(message, file=sys.stderr, flush=True)
            finally:
                os._exit(LONELY_EXIT)


_watchdog = _Watchdog()
"""One for the process, as it is the process that it ends."""
