"""Updates that a CUDA graph can capture give the same results as eager ones, and the preparation changes nothing."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainables.small import TOY, smallest_trial
from trainables.config import ModelConfig, TrialConfig
from trainables.data.splits import Splits
from trainables.report import EpochReport
from trainables.schedules import Schedule
from trainables.training.cuda_graph import NotCapturable, warm_up
from trainables.training.trainer import Training, digest
from trainables.training.updates import Eager, Static
from trainables.variants import VARIANTS

Kind = type[Eager] | type[Static]
KNOBS = {"lr": 1e-2}
ROUNDING = 1e-5
"""Relative tolerance for weights and losses: the static form rounds the learning rate to float32."""


@dataclass(frozen=True)
class Wavy(Schedule):
    """A learning rate and a decay that change at every update; if ``exact``, float32 represents the rates exactly."""

    exact: bool = False

    def lr(self, step: int) -> float:
        lr = super().lr(step) * (1 + 0.3 * math.sin(step))
        return float(np.float32(lr)) if self.exact else lr

    def weight_decay(self, step: int) -> float:
        return super().weight_decay(step) * (1 + 0.3 * math.cos(step))


def waving(trial: TrialConfig, splits: Splits, kind: Kind, device: str = "cpu", exact: bool = False) -> Training:
    training = Training(trial, splits, device, kind)
    training.updates.schedule = Wavy(trial.hyper, training.plan, exact)
    return training


def after_every_update(training: Training, epochs: int) -> list[dict[str, Tensor]]:
    """Weights and moments after each update. Not for captured updates: the replay of a graph calls no hooks."""
    seen: list[dict[str, Tensor]] = []
    training.optimizer.register_step_post_hook(lambda *_: seen.append(training.state()))
    for _ in range(epochs):
        training.run_epoch()
    return seen


def trial_of(name: str, **changes: Any) -> TrialConfig:
    return smallest_trial(name, KNOBS, **{"augment": "flip_crop", "epochs": 3, **changes})


@pytest.mark.parametrize("model", ["toy", "elu_net"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_update_has_the_bits_of_the_eager_one_if_float32_represents_the_rates(
    name: str, model: str, tiny: Splits
) -> None:
    trial = trial_of(name, **({"model": TOY} if model == "toy" else {}))
    eager, static = (after_every_update(waving(trial, tiny, kind, exact=True), 3) for kind in (Eager, Static))
    assert len(eager) == 12
    assert [digest(state) for state in static] == [digest(state) for state in eager]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_update_equals_the_eager_one_up_to_the_rounding_of_the_rates(
    name: str, precision: str, tiny: Splits
) -> None:
    trial = trial_of(name, model=TOY, precision=precision, augment="none")
    eager, static = (after_every_update(waving(trial, tiny, kind), 3) for kind in (Eager, Static))
    # A value that bfloat16 rounds in the other direction differs by 1/256.
    tolerance = ROUNDING if precision == "fp32" else 1e-2
    for ours, theirs in zip(static, eager, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=tolerance, atol=tolerance * 1e-2)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_report_equals_the_eager_report(name: str, tiny: Splits) -> None:
    trial = trial_of(name, model=TOY)
    eager, static = (reports(waving(trial, tiny, kind, exact=True), 3) for kind in (Eager, Static))
    assert static == eager


def reports(training: Training, count: int) -> list[EpochReport]:
    return [replace(training.run_epoch(), seconds=0.0) for _ in range(count)]


@pytest.mark.parametrize("kinds", [(Static, Static), (Static, Eager), (Eager, Static)])
@pytest.mark.parametrize("name", VARIANTS)
def test_either_form_resumes_from_a_state_of_either(name: str, kinds: tuple[Kind, Kind], tiny: Splits) -> None:
    trial = trial_of(name, model=TOY)
    first, second = kinds
    whole = waving(trial, tiny, first, exact=True)
    reports(whole, 1)
    resumed = waving(trial, tiny, second, exact=True)
    resumed.load_state(whole.state())
    assert reports(resumed, 2) == reports(whole, 2)
    assert digest(resumed.state()) == digest(whole.state())


def test_training_continues_from_a_state_that_is_loaded_in_the_middle(tiny: Splits) -> None:
    trial = trial_of("amsgrad", model=TOY)
    static = waving(trial, tiny, Static)
    reports(static, 1)
    state, expected = static.state(), reports(static, 2)
    static.load_state(state)
    assert reports(static, 2) == expected


class NoNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what makes the host wait for a device: reading a number, and shapes that depend on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", VARIANTS)
def test_an_update_reads_no_number_from_the_device(name: str, tiny: Splits) -> None:
    static = Training(trial_of(name), tiny, updates=Static)
    reports(static, 1)
    assert isinstance(static.updates, Static)
    static.model.train()
    static.updates._step_1.zero_()  # the last update moved it beyond the epoch
    with NoNumbers():  # type: ignore[no-untyped-call]
        static.updates.update()


def test_reading_a_number_is_detected() -> None:
    with NoNumbers(), pytest.raises(AssertionError):  # type: ignore[no-untyped-call]
        torch.ones(()).item()


# Preparing a graph.


def with_norm(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, classes))


def with_dropout(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(with_norm(classes, shape), nn.Dropout(0.5))


class Reading(nn.Module):
    """Reads a number from the device in its forward pass."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.body(images_BCHW)
        return logits_BK * (1.0 if logits_BK.sum().item() > 0 else 0.9)


