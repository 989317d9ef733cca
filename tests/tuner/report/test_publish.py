"""What a job publishes if the confirm runs of an arm all diverged: everything but the export of that arm."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tuner.events import History
from tests.tuner.own_jobs import SETTING, OwnHistory, own_spec
from tests.tuner.spec_texts import spec_of
from tuner.errors import NotFound
from tuner.export.job_winner import export_arm
from tuner.jobs.job_folder import JobFolder
from tuner.report.publish import publish
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import Stage, State
from tuner.verdict.ranking import JobResults, build


def own_history(bad: int) -> tuple[History, SearchSpec]:
    spec = own_spec(SETTING)
    history = OwnHistory(spec)
    for arm in ("ridge", "trees"):
        history.run(f"search/{arm}/0", arm, 0, 1.0, State.COMPLETE)
    ends: dict[str, dict[int, float | State]] = {arm: {1: 0.5, 2: 0.6, 3: 0.5} for arm in history.arms}
    ends[list(history.arms)[bad]] = dict.fromkeys((1, 2, 3), State.DIVERGED)
    history.confirmed(ends, {"ridge": 0, "trees": 0})
    return history, spec


def built_in_history(bad: int) -> tuple[History, SearchSpec]:
    spec = spec_of()
    history = History(spec)
    for arm in history.arms:
        history.trial(arm, 0, [0.5])
    history.add("confirm", round=1, seeds=[1, 2, 3], winners=dict.fromkeys(history.arms, 0))
    for arm in history.arms:
        for seed in (1, 2, 3):
            lost = arm == list(history.arms)[bad]
            state, test = (State.DIVERGED, None) if lost else (State.COMPLETE, 0.5 + seed / 100)
            history.trial(arm, 0, [0.5], state, Stage.CONFIRM, seed, 1, test)
    return history, spec


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize("made", [own_history, built_in_history])
def test_an_arm_whose_confirm_runs_all_diverged_has_no_export_and_the_job_is_published(
    made: Callable[[int], tuple[History, SearchSpec]], bad: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history, spec = made(bad)
    record = history.record()
    board = build(record, spec)
    arm, good = board.rows[bad].arm, board.rows[1 - bad].arm
    assert {row.arm: row.confirmed for row in board.rows} == {arm: 0, good: 3}
    results = JobResults(JobFolder(tmp_path / record.name), record, spec, board)
    results.folder.path.mkdir()
    with caplog.at_level(logging.WARNING):
        files = publish(results)
    assert [name for name in files if name.startswith("exports/")] == [f"exports/{good}.yaml"]
    assert f"no export of {arm}: none of its confirm runs trained to the end" in caplog.text
    with pytest.raises(NotFound, match="nothing to export"):
        export_arm(results, arm, tmp_path / "one.yaml", force=False)
