"""Reads registered models. A version of a model is a finished job's winner: its export and its weights.

The model has the spec's name, and each winner is a version of it. The alias ``champion`` names the version of the job
that ended last. The source of a version is a folder of the job's parent run with two files and no pickle. The folder
is named by the export's checksum, so a job that is resumed or sent again does not register a second version.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from tuner.errors import IntegrityError, NotFound, without_password
from tuner.export.export_file import Export, read_export
from tuner.export.job_winner import CONFIG, WEIGHTS
from tuner.jobs.workspace import Workspace
from tuner.tracking.model_registry import CHECKSUM, named_version
from tuner.tracking.moved_store import follow_move


def read_registered(uri: str, workspace: Workspace | None = None, tracking_uri: str | None = None) -> Export:
    """The checked export of a registered model. Arguments and errors are those of ``download``."""
    with tempfile.TemporaryDirectory(prefix="tuner-") as folder:
        return download(uri, Path(folder), workspace, tracking_uri)[0]


def download(
    uri: str, folder: Path, workspace: Workspace | None = None, tracking_uri: str | None = None
) -> tuple[Export, Path]:
    """Download and check a registered model.

    Args:
        uri: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        folder: an existing folder for its files.
        workspace: the workspace whose store is read if no tracker is named; by default that of the environment.
        tracking_uri: URI of the tracker; by default ``MLFLOW_TRACKING_URI``.

    Returns:
        The export, and the file of the weights.

    Raises:
        SpecError: the URI has neither form.
        NotFound: no such model, alias or version.
        IntegrityError: tuner did not register it, or it was changed since.
        ServiceError: the tracker cannot be reached.
    """
    workspace = workspace or Workspace.find()
    where = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or workspace.tracking_uri
    if where == workspace.tracking_uri:
        if not workspace.tracking_store.exists():
            raise NotFound(
                f"{uri}: nothing was tracked in {workspace.path} yet; name another tracker in MLFLOW_TRACKING_URI"
            )
        follow_move(workspace)
    from tuner.tracking.client import connect, tracker_errors  # imports mlflow: seconds

    with tracker_errors(without_password(where), "read"):
        return _download(connect(where), uri, folder)


def _download(client: Any, uri: str, folder: Path) -> tuple[Export, Path]:
    version = named_version(client, uri)
    checksum, source = version.tags.get(CHECKSUM), f"runs:/{version.run_id}/"
    if checksum is None or not version.source.startswith(source):
        raise IntegrityError(f"{uri}: version {version.version} was not registered by tuner")
    downloaded = Path(client.download_artifacts(version.run_id, version.source.removeprefix(source), str(folder)))
    try:
        export = read_export(downloaded / CONFIG)
    except (IntegrityError, NotFound) as error:
        raise IntegrityError(f"{uri}: {error}".replace(f"{downloaded}{os.sep}", "")) from None
    if export.sha256 != checksum:
        raise IntegrityError(f"{uri}: altered: its {CONFIG} is not the one that was registered")
    _check_weights(downloaded / WEIGHTS, export, uri)
    return export, downloaded / WEIGHTS


def _check_weights(file: Path, export: Export, uri: str) -> None:
    """Refuse weights that are not those of the export's first confirm run."""
    from safetensors import SafetensorError  # imports torch: seconds
    from safetensors.torch import load_file

    from trainables.training.trainer import digest

    try:
        found = digest(load_file(file))
    except (OSError, SafetensorError):
        found = ""
    if found != export.confirm_runs[0].weights_sha256:
        raise IntegrityError(f"{uri}: altered: its {WEIGHTS} are not those that were registered")
