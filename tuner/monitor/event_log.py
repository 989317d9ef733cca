"""A job's journal in words: one line for each event that people want to know."""

import time
from collections.abc import Iterator
from datetime import datetime

from tuner.jobs.job_folder import JobFolder
from tuner.jobs.record import Record
from tuner.jobs.replication import pull
from tuner.monitor.terminal import look_line, trial_line
from tuner.storage.events import (
    AttemptBegun,
    EarlierTrials,
    Event,
    Extended,
    JobDescribed,
    JobStateChanged,
    LookTaken,
    RoundBegun,
    TrialEnded,
    setting_label,
)
from tuner.storage.journal import read_from

POLL_S = 1.0


def log_lines(folder: JobFolder, follow: bool) -> Iterator[str]:
    """What has happened so far; with ``follow`` also what happens next, until nobody runs the job any more.

    Raises:
        IntegrityError: the journal is damaged.
        ServiceError: the database of the job's record cannot be used.
    """
    record, offset = Record(), 0
    while True:
        alive = folder.owner() is not None
        database = folder.database()
        if database is not None and not folder.is_held_here:
            pull(database, folder)
        if folder.journal.exists():
            for line in read_from(folder.journal, offset):
                record.add(line.entry)
                offset = line.end
                if text := _text(line.entry.event, record):
                    yield f"{datetime.fromtimestamp(line.entry.ms / 1000):%Y-%m-%d %H:%M:%S} {text}"
        if not follow or not alive:
            return
        time.sleep(POLL_S)


def _text(event: Event, record: Record) -> str | None:
    match event:
        case JobDescribed():
            return f"{event.job}: {len(event.arms)} arms"
        case EarlierTrials():
            return f"the sampler of {event.arm} learns from {len(event.trials)} trials of job {event.job}"
        case AttemptBegun() if event.attempt > 1:
            return f"{event.trial}: attempt {event.attempt}, from epoch {event.epoch}"
        case TrialEnded():
            return trial_line(record.trials[event.trial], record.metric)
        case LookTaken():
            return look_line(event)
        case RoundBegun():
            winners = ", ".join(
                f"{arm} {setting_label(event.searches.get(arm, 0), number)}" for arm, number in event.winners.items()
            )
            return f"round {event.round} of confirm runs, {len(event.seeds)} seeds; winners: {winners}"
        case Extended():
            cap = "" if event.until_s is None else f", until {event.until_s / 3600:.2g} h of work in all"
            return f"extension {event.extension}: searches further{cap}"
        case JobStateChanged():
            return f"{event.state}: {event.reason.splitlines()[0]}" if event.reason else event.state
    return None
