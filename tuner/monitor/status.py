"""A job's status at any moment: its state, its progress, the time spent, and what it waits for."""

from dataclasses import dataclass
from typing import Any

from tuner.execution.gpu_packing import as_packed
from tuner.jobs.job_folder import JobFolder, state_of
from tuner.jobs.record import Record
from tuner.jobs.request import spec_of
from tuner.monitor.progress import ArmProgress, Progress
from tuner.storage.events import Stage
from tuner.storage.file_lock import lock_owner
from tuner.verdict.numbers import choose_name


@dataclass(frozen=True)
class Status:
    """The status of a job.

    Args:
        job: its id.
        state: its state in a word.
        reason: why it failed or stopped, or None.
        holder: the process that runs it, or None.
        waits: why none of its trials runs; empty if one runs.
        lacks: what a finished job lacks until it is resumed; empty if nothing.
        search, select, confirm: trials that ended, and that are planned.
        arms: counts per arm.
        metric: the name of the values in ``arms``.
        spent_s: seconds for which drivers ran.
        trained_s: seconds of training of all trials together.
        gpu_s: ``trained_s`` times the GPUs per trial.
        left_s: estimated seconds left; None before the first trial has ended and for a job that does not run.
    """

    job: str
    state: str
    reason: str | None
    holder: str | None
    waits: str
    lacks: str
    search: tuple[int, int]
    select: tuple[int, int]
    confirm: tuple[int, int]
    arms: list[ArmProgress]
    metric: str
    spent_s: float
    trained_s: float
    gpu_s: float
    left_s: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values; without ``lacks`` if nothing lacks."""
        values = {**vars(self), "arms": [arm._asdict() for arm in self.arms]}
        if not self.lacks:
            del values["lacks"]
        return values


def status(folder: JobFolder) -> Status:
    """The status of a job.

    Raises:
        IntegrityError: its journal is damaged.
        ServiceError: its database cannot be used.
    """
    database = folder.database()
    row = database.job(folder.id) if database is not None else None
    owner = lock_owner(folder.lock_file) or (None if row is None else row.holder)
    record = folder.record_so_far()
    spec, state = as_packed(spec_of(folder), folder), state_of(record, owner)
    trained_s = sum(record.group(stage).seconds for stage in Stage)
    progress = Progress(spec, record, _at_once(record, trained_s))
    stages = progress.stages() if record.begun else ((0, 0), (0, 0), (0, 0))
    return Status(
        job=folder.id,
        state=state,
        reason=record.reason,
        holder=None if owner is None else str(owner),
        waits="" if row is None or owner is None else row.summary.waits,
        lacks=folder.lacks(state),
        search=stages[0],
        select=stages[1],
        confirm=stages[2],
        arms=progress.arms() if record.begun else [],
        metric=choose_name(spec.metric),
        spent_s=round(record.active_s, 1),
        trained_s=round(trained_s, 1),
        gpu_s=round(trained_s * spec.resources.gpus, 1),
        left_s=progress.left_s() if record.begun and state == "running" else None,
    )


def _at_once(record: Record, trained_s: float) -> float:
    """The mean number of trials at once. On a cluster, it changes as other jobs come and go."""
    return max(1.0, trained_s / record.active_s if record.active_s else 1.0)
