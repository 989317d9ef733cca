"""One trial's training: it learns, only its config determines its bits, and failures are reported."""

import math
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.trainables.small import BATCH, EPOCHS, NARROW, STEPS, TOY, smallest_trial
from trainables.config import ModelConfig, TrialConfig
from trainables.data.splits import Arrays, Splits
from trainables.errors import CodeError, TrainableError
from trainables.models.elu_net import SETUPS, EluNet
from trainables.report import EpochReport
from trainables.space import Scalar
from trainables.training.net import build_model
from trainables.training.trainer import Training, device_name, digest
from trainables.variants import VARIANTS

ARTICLE = ModelConfig("elu_net", {"width": 0.05, "setup": "article"})
FAST = {"lr": 1e-2}

OWN_MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.body = nn.Sequential(
            nn.AvgPool2d(4), nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 6 * 6, classes),
        )
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, images_BCHW):
        return self.body(images_BCHW) / self.temperature

def build(classes, shape):
    return Net(classes, shape[0])
"""

ModelFile = Callable[[str, str], ModelConfig]


@pytest.fixture
def model_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFile:
    """Writes a user's own module and returns the model config of its ``build``; every test uses other module names."""

    def write(name: str, text: str) -> ModelConfig:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return ModelConfig(f"{name}:build")

    return write


def epochs(training: Training, count: int) -> list[EpochReport]:
    """Train ``count`` epochs; return their reports with ``seconds`` set to 0."""
    return [replace(training.run_epoch(), seconds=0.0) for _ in range(count)]


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def few(splits: Splits, count: int) -> Splits:
    """The first ``count`` images of each split."""
    parts = {part: getattr(splits, part).take(np.arange(count)) for part in ("train", "val", "test")}
    return replace(splits, **parts)


def assert_resumes(trial: TrialConfig, splits: Splits, device: str = "cpu") -> None:
    """A new training that resumes from a state gives the same bits as a training that never stopped."""
    half = trial.epochs // 2
    whole = Training(trial, splits, device)
    epochs(whole, half)
    state = whole.state()
    expected = epochs(whole, trial.epochs - half)
    resumed = Training(trial, splits, device)
    resumed.load_state(state)
    assert epochs(resumed, trial.epochs - half) == expected
    assert equal(resumed.state(), whole.state())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_learns_the_tiny_set(name: str, tiny: Splits) -> None:
    training = Training(smallest_trial(name, FAST, batch_size=20), tiny)
    losses = [report.train_loss for report in epochs(training, EPOCHS)]
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("setup", SETUPS)
def test_one_batch_can_be_memorised(setup: str, tiny: Splits) -> None:
    model = ModelConfig("elu_net", {"width": 0.1, "setup": setup})
    normalize = "minmax" if setup == "article" else "standard"
    knobs: dict[str, Scalar] = {"lr": 1e-2, "l2": 0.0, "schedule": "constant"}
    trial = smallest_trial("adam_l2", knobs, model=model, normalize=normalize, batch_size=20, epochs=300)
    training = Training(trial, few(tiny, 20))
    assert any(training.run_epoch().train_loss < 0.05 for _ in range(trial.epochs))


@pytest.mark.parametrize("setup", SETUPS)
def test_training_starts_at_chance(setup: str, tiny: Splits) -> None:
    model = ModelConfig("elu_net", {"width": 0.05, "setup": setup})
    assert Training(smallest_trial("adam_l2", model=model), tiny).evaluate("val").loss == pytest.approx(
        math.log(10), abs=0.05
    )


