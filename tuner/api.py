"""The public Python names of tuner. ``import tuner`` gives them too, and loads each one when it is first used."""

from pathlib import Path
from typing import TYPE_CHECKING

from tuner.export.export_file import Export, job_of, read_export
from tuner.export.registered_model import download, read_registered
from tuner.jobs.workspace import Workspace
from tuner.remote.client import Service
from tuner.tracking.model_registry import SCHEME

if TYPE_CHECKING:
    from trainables.training.trainer import Training

__all__ = ["Export", "Service", "Workspace", "download", "load_config"]


def load_config(
    path: str | Path, data_path: str | None = None, allow_code: bool = False, tracking_uri: str | None = None
) -> "Training":
    """A winner that is ready to train: its model, optimizer and schedule, on a CPU or on the GPU kind it used.

    Args:
        path: an exported YAML or JSON file, or a registered model as ``models:/NAME@champion``.
        data_path: where the data lies on this machine; by default, where the winner's job read it, if this machine has
            the job's folder.
        allow_code: let the file name a model or data set by dotted path. This runs that code.
        tracking_uri: the tracker with the registered model; by default ``MLFLOW_TRACKING_URI``, else the workspace's
            store.

    Returns:
        A ``Training`` at epoch 0: ``.model``, ``.optimizer``, ``.schedule`` and ``.run_epoch()``.

    Raises:
        NotFound, IntegrityError: as ``read_export`` and ``read_registered``; or the data is not the search's data.
        SpecError: the export names code and ``allow_code`` is off.
        ServiceError: the tracker cannot be reached.
    """
    from tuner.export.reproduce import start  # imports torch: seconds

    workspace = Workspace.find()
    registered = str(path).startswith(SCHEME)
    export = read_registered(str(path), workspace, tracking_uri) if registered else read_export(Path(path))
    job = job_of(export, workspace, None if registered else Path(path))
    return start(export, export.config, workspace, data_path, allow_code, job)
