"""What a stretch of a journal changes, run by run: all that a tracker is to be told of it, and only how it ended."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuner.jobs.record import State
from tuner.storage.journal import Event

JOB = ""
"""The key of the job itself among those of its trials."""


@dataclass
class Change:
    """What is new about a run.

    Args:
        begin: the event that it began with, if it is new itself.
        steps: what was reported at each new step, with its time: an epoch from 1, the result of a confirm run at 0.
        attempt: the number of the last attempt that began, if any did.
        state: what it came to; empty if it stays what it was.
        ms: when.
        reason: why.
    """

    begin: Event | None = None
    steps: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    attempt: int = 0
    state: str = ""
    ms: int = 0
    reason: str = ""

    def become(self, state: str, ms: int, reason: str | None = None) -> None:
        """Come to a state."""
        self.state, self.ms, self.reason = str(state), ms, reason or ""


def fold(events: Iterable[Event], running: Sequence[str]) -> tuple[dict[str, Change], list[str]]:
    """Fold events, in their order, into changes.

    Args:
        events: a stretch of the journal.
        running: keys of the trials that ran when it began.

    Returns:
        Changes by the trial's key, in the order of their first event but the job's own last; and the keys of the
        trials that run when it ends.
    """
    changes: dict[str, Change] = defaultdict(Change)
    runs = dict.fromkeys(running)
    for event in events:
        key, ms = event.get("trial", JOB), event["ms"]
        change = changes[key]
        match event["kind"]:
            case "job":
                change.begin = event
            case "trial":
                change.begin = event
                change.become(State.RUNNING, ms)
                runs[key] = None
            case "attempt":
                change.attempt = event["attempt"]
                change.become(State.RUNNING, ms)
                runs[key] = None
            case "epoch":
                change.steps.setdefault(event["epoch"], event)
            case "end":
                if event["result"]:
                    change.steps.setdefault(0, {**event["result"], "ms": ms})
                change.become(event["state"], ms, event["reason"])
                runs.pop(key, None)
            case "state":
                change.become(event["state"], ms)
                if event["state"] in ("failed", "interrupted"):
                    for left in runs:
                        changes[left].become("interrupted", ms)
                    runs.clear()
    if JOB in changes:
        changes[JOB] = changes.pop(JOB)
    return dict(changes), list(runs)
