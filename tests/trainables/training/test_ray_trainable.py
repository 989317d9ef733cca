"""The Ray trainable without a cluster: resuming, reuse, reading the test images, and the watchdog."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cluster.runtime  # isort: skip  (before ray: it sets what ray reads when it is imported)
import pytest
import torch
from safetensors.torch import load_file

from tests.trainables.small import EPOCHS, TOY, smallest_trial
from trainables.config import TrialConfig
from trainables.data.device import DeviceSplits
from trainables.data.splits import Splits
from trainables.errors import DataError, DiskFull
from trainables.training import checkpoints
from trainables.training.ray_trainable import TrialTrainable
from trainables.training.trainer import Evaluation, Split, digest
from trainables.variants import VARIANTS
from trainables.worker.watchdog import LONELY_EXIT

assert cluster.runtime.SETTINGS

Config = Callable[..., dict[str, Any]]
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
    "training_iteration",
    "config",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the trial's checkpoints; the first attempt creates it."""
    return tmp_path / "checkpoints" / "trial"


@pytest.fixture
def config_of(cache_dir: Path, tiny: Splits, folder: Path) -> Config:
    """A function that returns the config that ``tuner`` passes to a trial; ``tiny`` has already decoded the data."""

    def config(trial: TrialConfig, read_test: bool = False, weights_path: Path | None = None, **keys: Any) -> Any:
        path = None if weights_path is None else str(weights_path)
        return {
            "trial": trial.to_dict(),
            "cache_dir": str(cache_dir),
            "read_test": read_test,
            "weights_path": path,
            "place": {"arm": "adam_l2", "judged": (), "comparable": ()},
            "attempt": 1,
            "checkpoints": str(folder),
            "accepted": [],
            "checkpoint_s": 0.0,
            "lonely_s": 3600.0,
            **keys,
        }

    return config


@pytest.fixture
def make(config_of: Config) -> Make:
    return lambda *args, **kwargs: TrialTrainable(config_of(*args, **kwargs))


