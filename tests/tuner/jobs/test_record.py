"""The record: a journal's entries, folded into trials, rounds and the job's state."""

import math
from contextlib import closing
from pathlib import Path

from tests.tuner.events import History, event_of, report
from tests.tuner.spec_texts import spec_of
from trainables.report import EpochReport
from tuner.jobs.record import load_record, replay
from tuner.storage.events import Entry, Stage, State
from tuner.storage.journal import Journal


def test_a_trial_runs_until_the_event_of_its_end() -> None:
    history = History(spec_of())
    history.trial("noam", 0, [0.1, 0.2], state=None)
    running = history.record().trials["search/noam/0"]
    assert (running.state, running.ended_ms, len(running.epochs), running.seconds) == (State.RUNNING, None, 2, 2.0)
    history.add("end", trial=running.key, state="pruned", reason=None, result={})
    ended = history.record().trials["search/noam/0"]
    assert (ended.state, ended.ended_ms) == (State.PRUNED, 1000 * (len(history.entries) - 1))


def test_the_baseline_is_the_first_arm() -> None:
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
    assert [trial.seed for trial in record.of(Stage.CONFIRM, "noam", round_number=2)] == [2]
    assert len(record.of(Stage.CONFIRM)) == 4


def test_the_jobs_state_is_the_last_one_in_the_journal() -> None:
    history = History(spec_of())
    assert history.record().state == "new"
    history.add("state", state="failed", reason="disk full")
    assert (history.record().state, history.record().reason) == ("failed", "disk full")
    history.add("state", state="running")
    assert (history.record().state, history.record().reason) == ("running", None)


def test_an_empty_journal_gives_an_empty_record() -> None:
    record = replay(())
    assert (record.begun, record.description) == (False, None)
    assert (record.trials, record.rounds, record.state) == ({}, [], "new")


def test_attempts_are_counted_and_every_epoch_has_its_reporter() -> None:
    history = History(spec_of())
    history.trial("noam", 0, [0.1, 0.2], state=None)
    key = "search/noam/0"
    history.add("attempt", trial=key, attempt=2, epoch=2)
    history.add("epoch", trial=key, attempt=2, **report(3, 0.3, 0.7))
    trial = history.record().trials[key]
    assert (trial.attempts, trial.reporters) == (2, [1, 1, 2])
    assert trial.epochs == [epoch_report(epoch) for epoch in (1, 2, 3)]


def epoch_report(epoch: int) -> EpochReport:
    return EpochReport(**report(epoch, epoch / 10, 1 - epoch / 10))


def test_a_trials_knobs_are_the_values_that_its_study_proposed() -> None:
    history = History(spec_of())
    history.trial("noam", 3, [0.1])
    trial = history.record().trials["search/noam/3"]
    assert trial.knobs.keys() == history.arms["noam"].space.keys() < trial.hyper.keys()
    assert trial.knobs["lr"] == trial.hyper["lr"]


def test_the_active_time_of_a_job_is_the_sum_over_its_drivers() -> None:
    drivers = [(0.0, 5.0, 60.0), (0.0, 7.0), (0.0, 100.0)]
    begin = event_of("state", state="running")
    other = event_of("confirm", round=1, seeds=[], winners={})
    ups = [up for driver in drivers for up in driver]
    entries = [Entry(n, 0, up, other if up else begin) for n, up in enumerate(ups)]
    assert replay(entries).active_s == 60 + 7 + 100
    assert replay(()).active_s == 0


def test_numbers_that_are_not_finite_survive_in_the_journal(tmp_path: Path) -> None:
    history = History(spec_of())
    history.trial("noam", 0, [0.1], state=None, losses=[float("nan")])
    path = tmp_path / "journal.jsonl"
    with closing(Journal(path)) as journal:
        for entry in history.entries:
            journal.append(entry.event)
    assert math.isnan(load_record(path).trials["search/noam/0"].epochs[0].metric("val_loss"))
