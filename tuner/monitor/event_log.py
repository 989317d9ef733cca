"""A job's journal in words, a line for what people want to know."""

import time
from collections.abc import Iterator
from datetime import datetime

from tuner.jobs.job_folder import JobFolder
from tuner.jobs.record import Record
from tuner.jobs.replication import pull
from tuner.monitor.terminal import trial_line
from tuner.storage.journal import Event, read_from

POLL_S = 1.0


def log_lines(folder: JobFolder, follow: bool) -> Iterator[str]:
    """What happened so far; with ``follow`` also what happens next, until nobody runs the job any more.

    Raises:
        IntegrityError: the journal is damaged.
        ServiceError: the database that it is kept in cannot be used.
    """
    record, offset = Record(), 0
    while True:
        alive = folder.owner() is not None
        database = folder.database()
        if database is not None and not folder.is_held_here:
            pull(database, folder)
        if folder.journal.exists():
            for event, end in read_from(folder.journal, offset):
                record.add(event)
                offset = end
                if text := _text(event, record):
                    yield f"{datetime.fromtimestamp(event['ms'] / 1000):%Y-%m-%d %H:%M:%S} {text}"
        if not follow or not alive:
            return
        time.sleep(POLL_S)


def _text(event: Event, record: Record) -> str | None:
    match event["kind"]:
        case "job":
            return f"{event['job']}: {len(event['arms'])} arms"
        case "attempt" if event["attempt"] > 1:
            return f"{event['trial']}: attempt {event['attempt']}, from epoch {event['epoch']}"
        case "end":
            return trial_line(record.trials[event["trial"]])
        case "confirm":
            winners = ", ".join(f"{arm} {number}" for arm, number in event["winners"].items())
            return f"round {event['round']} of confirm runs, {len(event['seeds'])} seeds; winners: {winners}"
        case "state":
            reason = event.get("reason")
            return f"{event['state']}: {reason.splitlines()[0]}" if reason else str(event["state"])
    return None
