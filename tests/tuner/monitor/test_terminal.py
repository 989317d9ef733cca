"""What a person sees while a job runs: counts, time left, and the line of a trial that ended."""

import io

import pytest
from rich.console import Console

from tests.tuner.events import History, report
from tests.tuner.search.test_search_trials import spec_with
from tests.tuner.spec_texts import SPEC, spec_of
from trainables.report import EpochReport
from tuner.jobs.record import Record, replay
from tuner.monitor.progress import Progress
from tuner.monitor.terminal import Lines, progress_table, trial_line
from tuner.storage.events import Entry, EpochReported, Event, RoundBegun, Stage, State, TrialBegun, TrialEnded


def job_of(*events: Event) -> Record:
    """Two arms, and what happened."""
    job = History(spec_of(text=SPEC)).record().job
    return replay(Entry(n, n, n / 1000, event) for n, event in enumerate([job, *events]))


def begun(key: str) -> Event:
    stage, arm, *rest = key.split("/")
    round_number, seed = (int(rest[0]), int(rest[1])) if stage == "confirm" else (0, 0)
    return TrialBegun(key, Stage(stage), arm, 0, seed, round_number, {}, {})


def reported(key: str, epoch: int = 1) -> Event:
    return EpochReported(key, 1, EpochReport(**report(epoch, 0.5, 0.5) | {"seconds": 60.0}))


def ended(key: str, state: str = "complete", reason: str | None = None) -> Event:
    return TrialEnded(key, State(state), reason, None)


def test_a_first_trial_that_failed_before_any_epoch_leaves_the_time_unknown() -> None:
    key = "search/adam_l2/0"
    record = job_of(begun(key), ended(key, "failed", "it broke"))
    assert Progress(spec_with(), record, 2).line().endswith("time left unknown yet")


def test_a_failed_trial_is_told_with_the_last_line_of_its_error() -> None:
    key = "search/adam_l2/0"
    record = job_of(begun(key), ended(key, "failed", "Traceback\nValueError: it broke\n"))
    assert trial_line(record.trials[key]) == "search/adam_l2/0 failed after 0 epochs: ValueError: it broke"


def test_time_left_counts_the_trials_and_the_confirm_runs_to_come() -> None:
    key = "search/adam_l2/0"
    record = job_of(begun(key), reported(key), ended(key))
    # 7 more trials of one epoch like the first (two arms, four each) and 2 x 5 confirm runs of all 8 epochs, a minute
    # an epoch, two at once.
    assert "about 43 min 30 s left" in Progress(spec_with(), record, 2).line()


def test_a_later_round_is_counted_by_itself() -> None:
    key, first, second = "search/adam_l2/0", "confirm/adam_l2/1/100000", "confirm/adam_l2/2/200000"
    winners = {"adam_l2": 0, "noam": 0}
    record = job_of(
        begun(key),
        reported(key),
        ended(key),
        RoundBegun(1, (100000,), winners),
        begun(first),
        ended(first),
        RoundBegun(2, (200000, 200001, 200002), winners),
        begun(second),
        ended(second),
    )
    progress = Progress(spec_with(), record, 1)
    assert "confirm 1/6" in progress.line()
    assert "about 40 min 00 s left" in progress.line()
    console = Console(file=io.StringIO(), width=120)
    console.print(progress_table(progress))
    assert "1/3" in console.file.getvalue()  # type: ignore[attr-defined]


def test_lines_are_printed_when_trials_end(capsys: pytest.CaptureFixture[str]) -> None:
    key, lines = "search/adam_l2/0", Lines()
    record = job_of(begun(key), reported(key), ended(key))
    with lines.watching(spec_with(), record, 1):
        lines.on_event(Entry(2, 2, 0.0, reported(key)), record)
        lines.on_event(Entry(3, 3, 0.0, ended(key)), record)
    assert capsys.readouterr().err.count("\n") == 1
