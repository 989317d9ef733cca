"""The table of cases, how a smaller size is made of it, and the published logs that it is held against."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest

import studies.article
from studies.article.cases import CASES, FINDINGS, FULL, SIZES, SMALL, Case, Size, config_of, decay_sum, hyper_of
from studies.article.defects import OF_BACKWARD, OF_RULE, OF_SCHEDULE, Defect
from studies.article.runs import PUBLISHED, Run, all_runs, outcome, read
from studies.article.schedule import PARAMETERS, CodedSchedule, noam_rate
from trainables.models.elu_net import EluNet, build
from trainables.schedules import Schedule

LOGS = Path(studies.article.__file__).parent / "logs"
TINY = Size(width=0.05, epochs=3, train_images=200, test_images=100, batch_size=20)
ALL_SIZES = [*SIZES.values(), TINY, replace(SMALL, epochs=7)]
SIZE_NAMES = [*SIZES, "tiny", "odd"]


def coded(name: str, size: Size, defects: frozenset[Defect] | None = None) -> CodedSchedule:
    case = CASES[name]
    wrong = case.defects if defects is None else defects
    return CodedSchedule(hyper_of(case, size), size.plan, wrong, size.lr_factor, case.decay)


def lr_sum(schedule: Schedule) -> float:
    return math.fsum(schedule.lr(step) for step in range(schedule.plan.updates))


def test_every_defect_is_of_one_kind_and_of_some_case() -> None:
    kinds = (OF_BACKWARD, OF_RULE, OF_SCHEDULE)
    assert sum(map(len, kinds)) == len(frozenset().union(*kinds)) == len(Defect)
    assert frozenset().union(*(case.defects for case in CASES.values())) == frozenset(Defect)
    assert not CASES["baseline"].defects


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_published_log_has_every_fifth_epoch_of_201(case: Case) -> None:
    rows = read(LOGS / f"{case.log}.csv")
    assert [row["epoch"] for row in rows] == list(range(0, 201, 5))
    assert all(
        abs(row["test_acc"] * 10_000 - round(row["test_acc"] * 10_000)) < 0.01
        and abs(row["train_acc"] * 50_000 - round(row["train_acc"] * 50_000)) < 0.01
        for row in rows
    ), "accuracies are whole numbers of images"


@pytest.mark.parametrize(
    ("name", "final", "best", "at"),
    [
        ("baseline", 64.21, 66.35, 25),
        ("case1", 56.23, 59.86, 40),
        ("case2", 66.39, 66.56, 110),
        ("case3", 23.67, 23.67, 200),
        ("case4", 10.00, 33.84, 30),
    ],
)
def test_the_published_logs_hold_the_articles_numbers(name: str, final: float, best: float, at: int) -> None:
    rows = read(LOGS / f"{CASES[name].log}.csv")
    top = max(rows, key=lambda row: row["test_acc"])
    assert 100 * rows[-1]["test_acc"] == pytest.approx(final, abs=0.005)
    assert 100 * top["test_acc"] == pytest.approx(best, abs=0.005)
    assert top["epoch"] == at


def test_the_learning_rate_that_case_4_printed_is_a_cosine_and_the_decay_of_case_1_is_halved() -> None:
    printed = {row["epoch"]: row["lr_printed"] for row in read(LOGS / "case4_restarts.csv")}
    assert [printed[epoch] for epoch in (0, 5, 10, 30, 70, 150)] == pytest.approx([1e-3, 5e-4, 0, 0, 0, 0], abs=1e-12)
    decays = {row["epoch"]: row["weight_decay"] for row in read(LOGS / "case1_adamw.csv")}
    assert [decays[epoch] for epoch in (5, 10, 50, 100, 150)] == [0.512, 0.256, 0.128, 0.064, 0.032]


@pytest.mark.parametrize("name", FINDINGS)
def test_the_published_logs_show_what_a_run_is_held_against(name: str) -> None:
    published, baseline = (outcome(read(LOGS / f"{CASES[case].log}.csv")) for case in (name, "baseline"))
    assert FINDINGS[name].holds(published, baseline)
    assert not FINDINGS[name].holds(baseline, baseline)


@pytest.mark.parametrize("size", ALL_SIZES, ids=SIZE_NAMES)
def test_decay_summed_over_the_training_is_as_published_at_any_size(size: Size) -> None:
    for name, total in {"case1": 1.3296, "case4": 0.12864}.items():
        right = Schedule(hyper_of(CASES[name], size), size.plan)
        assert decay_sum(right) == pytest.approx(total, rel=1e-6)
    assert decay_sum(coded("case4", size)) == pytest.approx(0.12864, rel=1e-6)


@pytest.mark.parametrize("size", ALL_SIZES, ids=SIZE_NAMES)
def test_case_3s_rate_times_updates_keeps_its_ratio_to_the_baselines(size: Size) -> None:
    full = lr_sum(coded("case3", FULL)) / lr_sum(Schedule(hyper_of(CASES["baseline"], FULL), FULL.plan))
    here = lr_sum(coded("case3", size)) / lr_sum(Schedule(hyper_of(CASES["baseline"], size), size.plan))
    # The article's halvings come at eighths of the training; a size of few updates rounds them.
    assert here == pytest.approx(full, rel=0.1)
    assert full == pytest.approx(0.0104, abs=0.0003)


def test_case_3s_learning_rate_is_that_of_its_program() -> None:
    schedule = coded("case3", FULL)
    assert schedule.lr(0) == schedule.lr(499) == 0
    assert schedule.lr(50 * 500) == pytest.approx(1.63e-7, rel=0.01)
    assert schedule.lr(FULL.plan.updates - 1) == pytest.approx(6.53e-7, rel=0.01)


def test_either_of_case_3s_mistakes_alone_has_its_own_size() -> None:
    peak = noam_rate(300, 4000)
    by_count = coded("case3", FULL, frozenset({Defect.PARAMETER_COUNT}))
    by_epoch = coded("case3", FULL, frozenset({Defect.EPOCH_INDEX}))
    assert peak == pytest.approx(9.13e-4, rel=1e-3)
    assert by_count.lr(3999) == pytest.approx(peak * math.sqrt(300 / PARAMETERS))
    assert by_epoch.lr(FULL.plan.updates - 1) == pytest.approx(peak * 200 / 4000)


def test_the_parameter_count_is_the_nets() -> None:
    net = build(10, (3, 32, 32), width=1.0, setup="article")
    assert isinstance(net, EluNet)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS
    assert max(conv.out_channels for conv in net.convolutions()) == 300


def test_the_right_noam_schedule_is_the_papers_formula_at_full_size() -> None:
    schedule = Schedule(hyper_of(CASES["case3"], FULL), FULL.plan)
    for step in (0, 10, 3999, 4000, 90_000):
        assert schedule.lr(step) == pytest.approx(noam_rate(300, step + 1))


def test_case_4_prints_a_cosine_and_uses_a_constant() -> None:
    used = coded("case4", FULL)
    meant = Schedule(hyper_of(CASES["case4"], FULL), FULL.plan)
    assert {used.lr(step) for step in range(0, 100_500, 500)} == {1e-4}
    assert (meant.lr(0), meant.hyper.restarts) == (1e-3, "10x2")


def test_case_2s_halvings_have_no_effect() -> None:
    used, meant = coded("case2", FULL), Schedule(hyper_of(CASES["case2"], FULL), FULL.plan)
    last = FULL.plan.updates - 1
    assert used.lr(last) == 1e-4
    assert meant.lr(last) == pytest.approx(1.25e-5)


def test_settings_at_full_size_are_the_articles() -> None:
    for name, case in CASES.items():
        config = config_of(case, case.defects, FULL, 0, None)
        assert (config.epochs, config.batch_size, config.normalize, config.augment) == (201, 100, "minmax", "none")
        assert config.hyper.lr == {"case3": pytest.approx(9.13e-4, rel=1e-3), "case4": 1e-3}.get(name, 1e-4)
    assert FULL.plan.updates == 100_500


def test_all_runs_are_each_case_whole_right_and_with_each_defect_off_and_on() -> None:
    runs = list(all_runs(seeds=3))
    assert len({str(run) for run in runs}) == len(runs)
    defects = sum(len(case.defects) for case in CASES.values())
    assert len(runs) == 3 * 5 + 3 * 4 + 2 * defects
    for run in runs:
        case = CASES[run.case].defects
        kind, _, name = run.setting.partition("-")
        wanted = {
            "published": case,
            "corrected": frozenset(),
            "without": case - {name},
            "only": frozenset({name}),
        }[kind]
        assert run.defects == wanted


def test_files_of_logs_are_plain_numbers() -> None:
    for case in CASES.values():
        with (LOGS / f"{case.log}.csv").open() as file:
            header, *rows = csv.reader(file)
        assert header[:5] == ["epoch", "train_loss", "train_acc", "test_loss", "test_acc"]
        assert len(rows) == 41
    assert str(Run("case1", PUBLISHED, 0)) == "case1.published.seed0"