@pytest.mark.parametrize("augment", ["none", "flip_crop"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_checkpoint_resumes_bit_for_bit(name: str, augment: str, tiny: Splits) -> None:
    assert_resumes(smallest_trial(name, FAST, augment=augment, batch_size=25), few(tiny, 75))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_users_own_model_with_batch_norm_and_dropout_resumes_bit_for_bit(
    name: str, tiny: Splits, model_file: ModelFile
) -> None:
    assert_resumes(smallest_trial(name, FAST, model=model_file("own_net", OWN_MODEL)), tiny)


def test_a_state_is_a_copy_that_later_epochs_do_not_change(tiny: Splits) -> None:
    training = Training(smallest_trial("amsgrad", model=TOY), tiny)
    epochs(training, 1)
    state = training.state()
    before = digest(state)
    epochs(training, 1)
    assert digest(state) == before != digest(training.state())


def test_only_amsgrad_has_a_maximum_that_can_be_active(tiny: Splits) -> None:
    training = Training(smallest_trial("adam_l2", model=TOY), tiny)
    epochs(training, 1)
    assert training.max_active() is None


def test_a_second_moment_that_forgets_fast_leaves_the_maximum_active(tiny: Splits) -> None:
    trial = smallest_trial("amsgrad", model=TOY)
    slow, fast = (Training(replace(trial, hyper=replace(trial.hyper, beta2=beta2)), tiny) for beta2 in (1 - 1e-7, 0.1))
    for training in (slow, fast):
        epochs(training, 1)
    # A moment that hardly forgets only grows, so it is its own maximum.
    assert slow.max_active() == 0.0
    active = fast.max_active()
    assert active is not None
    assert 0.3 < active <= 1


def test_loading_a_state_copies_it(tiny: Splits) -> None:
    trial = smallest_trial("amsgrad", model=TOY)
    first = Training(trial, tiny)
    epochs(first, 1)
    state = first.state()
    before = digest(state)
    second = Training(trial, tiny)
    second.load_state(state)
    epochs(second, 1)
    assert digest(state) == before


def test_the_same_trial_gives_the_same_bits_and_another_seed_gives_others(tiny: Splits) -> None:
    first, again, other = (Training(smallest_trial("adam_l2", seed=seed), tiny) for seed in (0, 0, 1))
    assert epochs(first, 2) == epochs(again, 2) != epochs(other, 2)
    assert digest(first.weights()) == digest(again.weights()) != digest(other.weights())


@pytest.mark.parametrize("augment", ["none", "flip_crop"])
def test_the_global_random_state_neither_changes_nor_matters(augment: str, tiny: Splits) -> None:
    trial, digests = smallest_trial("adam_l2", augment=augment, model=TOY), set()
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
            training = Training(trial, tiny)
            epochs(training, 2)
            training.evaluate("test")
            digests.add(digest(training.weights()))
            assert torch.equal(torch.get_rng_state(), before[0])
            assert (random.getstate(), str(np.random.get_state())) == before[1:]
    assert len(digests) == 1


def test_evaluating_on_test_changes_nothing(tiny: Splits, model_file: ModelFile) -> None:
    trial = smallest_trial("adam_l2", model=model_file("own_net_evaluated", OWN_MODEL))
    plain, evaluated = Training(trial, tiny), Training(trial, tiny)
    for _ in range(3):
        expected = epochs(plain, 1)
        assert evaluated.evaluate("test") == evaluated.evaluate("test")
        assert epochs(evaluated, 1) == expected
    assert equal(plain.state(), evaluated.state())


def test_an_evaluation_is_the_mean_over_all_images_of_a_split(tiny: Splits) -> None:
    training = Training(smallest_trial("adam_l2", model=TOY), tiny)
    images = tiny.val.images_BHWC.astype(np.float64)
    flat = tiny.train.images_BHWC.reshape(-1, 3).astype(np.float64)
    inputs = np.moveaxis((images - flat.mean(0)) / flat.std(0), -1, 1).astype(np.float32)
    with torch.no_grad():
        logits_BK = training.model.eval()(torch.from_numpy(inputs))
    labels_B = torch.from_numpy(tiny.val.labels_B)
    evaluation = training.evaluate("val")
    assert evaluation.loss == pytest.approx(F.cross_entropy(logits_BK, labels_B).item(), rel=1e-5)
    assert evaluation.acc == (logits_BK.argmax(1) == labels_B).sum().item() / 100


def batches_of(training: Training) -> list[Tensor]:
    """The image batches of the next epoch's updates."""
    seen: list[Tensor] = []

    def keep(model: nn.Module, args: tuple[Any, ...]) -> None:
        if model.training:
            seen.append(args[0].clone())

    handle = training.model.register_forward_pre_hook(keep)
    training.run_epoch()
    handle.remove()
    return seen


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_with_the_same_seed_start_equal_and_see_the_same_images_in_the_same_order(
    name: str, tiny: Splits
) -> None:
    ours, baselines = (
        Training(smallest_trial(variant, model=TOY, augment="flip_crop"), tiny) for variant in (name, "adam_l2")
    )
    assert equal(ours.weights(), baselines.weights())
    for _ in range(2):
        pairs = zip(batches_of(ours), batches_of(baselines), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_every_epoch_sees_every_image_once_in_a_new_order(tiny: Splits) -> None:
    training = Training(smallest_trial("adam_l2", model=TOY), tiny)
    first, second = (torch.cat(batches_of(training)) for _ in range(2))
    assert not torch.equal(first, second)
    assert sorted(map(hash_of, first)) == sorted(map(hash_of, second))
    assert len(first) == len(tiny.train)


def hash_of(image: Tensor) -> bytes:
    return image.contiguous().numpy().tobytes()


def test_a_last_batch_that_is_not_full_is_dropped(tiny: Splits) -> None:
    training = Training(smallest_trial("adam_l2", batch_size=60, model=TOY), tiny)
    assert training.plan.steps_per_epoch == 3
    assert [len(batch) for batch in batches_of(training)] == [60, 60, 60]


def test_a_batch_larger_than_the_training_set_is_refused(tiny: Splits) -> None:
    with pytest.raises(TrainableError, match="batch_size 201 is more than the 200 training images"):
        Training(smallest_trial("adam_l2", batch_size=201), tiny)


def test_bf16_trains_float32_weights(tiny: Splits) -> None:
    half, full = (Training(smallest_trial("adam_l2", FAST, precision=kind), tiny) for kind in ("bf16", "fp32"))
    halves, fulls = epochs(half, 3), epochs(full, 3)
    assert {value.dtype for value in half.weights().values()} == {torch.float32}
    assert halves != fulls
    assert [r.train_loss for r in halves] == pytest.approx([r.train_loss for r in fulls], rel=0.01)


# Failures.


@pytest.mark.parametrize("name", VARIANTS)
def test_a_learning_rate_that_blows_up_is_reported_as_diverged(name: str, tiny: Splits) -> None:
    report = Training(smallest_trial(name, {"lr": 1e30}), tiny).run_epoch()
    assert report.diverged is not None
    assert report.diverged.startswith(f"training loss is {report.train_loss}")


def test_a_loss_that_is_not_finite_only_in_validation_is_reported_as_diverged(
    tiny: Splits, model_file: ModelFile
) -> None:
    text = OWN_MODEL.replace("/ self.temperature", "+ (0 if self.training else float('nan'))")
    report = Training(smallest_trial("adam_l2", model=model_file("own_net_nan", text)), tiny).run_epoch()
    assert report.diverged == "validation loss is nan"


def kill_logits(training: Training) -> None:
    """Bring all logits to the ELU's minimum, -1: pixels are at least 0, and the first layer makes them negative."""
    assert isinstance(training.model, EluNet)
    first, *later = training.model.convolutions()
    with torch.no_grad():
        first.weight.fill_(-1e3)
        for conv in later:
            conv.weight.fill_(1e3)


def dead_training(name: str, splits: Splits, knobs: dict[str, Any] | None = None, batch_size: int = BATCH) -> Training:
    trial = smallest_trial(name, knobs, model=ARTICLE, normalize="minmax", batch_size=batch_size)
    training = Training(trial, splits)
    kill_logits(training)
    return training


@pytest.mark.parametrize("name", VARIANTS)
def test_dead_logits_are_reported_as_diverged_once_warmup_is_over(name: str, tiny: Splits) -> None:
    training = dead_training(name, tiny)
    reports = epochs(training, 3)
    assert [r.train_loss for r in reports] == pytest.approx([math.log(10)] * 3, abs=1e-6)
    flagged = [r.epoch for r in reports if r.diverged and r.diverged.startswith("dead logits: training loss is ln 10")]
    assert flagged == [epoch for epoch in (1, 2, 3) if epoch > training.schedule.warmup_epochs()]


def test_dead_logits_are_not_reported_during_a_warmup_of_two_epochs(tiny: Splits) -> None:
    reports = epochs(dead_training("noam", tiny, {"warmup": 2 * STEPS}), 3)
    assert [report.diverged is None for report in reports] == [True, True, False]


def test_dead_logits_are_recognised_in_an_epoch_of_many_updates(tiny: Splits) -> None:
    # A float32 sum of 450 equal losses has a larger error than the tolerance on their mean.
    many = Arrays(np.repeat(tiny.train.images_BHWC, 5, axis=0)[:450], np.repeat(tiny.train.labels_B, 5)[:450])
    report = dead_training("adam_l2", replace(tiny, train=many), batch_size=1).run_epoch()
    assert report.train_loss == pytest.approx(math.log(10), abs=1e-6)
    assert report.diverged is not None


def test_a_loss_that_stays_at_chance_while_gradients_flow_is_not_dead(tiny: Splits) -> None:
    training = Training(smallest_trial("adam_l2", {"lr": 1e-12, "l2": 0.0}), tiny)
    assert isinstance(training.model, EluNet)
    with torch.no_grad():
        training.model.convolutions()[-1].weight.zero_()
    report = training.run_epoch()
    assert report.train_loss == pytest.approx(math.log(10), abs=1e-6)
    assert report.diverged is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("build = 3", "is not a function that builds a model"),
        ("def build(classes, shape): return 3", "returned an object of type int, not a torch.nn.Module"),
        (
            "from torch import nn\ndef build(classes, shape): return nn.Flatten()",
            r"logits for 2 images must have shape \(2, 10\), not \(2, 3072\)",
        ),
        (
            "from torch import nn\nclass Two(nn.Module):\n    def forward(self, images): return images, images\n"
            "def build(classes, shape): return Two()",
            r"must have shape \(2, 10\), not tuple",
        ),
        ("def build(classes): return None", "raised TypeError: build.* takes 1 positional argument"),
        (
            "from torch import nn\ndef build(classes, shape): return nn.Linear(5, classes)",
            "raised RuntimeError: .*mat1 and mat2 shapes cannot be multiplied",
        ),
        ("", "has no attribute 'build'"),
    ],
)
def test_code_that_builds_no_model_is_refused(
    text: str, message: str, tiny: Splits, model_file: ModelFile, request: pytest.FixtureRequest
) -> None:
    model = model_file(f"no_model_{request.node.callspec.indices['text']}", text)
    with pytest.raises(CodeError, match=message):
        Training(smallest_trial("adam_l2", model=model), tiny)


def test_an_error_of_a_built_in_model_keeps_its_message() -> None:
    with pytest.raises(TrainableError, match=r"^elu_net takes images whose sides are multiples of 32") as refused:
        build_model(smallest_trial("adam_l2", model=NARROW), 10, (28, 28, 3))
    assert not isinstance(refused.value, CodeError)


def test_validation_images_are_never_augmented(tiny: Splits) -> None:
    training = Training(smallest_trial("adam_l2", model=TOY, augment="flip_crop"), tiny)
    assert asdict(training.evaluate("val")) == asdict(training.evaluate("val"))
    report = training.run_epoch()
    evaluation = training.evaluate("val")
    assert (report.val_loss, report.val_acc) == (evaluation.loss, evaluation.acc)


# Digests.


def test_a_digest_is_equal_only_if_every_bit_name_and_shape_is_equal() -> None:
    value = torch.zeros(2, 3)
    others = [
        {"a": torch.full((2, 3), -0.0)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3, dtype=torch.int32)},
        {"b": value},
        {"a": value, "b": value},
    ]
    assert digest({"a": value, "b": value}) == digest({"b": value.clone(), "a": value.clone()})
    assert len({digest({"a": value}), *map(digest, others)}) == 6


