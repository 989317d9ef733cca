"""One trial's training: epochs, evaluation, and its state as tensors.

Every random stream is derived from (seed, epoch): torch's, and those of ``random`` and ``numpy.random``, from which a
user's own model may draw. So the weights, the optimizer's moments and the epoch are the whole state: nothing else
determines the next epochs. On CPU the results are equal bit for bit if the thread count and the
library versions are the same.

Legend: B batch, C H W image, K classes.
"""

import hashlib
import math
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.config import TrialConfig, derive_seed
from trainables.data.device import DeviceArrays, DeviceSplits
from trainables.data.splits import Splits
from trainables.errors import TrainableError
from trainables.own.updates import OwnUpdates
from trainables.report import EpochReport
from trainables.schedules import Schedule
from trainables.space import Plan
from trainables.training.net import Net, random_stream
from trainables.training.updates import Eager, Static, Updates, prefixed

EVALUATION_BATCH = 500
DEAD_LOSS_TOLERANCE = 1e-5
"""Float32 computes ln K to within 3e-6 for up to 1,000 classes."""

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy in nats and accuracy in [0, 1] over one split."""

    loss: float
    acc: float


class Training:
    """Trains one ``TrialConfig`` on ``splits``, one epoch at a time.

    Args:
        config: the trial.
        splits: the trial's data; if it is on a device already, the training uses that device.
        device: the training device for data that is not on a device yet.
        updates: the form of the updates; None selects it by the device and ``config``.

    Raises:
        TrainableError: there are fewer training images than one batch, or the settings do not fit the trial's length.
        CodeError: the model's code fails or does not return a model.
    """

    def __init__(
        self,
        config: TrialConfig,
        splits: Splits | DeviceSplits,
        device: str = "cpu",
        updates: type[Eager] | type[Static] | None = None,
    ) -> None:
        self.config = config
        self.data = DeviceSplits(splits, torch.device(device)) if isinstance(splits, Splits) else splits
        self.device = self.data.device
        self.plan = plan_of(config, len(self.data.train))
        self.epoch = 0
        self._net = Net(config, self.data)
        self.model = self._net.model
        kind = updates or _kind(config, self.device)
        self.updates: Updates = kind(self._net, self.data.train, config, Schedule(config.hyper, self.plan))

    @property
    def schedule(self) -> Schedule:
        """The learning rate and decay of every update."""
        return self.updates.schedule

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of the model's weights."""
        return self.updates.optimizer

    def run_epoch(self) -> EpochReport:
        """Train one epoch and evaluate on the validation images."""
        started = time.monotonic()
        with (
            random_stream(derive_seed(self.config.seed, "epoch", self.epoch), self.device),
            self._algorithms(),
        ):
            train = self._train_epoch()
            val = self.evaluate("val")
        self.epoch += 1
        last = self.epoch * self.plan.steps_per_epoch - 1
        return EpochReport(
            epoch=self.epoch,
            train_loss=train.loss,
            train_acc=train.acc,
            val_loss=val.loss,
            val_acc=val.acc,
            lr=self.schedule.lr(last),
            weight_decay=self.updates.weight_decay(last),
            seconds=time.monotonic() - started,
            diverged=self._diverged(train.loss, val.loss),
        )

    @torch.no_grad()
    def evaluate(self, split: Split) -> Evaluation:
        """Mean loss and accuracy over all images of a split, in large batches.

        A model that draws random numbers here too always draws the same ones for the same seed, epoch and split.
        """
        data: DeviceArrays = getattr(self.data, split)
        self.model.eval()
        loss = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device, dtype=torch.int64)
        seed = derive_seed(self.config.seed, "evaluation", self.epoch, split)
        with random_stream(seed, self.device), self._algorithms():
            for start in range(0, len(data), EVALUATION_BATCH):
                labels_B = data.labels_B[start : start + EVALUATION_BATCH]
                logits_BK = self._net.logits(data.images_BHWC[start : start + EVALUATION_BATCH])
                loss += F.cross_entropy(logits_BK, labels_B, reduction="sum")
                correct += (logits_BK.argmax(1) == labels_B).sum()
        return Evaluation(loss.item() / len(data), correct.item() / len(data))

    def state(self) -> dict[str, Tensor]:
        """Everything that determines the next epochs, as CPU tensors: weights, moments, epoch."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in self.updates.state().items()}
        tensors["epoch"] = torch.tensor(self.epoch)
        return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from the ``state()`` of a training with the same config.

        Raises:
            KeyError, RuntimeError: the state belongs to another model or to another optimizer.
        """
        self.model.load_state_dict(prefixed("model.", state))
        self.updates.load(prefixed("optimizer.", state))
        self.epoch = int(state["epoch"])

    def weights(self) -> dict[str, Tensor]:
        """The model's own tensors, on the CPU."""
        return {name: value.detach().cpu().contiguous().clone() for name, value in self.model.state_dict().items()}

    def max_active(self) -> float | None:
        """Share of the weights, in [0, 1], where AMSGrad's maximum is above the second moment now; None without it.

        AMSGrad divides by the maximum of all second moments so far (Reddi, Kale & Kumar 2018, arXiv:1904.09237). Where
        the second moment still grows it is its own maximum, and the update is Adam's.
        """
        if not self.config.hyper.amsgrad:
            return None
        # A parameter that is never trained has no state.
        states = [state for state in self.optimizer.state.values() if state]
        active = sum(int((state["max_exp_avg_sq"] > state["exp_avg_sq"]).sum()) for state in states)
        return active / max(1, sum(int(state["exp_avg_sq"].numel()) for state in states))

    def _train_epoch(self) -> Evaluation:
        self.model.train()
        self.updates.run_epoch(self.epoch)
        sums, steps = self.updates.sums, self.plan.steps_per_epoch
        return Evaluation(sums.loss.item() / steps, sums.correct.item() / (steps * self.config.batch_size))

    def _diverged(self, train_loss: float, val_loss: float) -> str | None:
        if not math.isfinite(train_loss):
            return f"training loss is {train_loss}"
        if not math.isfinite(val_loss):
            return f"validation loss is {val_loss}"
        at_chance = abs(train_loss - math.log(self.data.classes)) < DEAD_LOSS_TOLERANCE
        if at_chance and self.epoch > self.schedule.warmup_epochs() and self.updates.sums.largest_gradient.item() == 0:
            return f"dead logits: training loss is ln {self.data.classes} and every gradient was zero for an epoch"
        return None

    @contextmanager
    def _algorithms(self) -> Iterator[None]:
        # CPU kernels give the same bits for the same thread count; only CUDA needs the setting.
        before = torch.are_deterministic_algorithms_enabled()
        wanted = self.config.deterministic and self.device.type == "cuda"
        if wanted:
            # cuBLAS reads this variable at its first use. Older versions of torch refuse deterministic mode without it.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(wanted)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def _kind(config: TrialConfig, device: torch.device) -> type[Eager] | type[Static]:
    if config.optimizer is not None:
        # A user's own optimizer may read numbers from the device, so its updates are never captured.
        return OwnUpdates
    return Static if device.type == "cuda" and config.cuda_graph else Eager


def plan_of(config: TrialConfig, train_images: int) -> Plan:
    """The trial's planned length; a last batch that is not full is dropped.

    Raises:
        TrainableError: there are fewer training images than one batch.
    """
    if train_images < config.batch_size:
        raise TrainableError(f"batch_size {config.batch_size} is more than the {train_images} training images")
    return Plan(config.epochs, train_images // config.batch_size)


def digest(tensors: dict[str, Tensor]) -> str:
    """The sha256 of names, shapes, types and bytes; it is equal if and only if every bit is equal."""
    running = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        running.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        running.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return running.hexdigest()


def device_name(device: torch.device) -> str:
    """The hardware that determines the result's bits: the GPU's name, or the processor's instruction set and name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()} {_processor()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
