"""Summaries of all jobs of a workspace. They are kept in a file, so that a list reads only what is new in a journal.

The journals are the truth. A summary counts only while its files are as they were, or while its journal has only grown.
A missing or damaged file of summaries is made again, and one that cannot be written is no error.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from tuner.errors import IntegrityError
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.workspace import Workspace
from tuner.storage.atomic_files import write_atomically
from tuner.storage.events import JobDescribed, JobStateChanged, TrialBegun
from tuner.storage.journal import read_from

_Signs = tuple[int, int]
"""Size of a file, and the time of its last change in nanoseconds."""
_NO_FILE: _Signs = (0, 0)


@dataclass(frozen=True)
class Summary:
    """A job in a few numbers.

    Args:
        ms: when it was submitted, in Unix milliseconds.
        state: its last state in the journal; ``new`` before the first.
        arms, trials: how many there are so far.
        start, journal: signs of the job's ``start.json`` and journal when they were read.
        last, end: where the last line that was read begins and ends in the journal, in bytes.
        n, at_ms: number and time of that line's entry, to recognize it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    ms: int
    state: str = "new"
    arms: int = 0
    trials: int = 0
    start: _Signs = _NO_FILE
    journal: _Signs = _NO_FILE
    last: int = 0
    end: int = 0
    n: int = -1
    at_ms: int = 0


_FILE: TypeAdapter[dict[str, Summary]] = TypeAdapter(dict[str, Summary])


def summaries(workspace: Workspace) -> dict[JobFolder, Summary | IntegrityError]:
    """The summary of each job, or what is damaged of it; in no order.

    Raises:
        ServiceError: a journal cannot be read.
    """
    kept_in = workspace.path / "jobs" / ".summaries.json"
    known, found = _load(kept_in), {}
    for folder in workspace.folders():
        with suppress(FileNotFoundError):  # a job that did nothing is forgotten
            found[folder] = _summary(folder, known.get(folder.id))
    sound = {folder.id: one for folder, one in found.items() if isinstance(one, Summary)}
    if sound != known:
        with suppress(OSError):
            write_atomically(kept_in, _FILE.dump_json(sound))
    return found


def _load(file: Path) -> dict[str, Summary]:
    try:
        return _FILE.validate_json(file.read_bytes())
    except (OSError, ValueError):
        return {}


def _summary(folder: JobFolder, known: Summary | None) -> Summary | IntegrityError:
    start, journal = _signs(folder.start), _signs(folder.journal)
    if known is not None and (known.start, known.journal) == (start, journal):
        return known
    try:
        begun = Summary(int(folder.started()["ms"]))
        if known is not None and known.start == start and known.journal[0] < journal[0] and _fits(folder, known):
            begun = known
        return replace(_read_on(folder, begun), start=start, journal=journal)
    except IntegrityError as error:
        return error


def _read_on(folder: JobFolder, summary: Summary) -> Summary:
    if not folder.journal.exists():
        return summary
    state, arms, trials, begins, ends, entry = summary.state, summary.arms, summary.trials, 0, summary.end, None
    for line in read_from(folder.journal, ends):
        entry, begins, ends = line.entry, ends, line.end
        match entry.event:
            case JobDescribed():
                arms = len(entry.event.arms)
            case TrialBegun():
                trials += 1
            case JobStateChanged():
                state = entry.event.state
    if entry is None:
        return summary
    return replace(summary, state=state, arms=arms, trials=trials, last=begins, end=ends, n=entry.n, at_ms=entry.ms)


def _fits(folder: JobFolder, summary: Summary) -> bool:
    """Whether the last line that was read is still at its place. A recovery may have cut a damaged journal since."""
    try:
        line = next(read_from(folder.journal, summary.last), None)
    except IntegrityError:
        return False
    return line is not None and (line.entry.n, line.entry.ms, line.end) == (summary.n, summary.at_ms, summary.end)


def _signs(file: Path) -> _Signs:
    try:
        about = os.stat(file)
    except FileNotFoundError:
        return _NO_FILE
    return about.st_size, about.st_mtime_ns
