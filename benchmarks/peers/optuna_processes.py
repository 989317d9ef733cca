"""Optuna as in its guide to parallel runs: processes share a study in a journal file, and MLflow tracks trials.

There is one process per CPU. Each has its share of the trials and torch's default threads. The trials of the task are
enqueued before the processes start. ``MLflowCallback`` of optuna-integration is deprecated, so runs are logged as in
MLflow's own guide: one run per trial, with its parameters, and with its metrics at every epoch.
"""

import multiprocessing
import os
import sys
from pathlib import Path

import mlflow
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from benchmarks.peers import plain
from benchmarks.peers.task import KNOBS, Done, Task

EPOCHS = "epochs"
"""The attribute of a trial that holds its number of epochs."""


def storage(folder: Path) -> JournalStorage:
    """The journal file that the processes share."""
    return JournalStorage(JournalFileBackend(str(folder / "journal.log")))


def track(folder: Path) -> None:
    """Log runs to a database in the folder. The database and the experiment are created if necessary."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment("peer")


def work(file: Path, folder: Path, name: str, trials: int) -> None:
    """Run the share of one process."""
    task = Task.read(file)
    normalisation = plain.Normalisation.of(task)
    track(folder)

    def objective(trial: optuna.Trial) -> float:
        setting = {knob: trial.suggest_float(knob, low, high, log=True) for knob, (low, high) in KNOBS.items()}
        with mlflow.start_run(run_name=str(trial.number)):
            mlflow.log_params(setting)
            for epoch in plain.train(task, normalisation, setting):
                mlflow.log_metrics({"loss": epoch.loss, "accuracy": epoch.accuracy}, step=epoch.number)
                trial.report(epoch.loss, epoch.number)
            trial.set_user_attr(EPOCHS, epoch.number)
        return epoch.loss

    study = optuna.load_study(study_name=name, storage=storage(folder))
    study.optimize(objective, n_trials=trials)


def main(file: Path, folder: Path) -> Done:
    """Search with one process per trial that fits on the CPUs."""
    task = Task.read(file)
    name = f"peer-{os.getpid()}"
    study = optuna.create_study(study_name=name, storage=storage(folder), direction="minimize")
    for setting in task.settings:
        study.enqueue_trial(setting)
    # This creates MLflow's tables. It would fail in several processes at once.
    track(folder)
    spawn = multiprocessing.get_context("spawn")
    processes = max(1, len(os.sched_getaffinity(0)) // task.cpus)
    shares = [len(task.trials[number::processes]) for number in range(processes)]
    workers = [spawn.Process(target=work, args=(file, folder, name, share)) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit(f"a process ended with exit code {worker.exitcode}")
    trials = study.get_trials(states=(TrialState.COMPLETE,))
    print(f"best: {study.best_params}")
    return Done(len(trials), sum(trial.user_attrs[EPOCHS] for trial in trials))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2])).tell()
