"""The changes of a stretch of a journal, run by run."""

from typing import Any

from tests.tuner.events import event_of, report
from trainables.report import ConfirmResult, EpochReport
from tuner.storage.events import Entry
from tuner.tracking.run_changes import JOB, Change, Step, fold

RESULT: dict[str, Any] = {"test_acc": 0.7, "test_loss": 0.3, "weights_sha256": "a" * 64, "device": "cpu"}


def entry(kind: str, ms: int, trial: str | None = None, **fields: Any) -> Entry:
    named = {} if trial is None else {"trial": trial}
    return Entry(0, ms, 0.0, event_of(kind, **named, **fields))


def trial(ms: int, key: str) -> Entry:
    settings: dict[str, Any] = {"number": 0, "seed": 0, "round": 0, "hyper": {}, "knobs": {}}
    return entry("trial", ms, key, stage="search", arm="noam", **settings)


def test_only_the_last_state_counts_and_the_job_comes_last() -> None:
    changes, running = fold(
        [
            entry("state", 1, state="running"),
            entry("attempt", 2, "a", attempt=2, epoch=0),
            entry("end", 3, "a", state="pruned", reason=None, result={}),
            entry("attempt", 4, "b", attempt=3, epoch=2),
        ],
        ["a", "b"],
    )
    assert list(changes) == ["a", "b", JOB]
    assert (changes["a"].state, changes["a"].attempt, changes["a"].ms) == ("pruned", 2, 3)
    assert (changes["b"].state, changes["b"].attempt) == ("running", 3)
    assert (changes[JOB].state, running) == ("running", ["b"])


def test_an_interrupted_job_interrupts_its_running_trials() -> None:
    changes, running = fold(
        [
            trial(1, "b"),
            entry("end", 2, "a", state="complete", reason=None, result={}),
            entry("state", 3, state="interrupted"),
        ],
        ["a", "c"],
    )
    assert {key: change.state for key, change in changes.items()} == {
        "a": "complete",
        "b": "interrupted",
        "c": "interrupted",
        JOB: "interrupted",
    }
    assert running == []


def test_a_finished_job_changes_no_trial() -> None:
    assert fold([entry("state", 1, state="finished")], ["a"]) == ({JOB: Change(state="finished", ms=1)}, ["a"])


def test_a_step_counts_once_and_a_result_is_step_0() -> None:
    first = entry("epoch", 1, "a", attempt=1, **report(1, 0.5, 0.5))
    again = entry("epoch", 2, "a", attempt=2, **report(1, 0.6, 0.4))
    end = entry("end", 3, "a", state="complete", reason=None, result=RESULT)
    changes, _ = fold([first, again, end], ["a"])
    assert changes["a"].steps == {
        1: Step(1, EpochReport(**report(1, 0.5, 0.5))),
        0: Step(3, ConfirmResult(**RESULT)),
    }
