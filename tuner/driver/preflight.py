"""Checks what a job needs from this machine and its services, before anything slow is loaded or anything is written."""

import os
import shutil
from pathlib import Path

from cluster.runtime import SHORT_FOLDERS, scratch_parent, usable_cpus, usable_gpus
from trainables.file_store import S3
from tuner.driver.cost import confirm_runs, search_trials
from tuner.errors import ServiceError, SpecError, without_password
from tuner.jobs.job_folder import STORAGE_VARIABLE
from tuner.jobs.request import storage_of
from tuner.jobs.workspace import Workspace
from tuner.spec.search_spec import SearchSpec
from tuner.storage.database_url import same_database
from tuner.storage.shared_files import VARIABLE, check_writable, shared_root
from tuner.tracking.background_sync import experiment_name, tracking_uri
from tuner.tracking.server_check import check_tracker

EPOCH_BYTES = 4096
"""Bytes per epoch in the journal (0.4 KB measured) and in the stores (2.7 KB measured), rounded up."""
STORES_BYTES = 4 * 2**20
"""Bytes of empty stores, and of SQLite's files beside them."""
PARAMETERS = 1_465_720
"""Parameters of ``elu_net`` at width 1."""
STATE_WEIGHTS = 4
"""Size of a training's state in units of its weights: the weights, two moments, and AMSGrad's maximum."""
CHECKPOINTS = 3
"""Checkpoints of a trial: two that are kept, and one that is being written."""
STORAGES = "write sqlite:///FILE or postgresql://…"


def preflight(spec: SearchSpec, workspace: Workspace) -> None:
    """Refuse a job that could not run here.

    Raises:
        SpecError: a trial needs more CPUs or GPUs than this machine has, the URL of a store is invalid, studies and
            tracker are to share a database, or no folder for temporary files has a name short enough for sockets.
        ServiceError: a disk has too little space, the place that ``TUNER_SHARED`` names cannot be written, or the
            tracker does not answer, refuses us or is not MLflow's; or its experiment was deleted.
    """
    _check_machine(spec)
    _check_scratch()
    _check_stores(spec, workspace, shared_root())


def preflight_on_cluster(spec: SearchSpec, workspace: Workspace) -> None:
    """Refuse a job that could not run on the cluster of this head. ``tuner submit`` checks the nodes.

    Raises:
        SpecError: ``TUNER_SHARED`` names no place that all nodes can write to.
        ServiceError: as ``preflight``.
    """
    shared = shared_root()
    if shared is None:
        raise SpecError(
            f"set {VARIABLE} on the head to a folder that all nodes mount, or s3://BUCKET/PREFIX: a trial goes on from"
            " there on another node"
        )
    _check_stores(spec, workspace, shared)


def _check_stores(spec: SearchSpec, workspace: Workspace, shared: str | None) -> None:
    if shared is not None:
        check_writable(shared)
    _check_room(spec, workspace, shared)
    _check_storage(spec)
    tracker = tracking_uri(spec, workspace)
    _check_apart(storage_of(spec, workspace), tracker)
    check_tracker(tracker, experiment_name(spec))


def _check_machine(spec: SearchSpec) -> None:
    """Refuse a trial that this machine can never run, instead of waiting for ever."""
    cpus, gpus = spec.resources.cpus, spec.resources.gpus
    if cpus > usable_cpus():
        raise SpecError(f"resources.cpus: a trial asks for {cpus} CPUs and this machine has {usable_cpus()}")
    if gpus and gpus > usable_gpus():
        raise SpecError(f"resources.gpus: a trial asks for {gpus:g} GPUs and this machine has {usable_gpus()}")


def _check_scratch() -> None:
    """Refuse a machine where Ray, which runs the trials, could make no sockets."""
    if scratch_parent() is None:
        raise SpecError(
            f"TMPDIR: {os.environ.get('TMPDIR', '(not set)')!r} cannot be written or is too long for sockets, and so "
            f"is each of {', '.join(SHORT_FOLDERS)}; set TMPDIR to a writable folder with a short name"
        )


def bytes_needed(spec: SearchSpec, concurrent: int) -> int:
    """About the most bytes that a job writes: journal, stores, checkpoints and kept weights, without decoded data."""
    return _journal_bytes(spec) + _state_bytes(spec, concurrent)


def _journal_bytes(spec: SearchSpec) -> int:
    epochs = (search_trials(spec) + confirm_runs(spec)) * spec.budget.epochs
    return STORES_BYTES + EPOCH_BYTES * epochs


def _state_bytes(spec: SearchSpec, concurrent: int) -> int:
    # The size of the user's own net is unknown until it is built.
    weights = 4 * round(PARAMETERS * spec.model.width**2) if spec.model.name == "elu_net" else 0
    return (concurrent * CHECKPOINTS * STATE_WEIGHTS + spec.arm_count) * weights


def _check_room(spec: SearchSpec, workspace: Workspace, shared: str | None) -> None:
    concurrent = spec.concurrent_on(usable_cpus(), usable_gpus())
    if shared is None:
        _check_free(workspace.path, bytes_needed(spec, concurrent))
        return
    _check_free(workspace.path, _journal_bytes(spec))
    # A bucket does not report its free space.
    if not shared.startswith(S3):
        _check_free(Path(shared), _state_bytes(spec, concurrent))


def _check_free(folder: Path, needed: int) -> None:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise ServiceError(f"{folder}: the job needs about {needed:,} bytes there, and {free:,} are free")


def _check_storage(spec: SearchSpec) -> None:
    if spec.storage is None:
        return
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        make_url(spec.storage).get_dialect().import_dbapi()
    except NoSuchModuleError:
        raise SpecError(f"storage: no kind of database is named in {spec.storage!r}; {STORAGES}") from None
    except ImportError as error:
        raise SpecError(
            f"storage: {spec.storage!r} needs the package {error.name!r}; install it, or {STORAGES}"
        ) from None
    except (ArgumentError, ValueError):
        raise SpecError(f"storage: {spec.storage!r} is no database URL; {STORAGES}") from None


def _check_apart(storage: str, tracker: str) -> None:
    """Refuse studies and a tracker in one database: each would take the other's version for its own."""
    if same_database(storage, tracker):
        raise SpecError(
            f"storage ({STORAGE_VARIABLE}) and tracking.uri (MLFLOW_TRACKING_URI) name the same database,"
            f" {without_password(tracker)}; Optuna and MLflow both keep a table alembic_version: give each its own"
        )
