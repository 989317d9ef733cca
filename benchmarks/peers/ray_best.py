"""Ray Tune at its best settings, to measure its own overhead: reused actors, no file loggers, no tracking.

The class trainable uses our own ``Training``. So the training is the same on both sides, and only the overhead differs.
It keeps no checkpoints. The search space is a grid over the numbers of the trials. Tune then needs no searcher, and
starts all actors at once.
"""

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

# Tune reads this when a search starts. Without it, Tune also writes results as JSON, CSV and for TensorBoard.
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"

import ray
import torch
from ray import tune

from benchmarks.peers.task import Done, Task
from trainables.training.trainer import Training


class Trial(tune.Trainable):
    """Trains one trial after the other in the same process."""

    def setup(self, config: dict[str, Any], task: Task) -> None:  # type: ignore[override]
        """Build the training of the first trial."""
        self._task = task
        self._splits = task.splits()
        torch.set_num_threads(task.trial.threads)
        self._build(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Build the training of the next trial."""
        self._build(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch."""
        report = self._training.run_epoch()
        done = report.epoch == self._training.config.epochs
        return dataclasses.asdict(report) | {"done": done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write nothing."""

    def _build(self, config: dict[str, Any]) -> None:
        trial = self._task.trials[config["trial"]]
        self._training = Training(trial, self._splits, "cuda" if trial.gpu else "cpu")


class Times(tune.Callback):
    """The times of the first report and of the end of the last trial."""

    def __init__(self) -> None:
        self.first_report = 0.0
        self.last_end = 0.0

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        """Keep the time of the first report."""
        self.first_report = self.first_report or time.time()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Keep the time of the latest end."""
        self.last_end = time.time()


def main(task: Task, folder: Path) -> Done:
    """Run the search."""
    ray.init(include_dashboard=False)
    times = Times()
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(Trial, task=task), {"cpu": task.cpus, "gpu": 1 if task.trial.gpu else 0}
        ),
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(folder / "ray_results"),
            callbacks=[times],
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
        param_space={"trial": tune.grid_search(list(range(len(task.trials))))},
    )
    results = tuner.fit()
    epochs = sum((results[number].metrics or {})["training_iteration"] for number in range(len(results)))
    return Done(len(results), epochs, times.first_report, times.last_end)


if __name__ == "__main__":
    main(Task.read(Path(sys.argv[1])), Path(sys.argv[2])).tell()
