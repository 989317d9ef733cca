"""What a stretch of a journal comes to."""

from typing import Any

from tuner.tracking.run_changes import JOB, Change, fold


def event(kind: str, ms: int, trial: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "ms": ms} | ({} if trial is None else {"trial": trial}) | fields


def test_only_the_last_state_counts_and_the_job_comes_last() -> None:
    changes, running = fold(
        [
            event("state", 1, state="running"),
            event("attempt", 2, "a", attempt=2, epoch=0),
            event("end", 3, "a", state="pruned", reason=None, result={}),
            event("attempt", 4, "b", attempt=3, epoch=2),
        ],
        ["a", "b"],
    )
    assert list(changes) == ["a", "b", JOB]
    assert (changes["a"].state, changes["a"].attempt, changes["a"].ms) == ("pruned", 2, 3)
    assert (changes["b"].state, changes["b"].attempt) == ("running", 3)
    assert (changes[JOB].state, running) == ("running", ["b"])


def test_a_job_that_is_interrupted_takes_its_running_trials_with_it() -> None:
    changes, running = fold(
        [
            event("trial", 1, "b"),
            event("end", 2, "a", state="complete", reason=None, result={}),
            event("state", 3, state="interrupted"),
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


def test_a_job_that_finishes_leaves_its_trials_alone() -> None:
    assert fold([event("state", 1, state="finished")], ["a"]) == ({JOB: Change(state="finished", ms=1)}, ["a"])


def test_a_step_counts_once_and_a_result_is_step_0() -> None:
    first = event("epoch", 1, "a", epoch=1, attempt=1, val_acc=0.5)
    again = event("epoch", 2, "a", epoch=1, attempt=2, val_acc=0.6)
    end = event("end", 3, "a", state="complete", reason=None, result={"test_acc": 0.7})
    changes, _ = fold([first, again, end], ["a"])
    assert changes["a"].steps == {1: first, 0: {"test_acc": 0.7, "ms": 3}}
