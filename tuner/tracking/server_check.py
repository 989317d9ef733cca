"""Checks over HTTP that a tracking server answers and accepts our credentials. It does not import mlflow."""

from tuner.errors import ServiceError, SpecError, without_password
from tuner.tracking.credentials import tracking_credentials

ANSWER_S = 5.0
TRACKERS = ("http://", "https://", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def check_tracker(uri: str) -> None:
    """Check a tracker before a job starts. A tracker that fails later stops nothing.

    A tracker that is a file is created when it is first written.

    Raises:
        SpecError: the URI is none of MLflow's kinds.
        ServiceError: the server does not answer, or refuses us.
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
        # ValueError: requests raises it for some invalid host names.
        raise ServiceError(
            f"MLflow at {without_password(uri)} cannot be reached ({type(error).__name__}); is it up?"
        ) from None
    if answer.status_code in (401, 403):
        allowed = "; if it runs behind another name, start it with --allowed-hosts" if answer.status_code == 403 else ""
        raise ServiceError(
            f"MLflow at {without_password(uri)} refuses us ({answer.status_code} {answer.reason}){allowed}"
        )
