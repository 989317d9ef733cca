"""The progress shown while a job runs: counts, the time left, and the line of a trial that ended."""

import io
from typing import Any

import pytest
from rich.console import Console

from tests.tuner.events import History, event_of, report
from tests.tuner.own_jobs import OwnHistory, own_spec
from tests.tuner.search.test_search_trials import spec_with
from tests.tuner.spec_texts import spec_of
from tuner.jobs.record import Record, replay
from tuner.monitor.progress import Progress
from tuner.monitor.terminal import Lines, progress_table, trial_line
from tuner.storage.events import Entry, Event, State


def job_of(*events: Event) -> Record:
    """A job with two arms, after these events."""
    first = History(spec_of()).entries[0].event
    return replay(Entry(n, n, n / 1000, event) for n, event in enumerate([first, *events]))


def begun(key: str) -> Event:
    stage, arm, *rest = key.split("/")
    round_number, seed = (int(rest[0]), int(rest[1])) if stage == "confirm" else (0, 0)
    settings: dict[str, Any] = {"number": 0, "seed": seed, "round": round_number, "hyper": {}, "knobs": {}}
    return event_of("trial", trial=key, stage=stage, arm=arm, **settings)


def reported(key: str, epoch: int = 1) -> Event:
    return event_of("epoch", trial=key, attempt=1, **(report(epoch, 0.5, 0.5) | {"seconds": 60.0}))


def ended(key: str, state: str = "complete", reason: str | None = None) -> Event:
    return event_of("end", trial=key, state=state, reason=reason, result={})


def test_after_a_first_trial_that_failed_before_any_epoch_the_time_left_is_unknown() -> None:
    key = "search/adam_l2/0"
    record = job_of(begun(key), ended(key, "failed", "it broke"))
    assert Progress(spec_with(), record, 2).line().endswith("time left unknown yet")


def test_the_line_of_a_failed_trial_shows_the_last_line_of_its_error() -> None:
    key = "search/adam_l2/0"
    record = job_of(begun(key), ended(key, "failed", "Traceback\nValueError: it broke\n"))
    assert trial_line(record.trials[key]) == "search/adam_l2/0 failed after 0 epochs: ValueError: it broke"


def test_the_time_left_counts_the_remaining_trials_and_confirm_runs() -> None:
    key = "search/adam_l2/0"
    record = job_of(begun(key), reported(key), ended(key))
    # 7 more trials of one epoch like the first (two arms with four trials each), and 2 x 5 confirm runs of 8 epochs.
    # An epoch takes a minute, and two trials run at once.
    assert "about 43 min 30 s left" in Progress(spec_with(), record, 2).line()


def test_a_later_round_is_counted_by_itself() -> None:
    key, first, second = "search/adam_l2/0", "confirm/adam_l2/1/100000", "confirm/adam_l2/2/200000"
    winners = {"adam_l2": 0, "noam": 0}
    record = job_of(
        begun(key),
        reported(key),
        ended(key),
        event_of("confirm", round=1, seeds=[100000], winners=winners),
        begun(first),
        ended(first),
        event_of("confirm", round=2, seeds=[200000, 200001, 200002], winners=winners),
        begun(second),
        ended(second),
    )
    progress = Progress(spec_with(), record, 1)
    assert "confirm 1/6" in progress.line()
    assert "about 40 min 00 s left" in progress.line()
    console = Console(file=io.StringIO(), width=120)
    console.print(progress_table(progress))
    assert "1/3" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_line_is_printed_when_a_trial_ends(capsys: pytest.CaptureFixture[str]) -> None:
    key, lines = "search/adam_l2/0", Lines()
    record = job_of(begun(key), reported(key), ended(key))
    with lines.watching(spec_with(), record, 1):
        lines.on_event(Entry(2, 2, 0.002, reported(key)), record)
        lines.on_event(Entry(3, 3, 0.003, ended(key)), record)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_job_of_own_trainables_shows_the_users_metrics() -> None:
    spec = own_spec()
    history = OwnHistory(spec)
    history.run("search/ridge/1.0", "ridge", 0, 2e-5, State.COMPLETE, search=1)
    history.run("search/ridge/1.1", "ridge", 1, 0.25, State.PRUNED, search=1)
    history.run("confirm/ridge/1/5", "ridge", 0, 0.5, 123456.0, search=1, seed=5)
    record = history.record()
    lines = [trial_line(record.trials[key], spec.metric) for key in ("search/ridge/1.0", "confirm/ridge/1/5")]
    assert lines[0] == "search/ridge/1.0 complete after 2 reports, val_loss 2e-05"
    assert lines[1] == "confirm/ridge/1/5 complete after 2 reports, test_loss 1.235e+05"
    progress = Progress(spec, record, 2)
    console = Console(file=io.StringIO(), width=200)
    console.print(progress_table(progress))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "best val_loss" in shown
    # The metric is minimised, so the best is the lowest after any report.
    assert progress.arms()[0].best == 2e-5
    assert "2e-05" in shown


def test_a_value_that_is_no_number_is_never_the_best() -> None:
    key = "search/adam_l2/0"
    numbers = {**report(1, 0.5, 0.5), "val_acc": float("nan")}
    record = job_of(begun(key), event_of("epoch", trial=key, attempt=1, **numbers), reported(key, 2))
    assert Progress(spec_with(), record, 2).arms()[0].best == 0.5
