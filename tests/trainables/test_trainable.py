"""The Ray trainable, used in this process without a cluster: checkpoints, reuse, and when test images are read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cluster.runtime  # isort: skip  (before ray: it sets what ray reads when it is imported)
import pytest
import torch
from ray.tune.trainable import trainable as ray_trainable
from safetensors import safe_open
from safetensors.torch import load_file

from tests.trainables.small import TOY, smallest_trial
from trainables.config import TrialConfig
from trainables.data.splits import Splits
from trainables.trainable import CHECKPOINT_FILE, TrialTrainable
from trainables.training import Evaluation, Split, digest
from trainables.variants import VARIANTS

assert cluster.runtime.SETTINGS

Make = Callable[..., TrialTrainable]
TEST_KEYS = {"test_loss", "test_acc", "weights_sha256", "device"}
NOT_OURS = (
    "seconds",
    "time_",
    "timestamp",
    "date",
    "hostname",
    "node_ip",
    "pid",
    "trial_id",
    "iterations_since_restore",
    "config",
)


@pytest.fixture
def config_of(cache_dir: Path, tiny: Splits) -> Callable[..., dict[str, Any]]:
    """What ``tuner`` hands to a trial; decoded already, by ``tiny``."""

    def config(trial: TrialConfig, read_test: bool = False, weights_path: Path | None = None) -> dict[str, Any]:
        path = None if weights_path is None else str(weights_path)
        return {
            "trial": trial.to_dict(),
            "cache_dir": str(cache_dir),
            "read_test": read_test,
            "weights_path": path,
            "place": {"arm": "adam_l2", "judged": (), "comparable": ()},
        }

    return config


@pytest.fixture
def make(config_of: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr(ray_trainable, "DEFAULT_STORAGE_PATH", str(tmp_path / "ray"))
    return lambda *args, **kwargs: TrialTrainable(config_of(*args, **kwargs))


def results(trainable: TrialTrainable, count: int) -> list[dict[str, Any]]:
    """Train so many epochs; what was reported, without what Tune, the clock and the process add."""
    reported = [trainable.train() for _ in range(count)]  # type: ignore[no-untyped-call]
    return [{key: v for key, v in result.items() if not key.startswith(NOT_OURS)} for result in reported]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_saved_trial_restored_elsewhere_continues_to_the_same_bits(name: str, make: Make, tmp_path: Path) -> None:
    trial = smallest_trial(name, model=TOY, augment="flip_crop")
    whole, resumed = make(trial), make(trial)
    results(whole, 3)
    saved = whole.save(str(tmp_path / "checkpoint"))
    resumed.restore(saved)
    assert results(resumed, 3) == results(whole, 3)
    assert digest(resumed.training.state()) == digest(whole.training.state())


@pytest.mark.parametrize("name", VARIANTS)
def test_the_articles_net_continues_from_a_checkpoint_file_to_the_same_bits(
    name: str, make: Make, tmp_path: Path
) -> None:
    whole, resumed = make(smallest_trial(name)), make(smallest_trial(name))
    whole.step()
    whole.save_checkpoint(str(tmp_path))
    resumed.load_checkpoint(str(tmp_path))
    assert {**whole.step(), "seconds": 0} == {**resumed.step(), "seconds": 0}
    assert digest(resumed.training.state()) == digest(whole.training.state())


def test_a_checkpoint_is_one_file_of_tensors_without_pickle(make: Make, tmp_path: Path) -> None:
    trainable = make(smallest_trial("amsgrad", model=TOY))
    results(trainable, 1)
    trainable.save_checkpoint(str(tmp_path / "."))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [CHECKPOINT_FILE]
    with safe_open(tmp_path / CHECKPOINT_FILE, framework="pt") as opened:
        assert set(opened.keys()) == set(trainable.training.state())
    header_bytes = int.from_bytes((tmp_path / CHECKPOINT_FILE).read_bytes()[:8], "little")
    assert json.loads((tmp_path / CHECKPOINT_FILE).read_bytes()[8 : 8 + header_bytes])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_reused_process_trains_the_next_trial_to_the_bits_of_a_fresh_one(
    name: str, make: Make, config_of: Callable[..., dict[str, Any]]
) -> None:
    following = smallest_trial(name, model=TOY, seed=1)
    reused, fresh = make(smallest_trial("amsgrad", {"lr": 1e-2}, model=TOY)), make(following)
    results(reused, 2)
    assert reused.reset(config_of(following))  # type: ignore[no-untyped-call]
    assert results(reused, 3) == results(fresh, 3)
    assert digest(reused.training.state()) == digest(fresh.training.state())


def test_a_search_trial_never_reads_the_test_images(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainable = make(smallest_trial("adam_l2", model=TOY))
    splits = read_splits(trainable, monkeypatch)
    reported = results(trainable, 6)
    assert not any(TEST_KEYS & set(result) for result in reported)
    assert set(splits) == {"val"}
    assert [result["done"] for result in reported] == [False] * 5 + [True]


def test_a_confirm_trial_reads_the_test_images_once_after_its_last_epoch(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights" / "trial.safetensors"
    trainable = make(smallest_trial("adam_l2", model=TOY), read_test=True, weights_path=path)
    splits = read_splits(trainable, monkeypatch)
    *earlier, last = results(trainable, 6)
    assert not any(TEST_KEYS & set(result) for result in earlier)
    assert set(last) >= TEST_KEYS
    assert splits == ["val"] * 6 + ["test"]
    assert last["test_acc"] == trainable.training.evaluate("test").acc
    assert digest(load_file(path)) == last["weights_sha256"] == digest(trainable.training.weights())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_reading_the_test_images_leaves_the_epochs_as_they_were(make: Make, tmp_path: Path) -> None:
    trial = smallest_trial("adam_l2", model=TOY)
    read = results(make(trial, read_test=True, weights_path=tmp_path / "w"), 6)
    assert [{key: v for key, v in r.items() if key not in TEST_KEYS} for r in read] == results(make(trial), 6)


def test_a_diverged_trial_is_done_at_once_and_reads_no_test_images(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    trial = smallest_trial("adam_l2", {"lr": 1e30}, epochs=1, model=TOY)
    result = make(trial, read_test=True, weights_path=path).step()
    assert result["done"]
    assert result["diverged"].startswith("training loss is")
    assert not TEST_KEYS & set(result)
    assert not path.exists()


def test_a_trial_runs_on_the_threads_it_was_given(make: Make) -> None:
    make(smallest_trial("adam_l2", model=TOY, threads=2))
    assert torch.get_num_threads() == 2
    make(smallest_trial("adam_l2", model=TOY, threads=1))
    assert torch.get_num_threads() == 1


def read_splits(trainable: TrialTrainable, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that ``trainable`` evaluates from now on."""
    splits: list[str] = []
    evaluate = trainable.training.evaluate

    def evaluate_and_tell(split: Split) -> Evaluation:
        splits.append(split)
        return evaluate(split)

    monkeypatch.setattr(trainable.training, "evaluate", evaluate_and_tell)
    return splits