def reading(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    return Reading(with_norm(classes, shape))


class Drawing(Reading):
    """Draws a random number on the host in its forward pass."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.body(images_BCHW)
        return logits_BK * torch.rand(()).item()


def drawing(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    return Drawing(with_norm(classes, shape))


NORM, DROPOUT, READING, DRAWING = (
    ModelConfig(f"tests.trainables.training.test_updates:{name}")
    for name in ("with_norm", "with_dropout", "reading", "drawing")
)


def warm(training: Training) -> None:
    updates = training.updates
    assert isinstance(updates, Static)
    training.model.train()
    changed = [*updates.sums.tensors(), updates._lr, updates._step_1]
    updates._step_1.zero_()
    warm_up(updates.update, training.model, training.optimizer, changed, training.device)


@pytest.mark.parametrize("epochs_before", [0, 2])
@pytest.mark.parametrize("name", VARIANTS)
def test_warming_up_does_not_change_weights_buffers_moments_and_random_state(
    name: str, epochs_before: int, tiny: Splits
) -> None:
    trial = trial_of(name, model=NORM, epochs=4)
    plain, warmed = (Training(trial, tiny, updates=Static) for _ in range(2))
    assert reports(plain, epochs_before) == reports(warmed, epochs_before)
    assert isinstance(warmed.updates, Static)
    warmed.updates._inputs = warmed.updates._made(epochs_before)
    addresses = [tensor.data_ptr() for tensor in warmed.model.state_dict().values()]
    random_state = torch.get_rng_state()
    warm(warmed)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [tensor.data_ptr() for tensor in warmed.model.state_dict().values()] == addresses
    assert warmed.updates._step_1.item() == 0
    assert reports(warmed, 2) == reports(plain, 2)
    assert digest(warmed.state()) == digest(plain.state())


@pytest.mark.parametrize("model", [DROPOUT, DRAWING])
def test_a_model_that_draws_on_the_host_is_not_captured(model: ModelConfig, tiny: Splits) -> None:
    training = Training(trial_of("amsgrad", model=model), tiny, updates=Static)
    reports(training, 1)
    before = digest(training.state())
    with pytest.raises(NotCapturable, match="draws random numbers on the host"):
        warm(training)  # on a CPU, the host also draws the numbers of dropout
    assert digest(training.state()) == before


# On a GPU.

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
EAGER_ON_CUDA = 2e-4
"""Relative tolerance for losses: kernels add in another order from run to run, and the rates are rounded."""


UNCAPTURED = pytest.mark.filterwarnings("ignore:.*capturable")
"""Torch warns about an optimizer that could be captured and is not."""


@contextmanager
def one_warning(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "trainables.training.cuda_graph"):
        yield
    assert [record.message.partition(":")[0] for record in caplog.records] == ["warning"]


def is_captured(training: Training) -> bool:
    updates = training.updates
    return isinstance(updates, Static) and updates._launch not in (None, updates.update)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_graph_gives_the_eager_losses_while_rates_and_decay_change(name: str, precision: str, tiny: Splits) -> None:
    trial = trial_of(name, precision=precision, deterministic=True, gpu=True)
    graph, eager = (waving(trial, tiny, kind, "cuda", exact=True) for kind in (Static, Eager))
    ours, theirs = reports(graph, 3), reports(eager, 3)
    assert is_captured(graph)
    tolerance = EAGER_ON_CUDA if precision == "fp32" else 1e-2
    for key in ("train_loss", "val_loss"):
        expected = pytest.approx([getattr(report, key) for report in theirs], rel=tolerance)
        assert [getattr(report, key) for report in ours] == expected


@pytest.mark.gpu
@needs_cuda
@UNCAPTURED
@pytest.mark.parametrize("model", [None, DROPOUT])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_epoch_of_replays_has_the_bits_of_the_same_updates_without_a_graph(
    name: str, model: ModelConfig | None, tiny: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial_of(name, deterministic=True, gpu=True, **({"model": model} if model else {}))
    states = []
    for captured in (True, False):
        training = waving(trial, tiny, Static, "cuda")
        with nullcontext() if captured else monkeypatch.context() as patch:
            if patch is not None:
                patch.setattr(Static, "_captured", lambda self: self.update)
            rows = []
            for _ in range(3):
                reports(training, 1)
                rows.append(digest(training.state()))
        assert is_captured(training) == captured
        states.append(rows)
    assert states[0] == states[1]


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", VARIANTS)
def test_a_captured_trial_resumes_bit_for_bit_in_the_same_object_and_in_another(name: str, tiny: Splits) -> None:
    trial = trial_of(name, deterministic=True, gpu=True)
    whole = waving(trial, tiny, Static, "cuda")
    reports(whole, 1)
    state, expected = whole.state(), reports(whole, 2)
    final = digest(whole.state())
    for training in (whole, waving(trial, tiny, Static, "cuda")):
        training.load_state(state)
        assert reports(training, 2) == expected
        assert digest(training.state()) == final


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("model", [READING, DRAWING])
def test_a_model_that_cannot_be_captured_is_trained_without_a_graph_after_one_warning(
    model: ModelConfig, tiny: Splits, caplog: pytest.LogCaptureFixture
) -> None:
    trial = trial_of("adamw", model=model, deterministic=True, gpu=True)
    with one_warning(caplog):
        static = waving(trial, tiny, Static, "cuda", exact=True)
        ours = reports(static, 3)
    assert not is_captured(static)
    assert all(math.isfinite(report.train_loss) for report in ours)
    if model is READING:
        theirs = reports(waving(trial, tiny, Eager, "cuda", exact=True), 3)
        expected = pytest.approx([report.train_loss for report in theirs], rel=EAGER_ON_CUDA)
        assert [report.train_loss for report in ours] == expected


@pytest.mark.gpu
@needs_cuda
@UNCAPTURED
def test_a_device_can_still_train_after_a_failed_capture(
    tiny: Splits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # This acts like a library that waits for the device unnoticed by torch.
    monkeypatch.setattr("trainables.training.cuda_graph._syncs_refused", nullcontext)
    trial = trial_of("adamw", model=READING, gpu=True)
    with one_warning(caplog):
        assert not is_captured_after(waving(trial, tiny, Static, "cuda"))
    assert is_captured_after(waving(replace(trial, model=DROPOUT), tiny, Static, "cuda"))


def is_captured_after(training: Training) -> bool:
    reports(training, 2)
    return is_captured(training)


@pytest.mark.gpu
@needs_cuda
def test_the_setting_cuda_graph_selects_the_form_of_the_updates(tiny: Splits) -> None:
    kinds = [type(Training(trial_of("adamw", gpu=True, cuda_graph=on), tiny, "cuda").updates) for on in (True, False)]
    assert kinds == [Static, Eager]
