"""What a stretch of a journal changes, run by run: everything that MLflow must learn, and only the last state."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from trainables.report import Report, Result
from tuner.storage.events import (
    AttemptBegun,
    Entry,
    EpochReported,
    JobDescribed,
    JobStateChanged,
    State,
    TrialBegun,
    TrialEnded,
)

JOB = ""
"""The key of the job itself, among the keys of its trials."""


class Step(NamedTuple):
    """The values of one step of a run, and their time in Unix milliseconds."""

    ms: int
    values: Report | Result


@dataclass
class Change:
    """What is new about a run.

    Args:
        begun: the event that the run began with, if the run is new.
        begun_ms: when it began.
        steps: each new step: an epoch from 1, or 0 for the result of a confirm run.
        attempt: number of the last attempt that began; 0 if none did.
        state: the new state; empty if the state stays.
        ms: when the state changed.
        reason: why.
    """

    begun: JobDescribed | TrialBegun | None = None
    begun_ms: int = 0
    steps: dict[int, Step] = field(default_factory=dict)
    attempt: int = 0
    state: str = ""
    ms: int = 0
    reason: str = ""

    def become(self, state: str, ms: int, reason: str | None = None) -> None:
        """Change to a state."""
        self.state, self.ms, self.reason = str(state), ms, reason or ""


def fold(entries: Iterable[Entry], running: Sequence[str]) -> tuple[dict[str, Change], list[str]]:
    """Fold entries, in their order, into changes.

    Args:
        entries: a stretch of the journal.
        running: keys of the trials that ran when the stretch began.

    Returns:
        Changes by the trial's key, in the order of their first event, the job's own last; and the keys of the trials
        that run when the stretch ends.
    """
    changes: dict[str, Change] = defaultdict(Change)
    runs = dict.fromkeys(running)
    for entry in entries:
        event, ms = entry.event, entry.ms
        match event:
            case JobDescribed():
                changes[JOB].begun, changes[JOB].begun_ms = event, ms
            case TrialBegun(trial=key):
                changes[key].begun, changes[key].begun_ms = event, ms
                changes[key].become(State.RUNNING, ms)
                runs[key] = None
            case AttemptBegun(trial=key):
                changes[key].attempt = event.attempt
                changes[key].become(State.RUNNING, ms)
                runs[key] = None
            case EpochReported(trial=key):
                changes[key].steps.setdefault(event.report.epoch, Step(ms, event.report))
            case TrialEnded(trial=key):
                if event.result is not None:
                    changes[key].steps.setdefault(0, Step(ms, event.result))
                changes[key].become(event.state, ms, event.reason)
                runs.pop(key, None)
            case JobStateChanged():
                changes[JOB].become(event.state, ms)
                if event.state in ("failed", "interrupted"):
                    for left in runs:
                        changes[left].become("interrupted", ms)
                    runs.clear()
    if JOB in changes:
        changes[JOB] = changes.pop(JOB)
    return dict(changes), list(runs)
