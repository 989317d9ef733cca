"""The public Python names of tuner. ``import tuner`` gives them too, and loads each one when it is first used."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.control.begin import begin
from tuner.control.cluster_job import ClusterJob, Service
from tuner.control.draft import draft
from tuner.control.driven import drive_to_its_end, say, user_errors
from tuner.control.job import Job, LocalJob, Verdict
from tuner.export.export_file import Export, job_of, read_export
from tuner.export.registered_model import download, read_registered
from tuner.jobs.find import find_job
from tuner.jobs.workspace import LATEST, Workspace
from tuner.spec.search_spec import SearchSpec as Spec
from tuner.tracking.model_registry import SCHEME

if TYPE_CHECKING:
    from trainables.training.trainer import Training

__all__ = [
    "ClusterJob",
    "Export",
    "Job",
    "LocalJob",
    "Service",
    "Spec",
    "Verdict",
    "Workspace",
    "connect",
    "download",
    "load_config",
    "open",
    "run",
]


def run(
    spec: str | Path | Mapping[str, Any] | Spec,
    *,
    workspace: str | Path | Workspace | None = None,
    simulate: bool = False,
    quiet: bool = False,
    **overrides: Any,
) -> LocalJob:
    """Search on this machine: search every arm, confirm the winners on fresh seeds, and judge them.

    It shows its progress on stderr: a table in a terminal, and a line per trial in a notebook. The trials run in other
    processes, so the user's own code must be in a module beside the spec, and not in a notebook.

    Args:
        spec: the path of a YAML file, a mapping of the same keys, or a loaded ``Spec``. Paths in a mapping, and the
            modules that it names, are relative to the current folder.
        workspace: the folder of jobs and stores; by default ``TUNER_HOME``, else ``tuner-runs`` in the current folder.
        simulate: train nothing and use made-up learning curves, which takes seconds.
        quiet: show no progress.
        overrides: values that replace those of the spec. A mapping changes only the keys that it names:
            ``budget={"trials": 2}``. A dotted key is the place of one value: ``**{"budget.trials": 2}``, and
            ``**{"arms.adamw.fixed": {"eps": 1e-8}}`` for the arm of that name.

    Returns:
        The job, which has finished.

    Raises:
        NotFound: there is no such file.
        SpecError: the spec, the data or the user's code is not right.
        ServiceError: a store cannot be used.
        SearchFailed: no arm finished, or too many trials failed.
        KeyboardInterrupt: the program was interrupted. The job keeps its progress: ``tuner.open("latest").resume()``.
    """
    with user_errors():
        drive = begin(draft(spec, overrides), _workspace(workspace), simulate, say(quiet))
    drive_to_its_end(drive, quiet)
    return LocalJob(drive.workspace, drive.folder)


def open(job: str = LATEST, workspace: str | Path | Workspace | None = None) -> LocalJob:
    """A job of this machine, or of the database in ``TUNER_STORAGE``.

    Args:
        job: its id, the beginning of an id, or ``latest``.
        workspace: the folder of jobs and stores; by default ``TUNER_HOME``, else ``tuner-runs`` in the current folder.

    Raises:
        NotFound: no such job, or several fit.
        ServiceError: the database cannot be used.
    """
    found = _workspace(workspace)
    with user_errors():
        return LocalJob(found, find_job(found, job))


def connect(address: str | None = None) -> Service:
    """The jobs of a Ray cluster.

    Args:
        address: URL of its dashboard; by default ``RAY_API_SERVER_ADDRESS``, else ``RAY_ADDRESS``.

    Raises:
        ServiceError: the cluster is unreachable or refuses the token.
    """
    return Service(address)


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


def _workspace(given: str | Path | Workspace | None) -> Workspace:
    return given if isinstance(given, Workspace) else Workspace.find(None if given is None else Path(given))
