"""The report in Markdown: says the verdict first, and nothing that the job has not shown."""

import itertools
import re

from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from tuner.report.findings import findings
from tuner.report.markdown import markdown
from tuner.storage.events import State
from tuner.verdict.ranking import build

SPEC = spec_of()
WINNERS = {"adam_l2": 0, "noam": 1}
BASE = {1: 0.50, 2: 0.51, 3: 0.52}
BETTER = {1: 0.60, 2: 0.61, 3: 0.621}


def report_of(history: History) -> str:
    record = history.record()
    return markdown(findings(record, SPEC, build(record, SPEC)))


def searched() -> History:
    history = History(SPEC)
    history.trial("adam_l2", 0, [0.4, 0.5])
    history.trial("noam", 0, [0.4], State.PRUNED)
    history.trial("noam", 1, [0.4, 0.6125])
    return history


def confirmed(tests: dict[int, float]) -> str:
    history = searched()
    history.confirm(1, WINNERS, {"adam_l2": BASE, "noam": tests})
    history.add("state", state="finished")
    return report_of(history)


def test_without_confirm_runs_there_is_no_verdict() -> None:
    text = report_of(searched())
    assert "there is no verdict yet" in text
    assert "| noam | 0.6125 | – | not confirmed yet | 2 (1 pruned) | 3 | 2 / 1 / 0 |" in text
    assert "test accuracy" not in text.lower()


def test_what_beats_the_baseline_is_said_first() -> None:
    lines = [line for line in confirmed(BETTER).splitlines() if line]
    assert lines[:2] == ["# job-1", "**The best setting of noam beats the best setting of adam_l2.**"]


def test_when_nothing_beats_that_is_said_first() -> None:
    assert "**No variant is shown to beat adam_l2.**" in confirmed(BASE).splitlines()


def test_mean_spread_seeds_and_warnings_are_told() -> None:
    text = confirmed(BETTER)
    assert "| adam_l2 | 0.5000 | 51.00 ± 1.00 | baseline | 1 | 2 | 2 / 0 / 0 |" in text
    assert "3 fresh training seeds" in text
    assert "- Warning: the arms searched unequal numbers of knobs (adam_l2 2, noam 3)." in text


def test_the_winning_settings_are_those_of_the_winning_trial() -> None:
    assert re.search(r"^- \*\*noam\*\* \(trial 1\): lr 0.0011, l2 0.0001, warmup \d+$", confirmed(BETTER), re.MULTILINE)


def test_an_arm_without_a_winner_has_no_settings_but_a_row() -> None:
    history = History(SPEC)
    history.trial("adam_l2", 0, [0.5])
    history.trial("noam", 0, [0.5], State.FAILED)
    text = report_of(history)
    assert "| noam | – | – | not confirmed yet | 1 (1 failed) | 1 | 0 / 0 / 1 |" in text
    assert "- **noam**" not in text
    assert "Warning: noam has no winner" in text


def test_every_line_of_the_table_has_as_many_cells() -> None:
    lines = confirmed(BETTER).splitlines()
    tables = [list(group) for is_row, group in itertools.groupby(lines, lambda line: line[:1] == "|") if is_row]
    assert len(tables) == 3
    assert all(len({row.count("|") for row in table}) == 1 for table in tables)


def test_tags_and_cell_separators_in_values_are_escaped() -> None:
    history = searched()
    machine = {**history.record().job.machine, "system": "<b>x</b> | <!-- p < 0.1"}
    history.alter_job(machine=machine)
    assert "- system &lt;b>x&lt;/b> \\| &lt;!-- p < 0.1, cpus 2" in report_of(history)


def test_where_it_comes_from_is_told() -> None:
    text = confirmed(BETTER)
    for origin in ("ffffffffffffffff…", "200 train, 100 val, 100 test", "torch 2.15.0", "confirm runs on cpu made up"):
        assert origin in text


def test_how_far_settings_could_move_is_told_or_that_it_cannot_be() -> None:
    assert "| noam | lr | 0.0011 | too few trials to tell (1) | 0.00012 to 0.0016, log | – |" in confirmed(BETTER)
    history = searched()
    for number in (2, 3):
        history.trial("noam", number, [0.4, 0.61])
    assert "| noam | lr | 0.0011 | 0.0011 to 0.0013 | 0.00012 to 0.0016, log | – |" in report_of(history)


def test_what_more_trials_would_have_brought_is_told() -> None:
    history = searched()
    history.trial("noam", 2, [0.4, 0.8])
    row = next(line for line in report_of(history).splitlines() if line.startswith("| noam | 0.6042 ["))
    # The mean of the larger of two of 0.4, 0.6125 and 0.8.
    assert "| 0.7375 [" in row
