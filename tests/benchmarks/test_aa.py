"""The A/A benchmark in a small form: its banks, its rules, and the two claims on jobs whose arms are all the same."""

import json
from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks import aa, aa_page
from benchmarks.aa_jobs import Jobs, Judged, Rule, draw_seeds, epochs_of, fixed, rounds
from benchmarks.tables import bank, taskset
from benchmarks.tables.table import Table
from tuner.storage.events import Outcome
from tuner.verdict.paired_test import compare

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

JOBS = 300
TABLES = ("cifar10-adam_l2", taskset.TASKS[0])
METHOD = ("looks 4/6/8/12", "looks 5/8/12/18/25", "12 searches")


@cache
def alike(name: str) -> dict[str, aa.Found]:
    return aa.simulated(bank.read(name), JOBS, variants=4)


@pytest.mark.parametrize("name", bank.NAMES)
def test_a_bank_has_a_thousand_searches_of_its_table(name: str) -> None:
    found, table = bank.searches(name), bank.table_of(name)
    whole = {row.number for row in table.rows if len(row.curve) == table.plan.epochs}
    assert len(found) == bank.SEARCHES
    assert {one.winner for one in found} <= whole | {None}
    assert all(table.plan.epochs <= one.epochs <= bank.TRIALS * table.plan.epochs for one in found if one.winner)
    assert len({one.winner for one in found}) > 5, "without luck of the search, there is nothing to measure"
    assert bank.path(name).stat().st_size < 20_000


@pytest.mark.parametrize("name", [*TABLES, "late-noam"])
def test_a_search_that_runs_again_is_the_one_in_the_bank(name: str) -> None:
    kept, table = bank.searches(name), bank.table_of(name)
    assert [bank.search(table, seed) for seed in (0, 1, 999)] == [kept[seed] for seed in (0, 1, 999)]


def test_a_search_without_a_winner_has_the_worst_value(monkeypatch: pytest.MonkeyPatch) -> None:
    table = bank.table_of("digits-adam_l2")
    monkeypatch.setattr(bank, "searches", lambda name: [bank.Search(None, 20), bank.Search(0, 30)])
    found = bank.read("digits-adam_l2")
    assert found.values_S.tolist() == [100 * min(table.finals()), 100 * table.rows[0].curve[-1]]
    assert found.epochs_S.tolist() == [20, 30]


def test_a_task_has_a_thousand_curves_and_those_that_diverge_end_early() -> None:
    table = taskset.read("taskset-imdb_patch32_IRNN64_relu_last_bs128")
    assert len(table.rows) == 1000
    assert sum(len(row.curve) < taskset.REPORTS for row in table.rows) == 245
    assert all(np.isfinite(row.curve).all() and 1 <= len(row.curve) <= taskset.REPORTS for row in table.rows)
    assert all(domain.contains(row.knobs[knob]) for row in table.rows for knob, domain in table.arm.space.items())


def test_the_fast_nearest_setting_of_a_task_is_the_slow_one() -> None:
    table = taskset.read(taskset.TASKS[0])
    asked = [dict(table.arm.default)]
    asked += [{**table.rows[i].knobs, "lr": table.rows[i + 1].knobs["lr"]} for i in range(5)]
    assert [table.nearest(knobs) for knobs in asked] == [Table.nearest(table, knobs) for knobs in asked]


def test_the_rule_for_many_jobs_is_the_verdicts_rule() -> None:
    jobs = draw_seeds(bank.read("cifar10-adam_l2"), 200, variants=4, units=5, rng=np.random.default_rng(1))
    seen = set()
    for differences_VU, outcomes_V in zip(
        jobs.differences_JVU, fixed(jobs.differences_JVU, margin=2.0).outcomes_JV, strict=True
    ):
        arms = {f"v{v}": dict(enumerate(0.5 + row_U / 100)) for v, row_U in enumerate(differences_VU)}
        expected = [one.outcome for one in compare(dict.fromkeys(range(5), 0.5), arms, margin=2.0)]
        assert outcomes_V.tolist() == expected
        seen |= set(expected)
    assert len(seen) == 4, "every outcome was compared"


