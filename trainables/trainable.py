"""The Ray Tune ``Trainable`` around one trial's training: the one file here that imports ray."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from ray import tune
from safetensors.torch import load_file, save_file

from trainables.config import TrialConfig
from trainables.data.cache import load
from trainables.training import Training, device_name, digest

CHECKPOINT_FILE = "state.safetensors"


class TrialTrainable(tune.Trainable):
    """Trains the trial described by its config, reporting once an epoch.

    Config keys: ``trial`` (``TrialConfig.to_dict``), ``cache_dir`` (decoded data of this node), ``read_test``
    (evaluate on the test images after the last epoch, once), ``weights_path`` (where to leave the final weights,
    or None). An actor is reused for the next trial: nothing but the mapped data outlives one.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Build the training of a new trial."""
        self._options = config
        trial = TrialConfig.from_dict(config["trial"])
        torch.set_num_threads(trial.threads)
        splits = load(trial.data, Path(config["cache_dir"]))
        self.training = Training(trial, splits, "cuda" if trial.gpu else "cpu")

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch."""
        report = self.training.run_epoch()
        result = dataclasses.asdict(report)
        finished = report.epoch == self.training.config.epochs
        if finished and report.diverged is None:
            result |= self._finish()
        result["done"] = finished or report.diverged is not None
        return result

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the state as tensors; no pickle."""
        save_file(self.training.state(), Path(checkpoint_dir) / CHECKPOINT_FILE)

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Continue from a saved state."""
        self.training.load_state(load_file(Path(checkpoint) / CHECKPOINT_FILE))

    def _finish(self) -> dict[str, Any]:
        if not self._options["read_test"]:
            return {}
        test = self.training.evaluate("test")
        weights = self.training.weights()
        if self._options["weights_path"]:
            save_weights(weights, Path(self._options["weights_path"]))
        return {
            "test_loss": test.loss,
            "test_acc": test.acc,
            "weights_sha256": digest(weights),
            "device": device_name(self.training.device),
        }


def save_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write ``weights`` to a safetensors file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(weights, partial)
    partial.replace(path)
