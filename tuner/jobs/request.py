"""Writes what the user submitted into a new job's folder, and reads it again."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuner.errors import SpecError, TunerError
from tuner.jobs.code_archive import Imported, check_modules, code_files, pack
from tuner.jobs.job_folder import STORAGE_VARIABLE, JobFolder
from tuner.jobs.workspace import Workspace
from tuner.spec.search_spec import SearchSpec, from_dict, from_document, to_dict
from tuner.spec.strict_yaml import read
from tuner.spec.trial_config import data_request
from tuner.spec.user_code import names_code
from tuner.storage.database_url import absolute, is_relative
from tuner.storage.events import Outcome


def new_job(
    workspace: Workspace,
    spec: SearchSpec,
    spec_text: str,
    code: Path,
    simulate: bool = False,
    imported: Imported | None = None,
) -> JobFolder:
    """Create a job: its folder and, if its studies are in a Postgres, its record there.

    Args:
        workspace: the workspace of the job.
        spec: the search.
        spec_text: the spec as the user wrote it.
        code: folder of the user's own modules.
        simulate: whether to train nothing.
        imported: the modules that the code imports; None for those of this process.

    Raises:
        ServiceError: the folder, or the record in the database, cannot be written.
        SpecError: the code would go into the database, and a module that it imports would not.
    """
    name, start = beginning(_with_absolute_paths(spec), str(code), simulate)
    folder = workspace.new_job(name, spec_text, start)
    try:
        if database := folder.database():
            packed = None
            if names_code(spec):
                check_modules(files := code_files(code), imported)
                packed = pack(files)
            database.register(folder.id, folder.started()["ms"], spec_text, folder.started(), packed)
    except TunerError:
        folder.forget()
        raise
    return folder


def _with_absolute_paths(spec: SearchSpec) -> SearchSpec:
    """The spec with absolute paths of SQLite files: the job may be resumed from another folder."""
    tracking = spec.tracking
    if tracking.uri is not None:
        tracking = tracking.model_copy(update={"uri": absolute(tracking.uri)})
    storage = None if spec.storage is None else absolute(spec.storage)
    return spec.model_copy(update={"tracking": tracking, "storage": storage})


def beginning(spec: SearchSpec, code: str, simulate: bool) -> tuple[str, dict[str, Any]]:
    """A job's name, and the mapping that ``JobFolder.started`` is to return."""
    values = to_dict(spec)
    # The job may continue from another folder.
    if not spec.own_trainable:
        values["data"]["path"] = data_request(spec).path
    name = spec.name
    if simulate:
        # Nobody must take it for a real job, wherever it is shown.
        name = f"{name}-simulated"
        values["tracking"]["experiment"] = f"{spec.tracking.experiment or spec.name}-simulated"
    return name, {"spec": values, "folder": code, "simulate": simulate}


def spec_of(folder: JobFolder, data_path: str | None = None) -> SearchSpec:
    """The spec that a job was started with. ``data_path`` is the place of its data now, if it was moved."""
    values = folder.started()["spec"]
    if data_path is not None:
        if "data" not in values:
            raise SpecError("--data: the job's own trainables read their data themselves")
        values = values | {"data": values["data"] | {"path": data_path}}
    return from_dict(values)


def storage_of(spec: SearchSpec, workspace: Workspace) -> str:
    """URL of the studies' database: ``TUNER_STORAGE``, else the spec's ``storage``, else the workspace's file.

    A relative path of an SQLite file is made absolute, from the current folder.
    """
    return absolute(os.environ.get(STORAGE_VARIABLE) or spec.storage or workspace.storage_url)


def refuse_finished(job: str, state: str) -> None:
    """Raise ``SpecError`` for a finished job, which cannot be continued."""
    if state == "finished":
        raise SpecError(f"job {job} is finished; see: tuner leaderboard {job}")


def refuse_unended(job: str, state: str) -> None:
    """Raise ``SpecError`` for a job that has not ended, which cannot be extended."""
    if state not in ("finished", "failed"):
        raise SpecError(
            f"job {job} is {state}; only a job that has ended can be extended; to end it: tuner resume {job}"
        )


def next_round(folder: JobFolder) -> int:
    """The number of the next round of confirm runs.

    Raises:
        SpecError: the search has not ended, or the job runs.
    """
    record, state = folder.record(), folder.state()
    if record.searching or state in ("running", "crashed"):
        raise SpecError(
            f"job {folder.id} is {state}; only a job whose search has ended can be confirmed again; to end it: "
            f"tuner resume {folder.id}"
        )
    return len(record.rounds) + 1


def next_extension(folder: JobFolder) -> int:
    """The number of the next extension of a job.

    Raises:
        SpecError: the job runs, its claim is about settings, or no more searches can change its verdict.
    """
    record, state = folder.record(), folder.state()
    refuse_unended(folder.id, state)
    if not record.spec.searches:
        raise SpecError(f"job {folder.id} has claim: setting, so it has one search per arm; see: tuner confirm --help")
    searches, most = (record.looks[-1].searches if record.looks else 0), record.spec.searches.most
    if searches >= most:
        raise SpecError(
            f"job {folder.id} has had its last look, after {most} searches per arm, and no chance of error is left; to "
            "search further, start a new job with another seed"
        )
    unsettled = {arm for arm, outcome in record.settled().items() if outcome == Outcome.FUTILE}
    unsettled |= {arm for family in record.spec.questions for arm in family.arms} - record.settled().keys()
    if not unsettled:
        raise SpecError(f"every arm of job {folder.id} is settled; see: tuner leaderboard {folder.id}")
    return len(record.extensions) + 1


def check_unchanged(folder: JobFolder) -> None:
    """Refuse a spec that was changed since its job was started, because its trials would be of two searches.

    Raises:
        SpecError: it was changed. The message names the differences.
    """
    then = to_dict(spec_of(folder))
    document = read(folder.spec)
    # In version 0.1 a spec without searches was about settings; now such a file must say so.
    if "claim" not in then and "searches" not in document.value:
        document.value.setdefault("claim", "setting")
    _keep_factor(document.value, then["scheduler"]["reduction_factor"])
    # A job of own trainables has no data.
    now = to_dict(from_document(document, then.get("data", {}).get("path")))
    # The start of the job may have changed these.
    for values in (then, now):
        values.get("data", {}).pop("path", None)
    then["tracking"]["experiment"] = now["tracking"]["experiment"] = None
    if is_relative(now["tracking"]["uri"]):
        then["tracking"]["uri"] = now["tracking"]["uri"]
    if is_relative(now["storage"]):
        then["storage"] = now["storage"]
    changes = [f"{key} was {old!r} and is {new!r}" for key, old, new in _differences(then, now)]
    if changes:
        raise SpecError(
            f"{folder.spec}: changed since job {folder.id} was started: {'; '.join(changes)}; start a new job"
        )


OLD_FACTOR = 3
"""The default ``scheduler.reduction_factor`` of version 0.1."""


def _keep_factor(now: dict[str, Any], factor: int) -> None:
    """Let a spec that names no factor have the old default, if its job was begun with it."""
    scheduler = now.get("scheduler", {})
    named = {"name": scheduler} if isinstance(scheduler, str) else scheduler
    if factor == OLD_FACTOR and isinstance(named, dict):
        now["scheduler"] = {"reduction_factor": factor, **named}


def _differences(then: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for name in sorted({*then, *now}):
            yield from _differences(then.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif then != now:
        yield key, then, now
