"""The list of all jobs. It imports little, because people wait for it."""

import os
from contextlib import suppress
from dataclasses import dataclass

from tuner.errors import IntegrityError
from tuner.jobs.job_folder import STORAGE_VARIABLE, JobFolder, open_database
from tuner.jobs.workspace import Workspace
from tuner.monitor.summaries import Summary, summaries


@dataclass(frozen=True)
class Overview:
    """A job in one line.

    Args:
        job: its id.
        state: its state in a word.
        ms: when it was submitted, in Unix milliseconds.
        arms, trials: how many there are so far.
        waits: why none of its trials runs; empty if one runs.
        problem: what is damaged; empty if nothing is.
    """

    job: str
    state: str
    ms: int
    arms: int = 0
    trials: int = 0
    waits: str = ""
    problem: str = ""


def overview(workspace: Workspace) -> list[Overview]:
    """All jobs, oldest first: those here, and those in the database that ``TUNER_STORAGE`` names.

    Raises:
        ServiceError: the database cannot be used.
    """
    database = open_database(os.environ.get(STORAGE_VARIABLE))
    there = {row.id: row for row in database.jobs()} if database is not None else {}
    found = [_overview(folder, one) for folder, one in summaries(workspace).items() if folder.id not in there]
    for row in there.values():
        state = "crashed" if row.summary.state == "running" and row.holder is None else row.summary.state
        found.append(Overview(row.id, state, row.ms, row.summary.arms, row.summary.trials, row.summary.waits))
    return sorted(found, key=lambda job: (job.ms, job.job))


def _overview(folder: JobFolder, summary: Summary | IntegrityError) -> Overview:
    if isinstance(summary, IntegrityError):
        # One bad job must not hide the others.
        ms = 0
        with suppress(IntegrityError):
            ms = int(folder.started()["ms"])
        return Overview(folder.id, "damaged", ms, problem=str(summary))
    state = "crashed" if summary.state == "running" and folder.owner() is None else summary.state
    return Overview(folder.id, state, summary.ms, summary.arms, summary.trials)
