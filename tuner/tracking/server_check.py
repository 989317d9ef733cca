"""Asks a tracking server over HTTP whether it answers and takes our credentials, without importing mlflow."""

from tuner.errors import ServiceError, SpecError, without_password
from tuner.tracking.credentials import tracking_credentials

ANSWER_S = 5.0


TRACKERS = ("http://", "https://", "sqlite:", "postgresql", "mysql", "mssql", "databricks")


def check_tracker(uri: str) -> None:
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

    auth = tracking_credentials()
    page = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/get?experiment_id=0"
    try:
        answer = requests.get(page, auth=auth, timeout=ANSWER_S)
    except (requests.RequestException, ValueError) as error:
        # ValueError: a host name that cannot be one, which requests lets through.
        raise ServiceError(
            f"MLflow at {without_password(uri)} cannot be reached ({type(error).__name__}); is it up?"
        ) from None
    if answer.status_code in (401, 403):
        allowed = "; if it runs behind another name, start it with --allowed-hosts" if answer.status_code == 403 else ""
        raise ServiceError(
            f"MLflow at {without_password(uri)} refuses us ({answer.status_code} {answer.reason}){allowed}"
        )
