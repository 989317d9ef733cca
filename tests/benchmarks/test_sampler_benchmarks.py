"""The benchmarks of the sampler and of whole searches, in their smallest form."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ask, regret, search_quality
from benchmarks.measuring import Result
from benchmarks.peers.searchers import BEST, ROUND, SEARCHERS, SYNE_TUNE, raced
from benchmarks.tables import taskset
from benchmarks.tables.replay import RANDOM, Reached, Search, replay
from benchmarks.tables.table import TABLES, Row, Table, arm_of, path, read
from benchmarks.tables.unit import distance, setting
from trainables.space import Choice, Domain, Float, Int
from tuner.spec.search_spec import load

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SPACE: dict[str, Domain] = {
    "lr": Float(1e-4, 1e-2, "log"),
    "beta2": Float(0.9, 0.9999, "one-minus-log"),
    "warmup": Int(1, 8, "log"),
    "restarts": Choice(("4x2", "6x1")),
}


def is_whole(result: Result) -> bool:
    """Whether a result describes its method and has pairs of figures, all of them finite."""
    return bool(result.how and result.comparisons) and all(
        len(found.ours) == len(found.theirs) > 0 and all(map(math.isfinite, found.ours + found.theirs))
        for found in result.comparisons
    )


def test_our_asks_are_compared_with_optunas() -> None:
    assert is_whole(ask.measure(1, sizes=(5, 12), asks=1))


def test_regret_is_compared_with_other_kinds_of_study() -> None:
    result = regret.measure(1, trials=3, few=25)
    assert is_whole(result)
    for found in result.comparisons:
        short = "3 trials" in found.title
        assert (found.ours == found.theirs) == short, "studies of 3 trials do not differ"


@pytest.mark.parametrize(
    ("name", "where", "least"),
    [
        ("branin", {"x": math.pi, "y": 2.275}, 0.397887),
        (
            "hartmann6",
            {"a": 0.20169, "b": 0.150011, "c": 0.476874, "d": 0.275332, "e": 0.311652, "f": 0.6573},
            -3.32237,
        ),
        ("rosenbrock", {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, 0.0),
        ("mixed", {"kind": "a", "lr": 1e-3, "width": 37}, 0.0),
    ],
)
def test_a_problem_has_its_minimum_at_the_known_place(name: str, where: dict[str, float | str], least: float) -> None:
    problem = regret.PROBLEMS[name]
    assert problem.value(where) == pytest.approx(problem.least, abs=1e-4) == pytest.approx(least)


def test_the_corners_of_the_cube_are_the_ends_of_the_ranges() -> None:
    assert setting(SPACE, [0, 0, 0, 0]) == {"lr": 1e-4, "beta2": 0.9, "warmup": 1, "restarts": "4x2"}
    almost = 1 - 1e-9
    assert setting(SPACE, [almost] * 4) == {"lr": 1e-2, "beta2": 0.9999, "warmup": 8, "restarts": "6x1"}


def test_the_middle_of_the_cube_is_the_middle_of_the_scales() -> None:
    middle = setting(SPACE, [0.5, 0.5, 0.5, 0.5])
    assert middle["lr"] == pytest.approx(1e-3)
    assert middle["beta2"] == pytest.approx(1 - math.sqrt(1e-5), rel=1e-5)
    corner = setting(SPACE, [0, 0.5, 0.5, 0])
    assert distance(SPACE, middle, corner) == pytest.approx(0.25 + 1)


def small() -> Table:
    """Eight made-up settings. A larger learning rate is better, and the smallest one diverges."""
    spec, plan, arm = arm_of("digits-adam_l2")
    rows = [
        Row(
            number,
            {"lr": 1e-4 * 10 ** (number / 4), "l2": 1e-4},
            tuple(0.1 * number + 0.001 * epoch for epoch in range(12 if number else 2)),
        )
        for number in range(8)
    ]
    return Table("small", spec, plan, arm, tuple(rows))


def test_a_replay_counts_the_epochs_until_a_full_trial_reaches_the_target() -> None:
    table = small()
    best = table.finals()[0]
    found = replay(table, best, RANDOM, seed=1)
    assert found.target
    assert found == replay(table, best, RANDOM, seed=1)
    assert replay(table, best, Search(), seed=1).target


def test_a_replay_reports_that_a_search_is_lost() -> None:
    table = small()
    never = replay(table, 2.0, RANDOM, seed=0, most=5)
    assert not never.target
    assert 5 * table.plan.epochs <= never.epochs < (5 + RANDOM.concurrent) * table.plan.epochs


@pytest.mark.parametrize("name", [name for name in SEARCHERS if name != SYNE_TUNE])
def test_another_searcher_finds_the_target_and_can_be_lost(name: str) -> None:
    table, make = small(), SEARCHERS[name]
    found = raced(table, table.finals()[0], make, seed=1)
    assert found.target
    assert found == raced(table, table.finals()[0], make, seed=1)
    lost = raced(table, 2.0, make, seed=1, most=5)
    assert (lost.target, lost.epochs) == (False, 5 * table.plan.epochs)


def test_one_epoch_trains_a_round_for_one_epoch_and_the_best_three_to_the_end() -> None:
    table = small()
    lost = raced(table, 2.0, SEARCHERS["30 settings for one epoch, then the best 3"], seed=1, concurrent=1, most=5)
    # A whole round has 30 epochs and three times the eleven others. Then the next round begins.
    assert lost.epochs == 60 < ROUND + BEST * (table.plan.epochs - 1)
    assert lost.trials == ROUND


@pytest.mark.parametrize("name", TABLES)
def test_a_recorded_table_covers_the_space_of_its_arm(name: str) -> None:
    table = read(name)
    assert len(table.rows) == 64
    assert [row.number for row in table.rows] == list(range(len(table.rows)))
    for row in table.rows:
        assert all(domain.contains(row.knobs[knob]) for knob, domain in table.arm.space.items())
        assert 1 <= len(row.curve) <= table.plan.epochs
        assert all(0 <= accuracy <= 1 for accuracy in row.curve)
    assert path(name).stat().st_size < 200_000
    assert path(name).read_text().startswith("#")


@pytest.mark.parametrize("spec", sorted(Path(search_quality.__file__).parent.glob("tables/*.yaml")))
def test_a_tables_spec_is_valid(spec: Path) -> None:
    assert load(spec).name == spec.stem


def test_ways_to_search_are_compared_with_random_search() -> None:
    ways = [search_quality.BASE, search_quality.OURS, "30 settings for one epoch, then the best 3"]
    result = search_quality.measure(1, ["digits-adam_l2", taskset.TASKS[0]], seeds_a_pair=2, ways=ways)
    header, base, *others = result.tables["2 tables"]
    assert base == [search_quality.BASE, "1.000 (1.000 to 1.000)", "1.000 (1.000 to 1.000)", base[-1]]
    assert [row[0] for row in others] == ways[1:]
    assert all(len(row) == len(header) for row in others)
    assert result.how


def test_the_ratio_is_the_geometric_mean_over_tables() -> None:
    def runs(*epochs: int) -> list[Reached]:
        return [Reached(one, 1, True) for one in epochs]

    ours, theirs = {"a": runs(1, 3), "b": runs(8, 8)}, {"a": runs(4, 4, 9), "b": runs(1, 3, 9)}
    assert search_quality.ratios(ours, theirs, np.mean)[0] == pytest.approx(math.sqrt(2 / 4 * 8 / 2))
