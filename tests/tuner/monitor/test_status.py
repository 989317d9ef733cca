"""The status and the log of a job, in words and as data."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tuner.conftest import Tuner
from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.workspace import Workspace
from tuner.monitor.event_log import log_lines
from tuner.monitor.overview import overview
from tuner.monitor.status import status
from tuner.storage.events import State
from tuner.storage.file_lock import locked
from tuner.storage.journal import Line, encode, read_from

MadeUp = Callable[[str, History], JobFolder]


@pytest.fixture
def half_done() -> History:
    history = History(spec_of())
    history.add("state", state="running")
    history.trial("adam_l2", 0, [0.4, 0.6])
    history.trial("noam", 0, [0.5, 0.7], State.PRUNED)
    history.trial("adam_l2", 1, [0.3], state=None)
    return history


def test_the_status_counts_trials_per_arm_and_the_time_spent(made_up_job: MadeUp, half_done: History) -> None:
    found = status(made_up_job("job-1", half_done))
    baseline = found.arms[0]
    assert (baseline.arm, baseline.trials, baseline.running, baseline.best) == ("adam_l2", 2, 1, 0.6)
    assert found.arms[1].pruned == 1
    assert found.search[0] == 2
    assert (found.trained_s, found.gpu_s, found.spent_s) == (5.0, 0.0, float(len(half_done.entries) - 1))
    # Nobody holds it.
    assert (found.state, found.holder, found.left_s) == ("crashed", None, None)


def test_a_running_job_has_its_holder_and_the_time_left(made_up_job: MadeUp, half_done: History) -> None:
    folder = made_up_job("job-1", half_done)
    with locked(folder.lock_file, folder.id):
        found = status(folder)
    assert found.state == "running"
    assert found.holder is not None
    assert found.holder.startswith("pid ")
    assert found.left_s is not None
    assert found.left_s > 0


def test_jobs_are_listed_oldest_first(made_up_job: MadeUp, home: Workspace, half_done: History) -> None:
    half_done.entries[0] = replace(half_done.entries[0], ms=5)
    made_up_job("job-2", half_done)
    finished = History(spec_of())
    finished.add("state", state="finished")
    made_up_job("job-1", finished)
    assert [(job.job, job.state, job.trials) for job in overview(home)] == [
        ("job-1", "finished", 0),
        ("job-2", "crashed", 3),
    ]


def test_the_log_lists_each_trial_that_ended_and_its_state(made_up_job: MadeUp, half_done: History) -> None:
    half_done.add("state", state="failed", reason="it broke\nbadly")
    printed = [line.split(" ", 2)[2] for line in log_lines(made_up_job("job-1", half_done), follow=True)]
    assert printed[1:] == [
        "running",
        "search/adam_l2/0 complete after 2 epochs, val/acc 0.6000",
        "search/noam/0 pruned after 2 epochs, val/acc 0.7000",
        "failed: it broke",
    ]


def test_the_commands_print_status_log_and_list(tuner: Tuner, made_up_job: MadeUp, half_done: History) -> None:
    made_up_job("job-1", half_done)
    found = json.loads(tuner("status", "-o", "json").out)
    assert (found["job"], found["arms"][0]["best"]) == ("job-1", 0.6)
    assert "job-1: crashed" in tuner("status").out
    assert tuner("logs").out.count("\n") == 4
    assert [job["job"] for job in json.loads(tuner("list", "-o", "json").out)] == ["job-1"]


def test_a_second_list_reads_only_what_is_new(
    made_up_job: MadeUp, home: Workspace, half_done: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [made_up_job(name, half_done) for name in ("job-1", "job-2")]
    read: list[int] = []

    def counted(path: Path, offset: int) -> Iterator[Line]:
        for line in read_from(path, offset):
            read.append(line.entry.n)
            yield line

    monkeypatch.setattr("tuner.monitor.summaries.read_from", counted)
    events = len(half_done.entries)
    before = overview(home)
    assert read == [*range(events), *range(events)]
    read.clear()
    assert overview(home) == before
    assert read == []
    half_done.trial("noam", 1, [0.5])
    half_done.add("state", state="failed", reason="it broke")
    with folders[0].journal.open("ab") as file:
        file.write(b"".join(map(encode, half_done.entries[events:])))
    found = {job.job: (job.state, job.trials) for job in overview(home)}
    assert found == {"job-1": ("failed", 4), "job-2": ("crashed", 3)}
    # The last line that is known, to recognize it, and the new ones.
    assert read == [events - 1, *range(events, len(half_done.entries))]


@pytest.mark.parametrize("kept", [b"", b"garbage", b'{"job-1": {"ms": "no"}}', b'{"job-1": {"ms": 1, "new": 2}}'])
def test_damaged_summaries_are_made_again(
    made_up_job: MadeUp, home: Workspace, half_done: History, kept: bytes
) -> None:
    made_up_job("job-1", half_done)
    before = overview(home)
    file = home.path / "jobs" / ".summaries.json"
    whole = file.read_bytes()
    file.write_bytes(kept)
    assert overview(home) == before
    assert file.read_bytes() == whole


def test_a_journal_that_was_cut_back_or_damaged_is_read_again(
    made_up_job: MadeUp, home: Workspace, half_done: History
) -> None:
    folder = made_up_job("job-1", half_done)
    assert overview(home)[0].trials == 3
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    # A recovery keeps the first trial, and the next driver writes more than there was.
    other = History(spec_of())
    other.alter_job(job="job-1")
    other.add("state", state="running")
    other.trial("adam_l2", 0, [0.4] * 40)
    folder.journal.write_bytes(b"".join(map(encode, other.entries)))
    assert folder.journal.stat().st_size > sum(map(len, lines))
    assert overview(home)[0].trials == 1
    folder.journal.write_bytes(b"garbage\n" + b"".join(map(encode, other.entries)))
    assert overview(home)[0].state == "damaged"


def test_a_list_needs_no_right_to_write(
    made_up_job: MadeUp, home: Workspace, half_done: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up_job("job-1", half_done)

    def refused(path: Path, content: bytes) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("tuner.monitor.summaries.write_atomically", refused)
    assert [job.trials for job in overview(home)] == [3]
