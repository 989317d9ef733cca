"""Runs of the study, made tiny: each case trains with its defects, and without them as trainables does alone."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studies.article.cases import CASES, Size, config_of
from studies.article.rules import CodedAdam
from studies.article.runs import COLUMNS, Run, as_the_article, path_of, read, train, training_of, write
from studies.article.schedule import CodedSchedule
from tests.trainables.small import REQUEST
from trainables.data.cache import load
from trainables.data.splits import Splits
from trainables.training.trainer import Training, digest

TINY = Size(width=0.05, epochs=2, train_images=200, test_images=100, batch_size=20)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """Digits stand for CIFAR-10: the same shapes, and no download."""
    request = replace(REQUEST, train_images=180, val_images=20)
    return load(request, tmp_path_factory.mktemp("decoded"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("case", CASES)
def test_every_case_trains_with_all_its_defects(case: str, digits: Splits) -> None:
    rows = train(Run(case, "published", 0), TINY, digits, None)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(math.isfinite(row[column]) for row in rows for column in COLUMNS)


@pytest.mark.parametrize("case", CASES)
def test_a_corrected_run_is_trainables_own_bit_for_bit(case: str, digits: Splits) -> None:
    config = config_of(CASES[case], frozenset(), TINY, 0, None)
    splits = as_the_article(digits)
    setting = "corrected" if CASES[case].defects else "published"
    ours, plain = training_of(Run(case, setting, 0), TINY, splits, config), Training(config, splits)
    ours.run_epoch(), plain.run_epoch()
    assert digest(ours.state()) == digest(plain.state())


@pytest.mark.parametrize("case", [name for name in CASES if CASES[name].defects])
def test_a_published_run_starts_from_the_same_weights_and_moves_otherwise(case: str, digits: Splits) -> None:
    splits = as_the_article(digits)
    both = []
    for setting in ("published", "corrected"):
        run = Run(case, setting, 0)
        both.append(training_of(run, TINY, splits, config_of(CASES[case], run.defects, TINY, 0, None)))
    published, corrected = both
    for first, second in zip(published.model.parameters(), corrected.model.parameters(), strict=True):
        assert torch.equal(first, second)
    assert isinstance(published.optimizer, CodedAdam)
    assert isinstance(published.schedule, CodedSchedule) == (case != "case1")
    published.run_epoch(), corrected.run_epoch()
    assert any(
        not torch.equal(first, second)
        for first, second in zip(published.model.parameters(), corrected.model.parameters(), strict=True)
    )


def test_a_run_repeats_its_bits_and_another_seed_has_others(digits: Splits) -> None:
    first, again, other = (
        [{**row, "seconds": 0} for row in train(Run("case4", "published", seed), TINY, digits, None)]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_the_wrong_sign_grows_weights_by_the_published_factor_where_gradients_do_not_reach(digits: Splits) -> None:
    run = Run("case1", "only-wrong-sign-decay", 0)
    training = training_of(run, TINY, as_the_article(digits), config_of(CASES["case1"], run.defects, TINY, 0, None))
    weight = next(training.model.parameters())
    before = weight.detach().clone()
    for step in range(training.plan.updates):
        training.optimizer.param_groups[0]["weight_decay"] = training.schedule.weight_decay(step)
        weight.grad = torch.zeros_like(weight)
        training.optimizer.step()
    # exp(1.3296) = 3.78; in twenty updates, compounded, a little less.
    assert 3.5 < (weight / before).mean().item() < 3.78


def test_all_training_images_are_trained_on_and_the_test_images_looked_at(digits: Splits) -> None:
    splits = as_the_article(digits)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (200, 100, 100)
    assert splits.val is splits.test


def test_a_written_run_reads_back_and_no_partial_file_stays(tmp_path: Path) -> None:
    rows = [{column: float(index) for index, column in enumerate(COLUMNS)}]
    path = path_of(Run("case1", "published", 0), tmp_path / "small")
    write(rows, path)
    assert read(path) == rows
    assert [file.name for file in path.parent.iterdir()] == ["case1.published.seed0.csv"]
