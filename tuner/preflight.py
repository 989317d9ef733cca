"""What a job needs of this machine and its services, checked before anything heavy is loaded or anything is written."""

import os

from cluster.runtime import usable_cpus, usable_gpus
from tuner.errors import ServiceError, SpecError, without_password
from tuner.home import Home
from tuner.sender import tracking_uri
from tuner.spec import SearchSpec

ANSWER_S = 5.0
TRACKERS = ("http://", "https://", "sqlite:", "postgresql", "mysql", "mssql", "databricks")


def preflight(spec: SearchSpec, home: Home) -> None:
    """Refuse a job that could not run here.

    Raises:
        SpecError: a trial asks for more CPUs or GPUs than this machine has, or a store's URL is none.
        ServiceError: the tracking server does not answer, or refuses us.
    """
    _check_machine(spec)
    _check_storage(spec)
    _check_tracker(tracking_uri(spec, home))


def _check_machine(spec: SearchSpec) -> None:
    """Refuse what this machine can never give, instead of waiting for it."""
    cpus, gpus = spec.resources.cpus, spec.resources.gpus
    if cpus > usable_cpus():
        raise SpecError(f"resources.cpus: a trial asks for {cpus} CPUs and this machine has {usable_cpus()}")
    if gpus and gpus > usable_gpus():
        raise SpecError(f"resources.gpus: a trial asks for {gpus:g} GPUs and this machine has {usable_gpus()}")


def _check_storage(spec: SearchSpec) -> None:
    if spec.storage is None:
        return
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(spec.storage)
    except ArgumentError:
        raise SpecError(
            f"storage: {spec.storage!r} is no database URL; write sqlite:///FILE or postgresql://…"
        ) from None


def _check_tracker(uri: str) -> None:
    """Raise ``ServiceError`` unless a tracking server answers; one that is a file is made when it is first written.

    Only before a job starts: a tracker that goes away later stops nothing.
    """
    if not uri.startswith(TRACKERS):
        known = ", ".join(TRACKERS)
        raise SpecError(
            f"tracking.uri: {without_password(uri)!r} is no store that MLflow keeps; it begins with {known}"
        )
    if not uri.startswith("http"):
        return
    import requests

    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    auth = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
    page = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/get?experiment_id=0"
    try:
        answer = requests.get(page, auth=auth, timeout=ANSWER_S)
    except requests.RequestException as error:
        raise ServiceError(
            f"MLflow at {without_password(uri)} cannot be reached ({type(error).__name__}); is it up?"
        ) from None
    if answer.status_code in (401, 403):
        allowed = "; if it runs behind another name, start it with --allowed-hosts" if answer.status_code == 403 else ""
        raise ServiceError(
            f"MLflow at {without_password(uri)} refuses us ({answer.status_code} {answer.reason}){allowed}"
        )
