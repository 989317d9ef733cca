"""Ray Tune as PyTorch's and Ray's tutorials on hyper-parameter tuning show it, tracked by Ray's own MLflow callback.

A function trainable with a checkpoint and a report an epoch, two CPUs a trial, ``DataLoader`` with eight processes (the
task can say fewer), the default loggers, threads and progress table, and a test of the best at the end. The search is
Ray's ``OptunaSearch``. So that it trains the very trials of the task, these are its ``points_to_evaluate``, and all
trials have their full length: no scheduler stops any.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch
from torch.utils.data import DataLoader

from benchmarks.peers import plain
from benchmarks.peers.task import KNOBS, Done, Task


def train(config: dict[str, Any], task: Task, normalisation: plain.Normalisation) -> None:
    """One trial."""
    for epoch in plain.train(task, normalisation, config):
        state = {
            "epoch": epoch.number,
            "net_state_dict": epoch.net.state_dict(),
            "optimizer_state_dict": epoch.optimizer.state_dict(),
        }
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state, Path(folder) / "checkpoint.pt")
            checkpoint = tune.Checkpoint.from_directory(folder)
            tune.report({"loss": epoch.loss, "accuracy": epoch.accuracy}, checkpoint=checkpoint)


def test_accuracy(task: Task, normalisation: plain.Normalisation, best: tune.Checkpoint) -> float:
    """Of the best trial's last checkpoint."""
    net = plain.build(task)
    with best.as_directory() as folder:
        net.load_state_dict(torch.load(Path(folder) / "checkpoint.pt")["net_state_dict"])
    loader = DataLoader(plain.load_data(task, normalisation)["test"], batch_size=4, shuffle=False, num_workers=2)
    return plain.evaluate(net, loader, plain.device_of(task))[1]


def main(task: Task, folder: Path) -> Done:
    """Search, and test the best."""
    ray.init(include_dashboard=False)
    normalisation = plain.Normalisation.of(task)
    tuner = tune.Tuner(
        tune.with_resources(
            partial(train, task=task, normalisation=normalisation),
            resources={"cpu": task.cpus, "gpu": 1 if task.trial.gpu else 0},
        ),
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            search_alg=OptunaSearch(points_to_evaluate=task.settings),
            num_samples=len(task.trials),
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder / "ray_results"),
            callbacks=[MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment_name="peer")],
        ),
        param_space={knob: tune.loguniform(low, high) for knob, (low, high) in KNOBS.items()},
    )
    results = tuner.fit()
    best = results.get_best_result("loss", "min")
    assert best.checkpoint is not None, "every report has one"
    print(f"best: {best.config}, test accuracy {test_accuracy(task, normalisation, best.checkpoint)}")
    epochs = sum((results[number].metrics or {})["training_iteration"] for number in range(len(results)))
    return Done(len(results), epochs)


if __name__ == "__main__":
    main(Task.read(Path(sys.argv[1])), Path(sys.argv[2])).tell()