def test_a_digest_does_not_depend_on_the_memory_format() -> None:
    value = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert digest({"a": value}) == digest({"a": value.contiguous(memory_format=torch.channels_last)})


def test_a_cpus_name_contains_its_instruction_set() -> None:
    assert torch.backends.cpu.get_cpu_capability() in device_name(torch.device("cpu"))


# On a GPU.

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", VARIANTS)
def test_a_whole_trial_on_cuda_learns(name: str, tiny: Splits) -> None:
    training = Training(smallest_trial(name, FAST, batch_size=20, gpu=True), tiny, "cuda")
    losses = [report.train_loss for report in epochs(training, EPOCHS)]
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("augment", ["none", "flip_crop"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_checkpoint_resumes_bit_for_bit_on_cuda(name: str, augment: str, tiny: Splits) -> None:
    assert_resumes(smallest_trial(name, FAST, augment=augment, deterministic=True, gpu=True), tiny, "cuda")


@pytest.mark.gpu
@needs_cuda
def test_a_users_own_model_resumes_bit_for_bit_on_cuda(tiny: Splits, model_file: ModelFile) -> None:
    model = model_file("own_net_on_cuda", OWN_MODEL)  # matrix products, batch norm and dropout
    assert_resumes(smallest_trial("amsgrad", FAST, model=model, deterministic=True, gpu=True), tiny, "cuda")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", VARIANTS)
def test_cuda_and_cpu_come_to_the_same_losses(name: str, tiny: Splits) -> None:
    # Both see the same images in the same order. The GPU adds in another order and uses TF32 convolutions (10 bits).
    trial = smallest_trial(name, augment="flip_crop")
    on_cpu, on_cuda = (epochs(Training(trial, tiny, device), EPOCHS) for device in ("cpu", "cuda"))
    assert [r.train_loss for r in on_cuda] == pytest.approx([r.train_loss for r in on_cpu], rel=2e-3)
    assert [r.val_loss for r in on_cuda] == pytest.approx([r.val_loss for r in on_cpu], rel=2e-3)
