"""The end-state checker: rules that every finished job must meet, whatever faults it survived."""

import warnings
from collections import Counter
from typing import Any

import optuna
from optuna.storages import RDBStorage

from tests.tuner.whole_jobs import Place
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.record import Record, Trial
from tuner.jobs.request import spec_of, storage_of
from tuner.jobs.workspace import Workspace
from tuner.search.winners import ranked
from tuner.storage.events import Stage, State, TrialEnded
from tuner.storage.journal import read
from tuner.tracking.background_sync import tracking_uri
from tuner.tracking.run_layout import METRICS

STATUS = {State.COMPLETE: "FINISHED", State.PRUNED: "KILLED"}
OPTUNA = {State.COMPLETE: "COMPLETE", State.PRUNED: "PRUNED"}


def check_end_state(where: Place, job: JobFolder | None = None) -> Record:
    """Check the end state of a job, and return its record.

    The proposed trials, the child runs in MLflow and our record must agree. Each trial must have each of its steps
    1 to n exactly once. No trial may be running. The best trial of the study must be the best of the record.

    Args:
        where: the place of the job.
        job: the job, if the place has several.
    """
    folder = job or where.job
    record = folder.record()
    assert record.state == "finished", (record.state, record.reason)
    _check_journal(folder, record)
    _check_studies(where.home, folder, record)
    _check_mlflow(where.home, folder, record)
    return record


def values(record: Record) -> dict[str, Any]:
    """Trial key -> settings, accuracies and result. They must be equal with and without faults."""
    return {
        key: (
            dict(trial.hyper),
            [(epoch.metric("val_acc"), epoch.metric("train_loss")) for epoch in trial.epochs],
            trial.result,
        )
        for key, trial in record.trials.items()
    }


def _check_journal(folder: JobFolder, record: Record) -> None:
    spec = spec_of(folder)
    for trial in record.trials.values():
        assert trial.state != State.RUNNING, trial.key
        assert [epoch.epoch for epoch in trial.epochs] == list(range(1, len(trial.epochs) + 1)), trial.key
        if trial.state == State.COMPLETE:
            assert len(trial.epochs) == spec.budget.epochs
    told = Counter(entry.event.trial for entry in read(folder.journal) if isinstance(entry.event, TrialEnded))
    assert set(told.values()) == {1}
    assert set(told) == set(record.trials)
    for arm in record.arms:
        assert [trial.number for trial in record.of(Stage.SEARCH, arm)] == list(range(spec.budget.trials))
    for confirm_round in record.rounds:
        runs = [(run.arm, run.seed) for run in record.of(Stage.CONFIRM, round_number=confirm_round.round)]
        assert sorted(runs) == sorted((arm, seed) for arm in confirm_round.winners for seed in confirm_round.seeds)
        for arm, winner in confirm_round.winners.items():
            assert winner == ranked(record, spec, arm)[0].number


def _check_studies(home: Workspace, folder: JobFolder, record: Record) -> None:
    storage = RDBStorage(storage_of(spec_of(folder), home))
    for arm in record.arms:
        study = optuna.load_study(study_name=f"{folder.id}/{arm}", storage=storage)
        asked = {trial.number: trial for trial in study.trials}
        ours = {trial.number: trial for trial in record.of(Stage.SEARCH, arm)}
        assert {number: trial.state.name for number, trial in asked.items()} == {
            number: OPTUNA.get(trial.state, "FAIL") for number, trial in ours.items()
        }
        # Optuna uses the last report of a PRUNED trial as its value.
        last = {n: trial.epochs[-1].metric("val_acc") for n, trial in ours.items() if trial.state in OPTUNA}
        assert {n: trial.value for n, trial in asked.items() if trial.value is not None} == last
        complete = {n: value for n, value in last.items() if ours[n].state == State.COMPLETE}
        if complete:
            assert study.best_value == max(complete.values())
    storage.engine.dispose()


def _check_mlflow(home: Workspace, folder: JobFolder, record: Record) -> None:
    # mlflow triggers deprecation warnings of SQLAlchemy, which we cannot fix.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=tracking_uri(spec_of(folder), home))
        experiments = [found.experiment_id for found in client.search_experiments()]
        wanted = f"tags.`tuner.job` = '{folder.id}'"
        runs = list(client.search_runs(experiments, wanted, max_results=5000))
        by_key = {run.data.tags["tuner.trial"]: run for run in runs}
        assert len(by_key) == len(runs), "a trial has two runs"
        assert set(by_key) == {"", *record.trials}
        assert by_key[""].info.status == "FINISHED"
        for key, trial in record.trials.items():
            _check_run(client, by_key[key], trial)


def _check_run(client: Any, run: Any, trial: Trial) -> None:
    assert (run.data.tags["tuner.stage"], run.data.tags["tuner.arm"]) == (trial.stage, trial.arm)
    assert (run.info.status, run.data.tags["tuner.state"]) == (STATUS.get(trial.state, "FAILED"), trial.state)
    for ours, theirs in METRICS.items():
        rows = client.get_metric_history(run.info.run_id, theirs)
        told = sorted((row.step, row.value) for row in rows)
        on_record = [(epoch.epoch, getattr(epoch, ours)) for epoch in trial.epochs]
        if ours == "seconds":
            # After damage to the journal, an epoch that was already sent is trained again. It then takes another time.
            told, on_record = ([(step, 0.0) for step, _ in pairs] for pairs in (told, on_record))
        assert told == on_record, (trial.key, theirs)