def test_a_nodes_own_folder_of_decoded_data_overrides_the_drivers(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "made" / "for this"
    monkeypatch.setenv("TUNER_CACHE", str(own))
    make(smallest_trial("adam_l2", model=TOY), cache_dir="/proc/of-the-driver")
    assert list(own.glob("*/meta.json"))


def test_the_error_names_a_folder_of_decoded_data_that_cannot_be_written(make: Make) -> None:
    with pytest.raises(DataError, match=r"^/proc/of-the-driver: cannot write the data cache .*TUNER_CACHE"):
        make(smallest_trial("adam_l2", model=TOY), cache_dir="/proc/of-the-driver")


def results(trainable: TrialTrainable, count: int) -> list[dict[str, Any]]:
    """Train ``count`` epochs; return the reports without the fields of Tune, of the clock and of the process."""
    reported = [trainable.train() for _ in range(count)]  # type: ignore[no-untyped-call]
    return [{key: v for key, v in result.items() if not key.startswith(NOT_OURS)} for result in reported]


def record(epochs: int, attempt: int = 1) -> list[list[int]]:
    """The driver's record of an attempt that reported ``epochs`` epochs."""
    return [[epoch, attempt] for epoch in range(epochs, 0, -1)]


def same(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reports without the number of the attempt that made them."""
    return [{key: value for key, value in report.items() if key != "attempt"} for report in reports]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_later_attempt_resumes_to_the_same_bits(name: str, make: Make) -> None:
    trial = smallest_trial(name, model=TOY, augment="flip_crop")
    whole = make(trial)
    results(whole, 3)
    continued = make(trial, attempt=2, accepted=record(3))
    assert continued.training.epoch == 3
    assert same(results(continued, 3)) == same(results(whole, 3))
    assert digest(continued.training.state()) == digest(whole.training.state())


@pytest.mark.parametrize("name", VARIANTS)
def test_the_articles_net_resumes_to_the_same_bits(name: str, make: Make) -> None:
    trial = smallest_trial(name)
    whole = make(trial)
    results(whole, 1)
    continued = make(trial, attempt=2, accepted=record(1))
    assert same(results(continued, 1)) == same(results(whole, 1))
    assert digest(continued.training.state()) == digest(whole.training.state())


def test_losing_the_attempt_after_every_epoch_gives_the_same_bits(make: Make, folder: Path) -> None:
    trial = smallest_trial("amsgrad", model=TOY)
    whole = make(trial, checkpoints=str(folder.parent / "unused"))
    expected, reports = results(whole, EPOCHS), []
    accepted: list[list[int]] = []
    for attempt in range(1, EPOCHS + 1):
        one = make(trial, attempt=attempt, accepted=accepted)
        reports += results(one, 1)
        accepted = [[attempt, attempt], *accepted]
    assert same(reports) == same(expected)
    assert [report["attempt"] for report in reports] == list(range(1, EPOCHS + 1))
    assert digest(one.training.state()) == digest(whole.training.state())


def test_every_report_except_the_last_has_a_checkpoint_to_resume_from(make: Make, folder: Path) -> None:
    trainable = make(smallest_trial("adam_l2", model=TOY))
    for epoch in range(1, EPOCHS):
        results(trainable, 1)
        (state,) = checkpoints.newest(folder, [(epoch, 1)])
        assert digest(state) == digest(trainable.training.state())
    before = sorted(folder.iterdir())
    assert results(trainable, 1)[0]["done"]
    assert sorted(folder.iterdir()) == before
    assert len(before) == checkpoints.KEEP


def test_the_checkpoint_that_tune_requests_at_the_end_is_empty(make: Make, tmp_path: Path) -> None:
    trainable = make(smallest_trial("adam_l2", model=TOY, epochs=1))
    results(trainable, 1)
    trainable.save(str(tmp_path / "tune"))
    assert list((tmp_path / "tune").iterdir()) == []


def test_no_checkpoint_is_written_too_soon_after_another(make: Make, folder: Path) -> None:
    trial = smallest_trial("amsgrad", model=TOY)
    whole, seldom = make(trial), make(trial, checkpoints=str(folder.parent / "seldom"), checkpoint_s=3600.0)
    assert same(results(seldom, 3)) == same(results(whole, 3))
    assert not (folder.parent / "seldom").exists()
    assert digest(seldom.training.state()) == digest(whole.training.state())


def test_a_process_without_a_trial_waits_for_one(config_of: Config, make: Make) -> None:
    trial = smallest_trial("amsgrad", model=TOY)
    waiting, fresh = TrialTrainable(), make(trial)
    begun = waiting.begin(config_of(trial))
    assert begun["epoch"] == 1
    results(fresh, 1)
    assert digest(waiting.training.state()) == digest(fresh.training.state())


def test_a_checkpoint_that_is_not_on_record_is_ignored(make: Make) -> None:
    trial = smallest_trial("adam_l2", model=TOY)
    results(make(trial), 4)
    assert make(trial, attempt=2, accepted=record(3)).training.epoch == 3
    assert make(trial, attempt=2, accepted=[]).training.epoch == 0
    assert make(trial, attempt=3, accepted=[[4, 2], *record(3)]).training.epoch == 3


def test_later_writes_of_a_fenced_off_attempt_have_no_effect(make: Make, folder: Path) -> None:
    trial = smallest_trial("adam_l2", {"lr": 1e-2}, model=TOY)
    fenced, whole = make(trial), make(trial, checkpoints=str(folder.parent / "unused"))
    results(whole, EPOCHS)
    results(fenced, 2)
    second = make(trial, attempt=2, accepted=record(2))
    with torch.no_grad():
        next(fenced.training.model.parameters()).zero_()
    results(fenced, 1)
    results(second, 1)
    results(fenced, 1)
    third = make(trial, attempt=3, accepted=[[3, 2], *record(2)])
    assert third.training.epoch == 3
    results(third, 3)
    assert digest(third.training.state()) == digest(whole.training.state())


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "another net's", "another net's moments"])
def test_an_attempt_resumes_from_the_checkpoint_before_a_damaged_one(damage: str, make: Make, folder: Path) -> None:
    trial = smallest_trial("amsgrad", model=TOY)
    whole = make(trial)
    results(whole, 3)
    spoil(folder / "000003-001.safetensors", damage)
    continued = make(trial, attempt=2, accepted=record(3))
    assert continued.training.epoch == 2
    results(continued, 1)
    assert digest(continued.training.state()) == digest(whole.training.state())


def test_a_trial_without_an_undamaged_checkpoint_restarts_to_the_same_bits(make: Make, folder: Path) -> None:
    trial = smallest_trial("amsgrad", model=TOY)
    whole = make(trial)
    results(whole, 3)
    for path in sorted(folder.iterdir()):
        spoil(path, "another net's")
    again = make(trial, attempt=2, accepted=record(3))
    assert again.training.epoch == 0
    results(again, 3)
    assert digest(again.training.state()) == digest(whole.training.state())


def test_a_full_disk_ends_the_attempt_and_the_next_one_resumes_when_there_is_space(make: Make, folder: Path) -> None:
    trial = smallest_trial("amsgrad", model=TOY)
    trainable, whole = make(trial), make(trial, checkpoints=str(folder.parent / "unused"))
    results(whole, 4)
    results(trainable, 2)
    (folder / ".000003-001.safetensors.1").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match=r"000003-001\.safetensors: no space left on the disk; [\d,]+ bytes are needed"):
        trainable.step()
    continued = make(trial, attempt=2, accepted=record(2))
    results(continued, 2)
    assert digest(continued.training.state()) == digest(whole.training.state())


def test_weights_that_do_not_fit_on_the_disk_end_the_attempt(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "weights" / "trial.safetensors"
    path.parent.mkdir()
    (path.parent / f".{path.name}.1").symlink_to("/dev/full")
    trainable = make(smallest_trial("adam_l2", model=TOY, epochs=1), read_test=True, weights_path=path)
    with pytest.raises(DiskFull, match="trial"):
        trainable.step()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("name", VARIANTS)
def test_a_reused_process_trains_the_next_trial_to_the_bits_of_a_fresh_one(
    name: str, make: Make, config_of: Config
) -> None:
    following = smallest_trial(name, model=TOY, seed=1)
    reused, fresh = make(smallest_trial("amsgrad", {"lr": 1e-2}, model=TOY)), make(following)
    results(reused, 2)
    assert reused.reset(config_of(following))  # type: ignore[no-untyped-call]
    assert results(reused, 3) == results(fresh, 3)
    assert digest(reused.training.state()) == digest(fresh.training.state())


def test_a_reused_process_resumes_the_next_trial_to_the_bits_of_a_fresh_one(
    make: Make, config_of: Config, folder: Path
) -> None:
    trial = smallest_trial("amsgrad", model=TOY)
    whole, reused = make(trial), make(smallest_trial("noam", model=TOY), checkpoints=str(folder.parent / "other"))
    results(whole, 2)
    results(reused, 1)
    assert reused.reset(config_of(trial, attempt=2, accepted=record(2)))  # type: ignore[no-untyped-call]
    assert same(results(reused, 2)) == same(results(whole, 2))
    assert digest(reused.training.state()) == digest(whole.training.state())


def test_the_next_trial_of_a_process_reuses_the_data_in_memory(make: Make, config_of: Config) -> None:
    trial = smallest_trial("adam_l2", model=TOY)
    reused = make(trial)
    first = reused.training.data
    addresses = [first.train.images_BHWC.data_ptr(), first.constants("standard")[0].data_ptr()]
    reused.reset(config_of(replace(trial, seed=1)))  # type: ignore[no-untyped-call]
    again = reused.training.data
    assert [again.train.images_BHWC.data_ptr(), again.constants("standard")[0].data_ptr()] == addresses
    other = replace(trial, data=replace(trial.data, seed=1))
    reused.reset(config_of(other))  # type: ignore[no-untyped-call]
    assert reused.training.data.fingerprint != first.fingerprint
    assert digest_of(reused.training.data) == digest_of(make(other).training.data) != digest_of(first)


def digest_of(data: DeviceSplits) -> str:
    return digest({"images": data.train.images_BHWC, "labels": data.train.labels_B})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_next_trial_of_a_process_copies_no_data_to_the_gpu(make: Make, config_of: Config) -> None:
    trial = smallest_trial("adam_l2", model=TOY, gpu=True)
    reused = make(trial)
    address = reused.training.data.train.images_BHWC.data_ptr()
    results(reused, 1)
    reused.reset(config_of(replace(trial, seed=1)))  # type: ignore[no-untyped-call]
    results(reused, 1)
    assert reused.training.data.train.images_BHWC.data_ptr() == address


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


def test_reading_the_test_images_does_not_change_the_epochs(make: Make, tmp_path: Path) -> None:
    trial = smallest_trial("adam_l2", model=TOY)
    read = results(make(trial, read_test=True, weights_path=tmp_path / "w"), 6)
    assert [{key: v for key, v in r.items() if key not in TEST_KEYS} for r in read] == results(make(trial), 6)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_diverged_trial_is_done_at_once_and_reads_no_test_images(
    epochs: int, make: Make, tmp_path: Path, folder: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    trial = smallest_trial("adam_l2", {"lr": 1e30}, epochs=epochs, model=TOY)
    result = make(trial, read_test=True, weights_path=path).step()
    assert result["done"]
    assert result["diverged"].startswith("training loss is")
    assert not TEST_KEYS & set(result)
    assert not path.exists()
    assert not folder.exists()


def test_a_trial_uses_its_number_of_threads(make: Make) -> None:
    make(smallest_trial("adam_l2", model=TOY, threads=2))
    assert torch.get_num_threads() == 2
    make(smallest_trial("adam_l2", model=TOY, threads=1))
    assert torch.get_num_threads() == 1


PATIENCE_S = 1.0
FORGOTTEN = "print('waiting', flush=True); time.sleep(30); print('slept')"
LONGER = "time.sleep(1.5)"
STEP = "trainable.step()"
SLOW_STEP = f"""
train = trainable.training.run_epoch
trainable.training.run_epoch = lambda: ({LONGER}, train())[1]
{STEP}
trainable.training.run_epoch = train"""


@pytest.mark.parametrize(
    "lines",
    [[FORGOTTEN], [SLOW_STEP, FORGOTTEN]],
    ids=["after setup", "after an epoch"],
)
def test_a_worker_that_nobody_calls_ends_itself(lines: list[str], config_of: Config) -> None:
    ended = worker(config_of(smallest_trial("adam_l2", model=TOY, epochs=2), lonely_s=PATIENCE_S), lines)
    assert ended.returncode == LONELY_EXIT
    assert ended.stderr.splitlines()[-1].startswith(f"tuner: no call for {PATIENCE_S:g} s")
    assert ended.stdout == "waiting\n"


def test_a_worker_stays_alive_in_training_after_its_trial_and_after_cleanup(
    config_of: Config,
) -> None:
    lines = [
        *(SLOW_STEP, STEP, "assert trainable.training.epoch == 2", LONGER),
        *("trainable.reset_config(config)", "trainable.cleanup()", LONGER),
        *("trainable.reset_config(config)", "print('slept')"),
    ]
    ended = worker(config_of(smallest_trial("adam_l2", model=TOY, epochs=2), lonely_s=PATIENCE_S), lines)
    assert (ended.returncode, ended.stdout) == (0, "slept\n"), ended.stderr


def worker(config: dict[str, Any], lines: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run ``lines`` in a new process with one ``trainable`` that is set up."""
    code = [
        "import cluster.runtime, json, sys, time",
        "from trainables.training.ray_trainable import TrialTrainable",
        "config = json.loads(sys.argv[1])",
        "trainable = TrialTrainable(config)",
        *lines,
    ]
    return subprocess.run(
        [sys.executable, "-c", "\n".join(code), json.dumps(config)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def spoil(file: Path, damage: str) -> None:
    """Damage a checkpoint as a fault does; a checkpoint of ``another net's`` kind has a correct checksum."""
    content = file.read_bytes()
    epoch, attempt = (int(part) for part in file.stem.split("-"))
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "missing":
        file.unlink()
    else:
        prefix = "optimizer." if "moments" in damage else "model."
        state = {
            name: torch.cat([value, value]) if name.startswith(prefix) and value.ndim else value
            for name, value in load_file(file).items()
        }
        checkpoints.save(file.parent, state, epoch, attempt)


def read_splits(trainable: TrialTrainable, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list to which every split is added that ``trainable`` evaluates from now on."""
    splits: list[str] = []
    evaluate = trainable.training.evaluate

    def evaluate_and_tell(split: Split) -> Evaluation:
        splits.append(split)
        return evaluate(split)

    monkeypatch.setattr(trainable.training, "evaluate", evaluate_and_tell)
    return splits
