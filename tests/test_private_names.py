"""Private names of Optuna, MLflow and Ray that the project relies on: a release that drops one fails here, by name.

``docs/decisions.md`` has the same names in a table, with the reason for each.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

DECISIONS = Path(__file__).parents[1] / "docs" / "decisions.md"


def _optuna_study() -> Any:
    import optuna

    return optuna.create_study()


def _optuna_qmc() -> Any:
    import optuna

    return optuna.samplers.QMCSampler


def _optuna_models() -> Any:
    from optuna.storages._rdb import models

    return models


def _optuna_tpe() -> Any:
    import optuna

    return optuna.samplers.TPESampler


def _ray_trainable() -> Any:
    from ray import tune

    return tune.Trainable


def _ray_jobs_client() -> Any:
    from ray.job_submission import JobSubmissionClient

    return JobSubmissionClient


def _ray_session() -> Any:
    from ray.train._internal import session

    return session


def _ray_storage() -> Any:
    from ray.train._internal import storage

    return storage


def _mlflow_registry() -> Any:
    from mlflow.tracking.request_auth import registry

    return registry


OWNERS: Mapping[str, Callable[[], Any]] = {
    "optuna.Study": _optuna_study,
    "optuna.Trial": lambda: _optuna_study().ask(),
    "optuna.QMCSampler": _optuna_qmc,
    "optuna.TPESampler": _optuna_tpe,
    "optuna.storages._rdb.models": _optuna_models,
    "ray.tune.Trainable": _ray_trainable,
    "ray.train._internal.session": _ray_session,
    "ray.train._internal.storage": _ray_storage,
    "ray.job_submission.JobSubmissionClient": _ray_jobs_client,
    "mlflow.tracking.request_auth.registry": _mlflow_registry,
}
NAMES = (
    ("optuna.Study", "_get_trials"),
    ("optuna.TPESampler", "_compute_acquisition_func"),
    ("optuna.Study", "_study_id"),
    ("optuna.Trial", "_suggest"),
    ("optuna.Trial", "_trial_id"),
    ("optuna.QMCSampler", "_find_sample_id"),
    ("optuna.storages._rdb.models", "TrialModel"),
    ("optuna.storages._rdb.models", "TrialParamModel"),
    ("optuna.storages._rdb.models", "TrialValueModel"),
    ("optuna.storages._rdb.models", "TrialIntermediateValueModel"),
    ("optuna.storages._rdb.models", "TrialSystemAttributeModel"),
    ("optuna.storages._rdb.models", "BaseModel"),
    ("ray.tune.Trainable", "_setup_logdir"),
    ("ray.train._internal.session", "_TrainingResult"),
    ("ray.train._internal.session", "get_session"),
    ("ray.train._internal.session", "shutdown_session"),
    ("ray.train._internal.storage", "StorageContext"),
    ("ray.job_submission.JobSubmissionClient", "_do_request"),
    ("mlflow.tracking.request_auth.registry", "_request_auth_provider_registry"),
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("owner", "name"), NAMES)
def test_a_private_name_is_still_there(owner: str, name: str) -> None:
    assert hasattr(OWNERS[owner](), name), f"{owner}.{name} is gone: see the table in docs/decisions.md"


@pytest.mark.parametrize(("owner", "name"), NAMES)
def test_a_private_name_stands_in_the_table_of_decisions(owner: str, name: str) -> None:
    assert f"| `{owner}` | `{name}` |" in DECISIONS.read_text()
