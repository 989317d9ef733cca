"""Ray Tune as in PyTorch's and Ray's tutorials on hyper-parameter tuning, with Ray's own MLflow callback.

The trainable is a function with one checkpoint and one report per epoch, and two CPUs per trial. Each ``DataLoader``
has eight processes, or fewer if the task sets fewer. Loggers, threads and the progress table have their defaults. At
the end, the best trial is tested. The search is Ray's ``OptunaSearch``. The trials of the task are its
``points_to_evaluate``, so it trains exactly these. No scheduler stops a trial, so all trials have their full length.
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
    """Train one trial."""
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
    """Test accuracy of the best trial's last checkpoint."""
    net = plain.build(task)
    with best.as_directory() as folder:
        net.load_state_dict(torch.load(Path(folder) / "checkpoint.pt")["net_state_dict"])
    loader = DataLoader(plain.load_data(task, normalisation)["test"], batch_size=4, shuffle=False, num_workers=2)
    return plain.evaluate(net, loader, plain.device_of(task))[1]


def main(task: Task, folder: Path) -> Done:
    """Run the search, and test the best trial."""
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
