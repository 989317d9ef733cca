"""The record: what a journal's events come to."""

from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from tuner.record import Stage, State, replay


def test_a_trial_is_running_until_its_end_is_told() -> None:
    history = History(spec_of())
    history.trial("noam", 0, [0.1, 0.2], state=None)
    running = history.record().trials["search/noam/0"]
    assert (running.state, running.ended_ms, len(running.epochs), running.seconds) == (State.RUNNING, None, 2, 2.0)
    history.add("end", trial=running.key, state="pruned", reason=None, result={})
    ended = history.record().trials["search/noam/0"]
    assert (ended.state, ended.ended_ms) == (State.PRUNED, 1000 * (len(history.events) - 1))


def test_arms_come_with_the_baseline_first() -> None:
    record = History(spec_of(("baseline: adam_l2", "baseline: noam"))).record()
    assert (record.baseline, record.arms) == ("noam", ("noam", "adam_l2"))


def test_trials_are_picked_by_stage_arm_and_round() -> None:
    history = History(spec_of())
    for arm in history.arms:
        history.trial(arm, 0, [0.1])
    for round_number in (1, 2):
        tests = {arm: {round_number: 0.5} for arm in history.arms}
        history.confirm(round_number, dict.fromkeys(history.arms, 0), tests)
    record = history.record()
    assert [trial.key for trial in record.of(Stage.SEARCH, "noam")] == ["search/noam/0"]
    assert [trial.seed for trial in record.of(Stage.CONFIRM, "noam", 2)] == [2]
    assert len(record.of(Stage.CONFIRM)) == 4


def test_the_jobs_state_is_the_last_one_told() -> None:
    history = History(spec_of())
    assert history.record().state == "new"
    history.add("state", state="failed", reason="disk full")
    assert (history.record().state, history.record().reason) == ("failed", "disk full")
    history.add("state", state="running")
    assert (history.record().state, history.record().reason) == ("running", None)


def test_an_empty_journal_comes_to_an_empty_record() -> None:
    record = replay(())
    assert (record.job, record.trials, record.rounds, record.state) == ({}, {}, [], "new")