def test_rounds_end_when_every_variant_is_settled_and_the_last_round_counts() -> None:
    open_, better = [3.0, -3.0, 1.0, -1.0, 0.0], [5.0, 5.1, 5.2, 4.9, 4.8]
    one = [*open_, *better, *open_, *open_, *open_]
    judged = rounds(np.array([[one], [[*better, *one[:20]]]]), margin=0.1)
    assert judged.outcomes_JV.tolist() == [[Outcome.BEATS], [Outcome.BEATS]]
    assert judged.used_JV.tolist() == [[10], [5]]


def test_a_job_pays_for_the_searches_and_confirm_runs_of_each_arm() -> None:
    judged = Judged(np.array([[Outcome.BEATS, Outcome.TIES]]), np.array([[1, 2]]))
    searched_JAU = np.array([[[10, 20, 40], [1, 2, 4], [100, 200, 400]]])
    method, setting = (Rule(unit, 3, fixed) for unit in ("search", "seed"))
    assert epochs_of(method, Jobs(np.zeros((1, 2, 3)), searched_JAU), judged, training=5).tolist() == [
        (30 + 10) + (1 + 5) + (300 + 10)
    ]
    assert epochs_of(setting, Jobs(np.zeros((1, 2, 3)), searched_JAU[:, :, :1]), judged, training=5).tolist() == [
        111 + (10 + 5 + 10)
    ]


def test_the_upper_bound_of_no_event_in_a_hundred_is_three_percent() -> None:
    assert aa.Share(0, 100).upper == pytest.approx(100 * (1 - 0.05 ** (1 / 100)))
    assert aa.Share(5, 100).percent == 5 < aa.Share(5, 100).upper < 12
    assert aa.Share(3, 3).upper == 100


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("rule", METHOD)
def test_a_verdict_on_a_method_rarely_says_that_an_arm_beats_itself(name: str, rule: str) -> None:
    assert alike(name)[rule].false.count <= binom.ppf(0.9999, JOBS, aa.MOST_FALSE / 100)


@pytest.mark.parametrize("name", TABLES)
def test_a_verdict_on_a_setting_often_says_so_and_more_seeds_make_it_worse(name: str) -> None:
    five, ten = (alike(name)[f"{seeds} seeds of one search"].false for seeds in (5, 10))
    assert five.count > binom.ppf(0.9999, JOBS, aa.MOST_FALSE / 100)
    assert ten.count > five.count


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("rule", METHOD[:2])
def test_a_placebo_warns_in_at_most_about_five_percent_of_jobs(name: str, rule: str) -> None:
    warns = alike(name)[rule].warns
    assert warns is not None
    assert warns.count <= binom.ppf(0.9999, JOBS, 0.05)


@pytest.mark.parametrize("rule", METHOD)
def test_a_large_gain_is_found_and_looks_cost_less_than_all_searches(rule: str) -> None:
    found = aa.simulated(bank.read("cifar10-adam_l2"), JOBS, variants=4, gain=3.0, margin=1.0)
    assert found[rule].beats.percent > 95
    assert found["looks 4/6/8/12"].epochs < 0.9 * found["12 searches"].epochs


def test_a_gain_of_the_margin_rarely_ties() -> None:
    found = aa.simulated(bank.read("cifar10-adam_l2"), JOBS, variants=4, gain=1.0, margin=1.0)
    for rule in METHOD:
        assert found[rule].ties.count <= binom.ppf(0.9999, JOBS, 0.05)


def test_the_kept_page_is_the_one_of_the_kept_result() -> None:
    kept = json.loads(aa_page.RESULT.read_text())
    assert aa_page.page(kept) == aa_page.RESULT.with_suffix(".md").read_text()
