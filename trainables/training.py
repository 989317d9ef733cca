"""One trial's training: epochs, evaluation, and its state as tensors.

Every random stream is derived from (seed, epoch), so the state is the weights, the optimizer's moments and the
epoch: nothing else decides what comes next. On CPU the bits are the same for the same thread count and versions.

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
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.catalog import MODELS, is_dotted, load_object
from trainables.config import TrialConfig, derive_seed
from trainables.data.normalize import constants
from trainables.data.splits import Arrays, Splits
from trainables.errors import CodeError, TrainableError
from trainables.hyper import Hyper
from trainables.schedules import Schedule
from trainables.space import Plan

EVALUATION_BATCH = 500
CROP_PADDING = 4
DEAD_LOSS_TOLERANCE = 1e-5
"""Float32 gives ln K to within 3e-6 for up to 1,000 classes."""

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class EpochReport:
    """What one epoch came to.

    Args:
        epoch: epochs done, from 1.
        train_loss, train_acc: running means over the epoch while the weights moved; loss in nats, accuracy in [0, 1].
        val_loss, val_acc: on the validation images after the epoch.
        lr, weight_decay: of the epoch's last update.
        seconds: wall time of the epoch, evaluation included.
        diverged: why the trial can be given up, or None.
    """

    epoch: int
    train_loss: float
    train_acc: float
    val_loss: float
    val_acc: float
    lr: float
    weight_decay: float
    seconds: float
    diverged: str | None


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy in nats and accuracy in [0, 1] over one split."""

    loss: float
    acc: float


class Training:
    """Trains one ``TrialConfig`` on ``splits``, an epoch at a time.

    Raises:
        TrainableError: fewer training images than one batch, or settings that do not fit the trial's length.
        CodeError: the model's code fails or gives no model.
    """

    def __init__(self, config: TrialConfig, splits: Splits, device: str = "cpu") -> None:
        self.config = config
        self.device = torch.device(device)
        self.plan = plan_of(config, len(splits.train.labels_B))
        self.schedule = Schedule(config.hyper, self.plan)
        self.classes = splits.num_classes
        self.epoch = 0
        self._splits = {name: _Loaded(getattr(splits, name), self.device) for name in ("train", "val", "test")}
        shift, scale = constants(splits.train.images_BHWC, config.normalize)
        self._shift_CHW = torch.from_numpy(shift).to(self.device)
        self._scale_CHW = torch.from_numpy(scale).to(self.device)
        model = build_model(config, self.classes, splits.train.images_BHWC.shape[1:])
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(config.hyper, self.model)

    def run_epoch(self) -> EpochReport:
        """Train one epoch and evaluate on the validation images."""
        started = time.monotonic()
        with (
            _random_stream(derive_seed(self.config.seed, "epoch", self.epoch), self.device),
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
            weight_decay=self.schedule.weight_decay(last),
            seconds=time.monotonic() - started,
            diverged=self._diverged(train.loss, val.loss),
        )

    @torch.no_grad()
    def evaluate(self, split: Split) -> Evaluation:
        """Mean loss and accuracy over all images of a split, in large batches."""
        data = self._splits[split]
        self.model.eval()
        loss = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device, dtype=torch.int64)
        with self._algorithms():
            for start in range(0, len(data.labels_B), EVALUATION_BATCH):
                labels_B = data.labels_B[start : start + EVALUATION_BATCH]
                logits_BK = self._logits(data.images_BHWC[start : start + EVALUATION_BATCH])
                loss += F.cross_entropy(logits_BK, labels_B, reduction="sum")
                correct += (logits_BK.argmax(1) == labels_B).sum()
        return Evaluation(loss.item() / len(data.labels_B), correct.item() / len(data.labels_B))

    def state(self) -> dict[str, Tensor]:
        """Everything that decides the epochs to come, as CPU tensors: weights, moments, epoch."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, parameter in enumerate(self.model.parameters()):
            for name, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{index}.{name}"] = value
        tensors["epoch"] = torch.tensor(self.epoch)
        return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from ``state()`` of a training of the same config."""
        model = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
        self.model.load_state_dict(model)
        for index, parameter in enumerate(self.model.parameters()):
            prefix = f"optimizer.{index}."
            self.optimizer.state[parameter] = {
                name.removeprefix(prefix): _laid_out_as(parameter, value)
                for name, value in state.items()
                if name.startswith(prefix)
            }
        self.epoch = int(state["epoch"])

    def weights(self) -> dict[str, Tensor]:
        """The model's own tensors, on the CPU."""
        return {name: value.detach().cpu().contiguous().clone() for name, value in self.model.state_dict().items()}

    def _train_epoch(self) -> Evaluation:
        data = self._splits["train"]
        self.model.train()
        order_B = torch.randperm(len(data.labels_B)).to(self.device)
        # In float32 the mean of 450 equal losses is off by 1e-5: too much to tell that they are ln K.
        loss_sum = torch.zeros((), device=self.device, dtype=torch.float64)
        correct = torch.zeros((), device=self.device, dtype=torch.int64)
        self._largest_gradient = torch.zeros((), device=self.device)
        batch, steps = self.config.batch_size, self.plan.steps_per_epoch
        for index in range(steps):
            chosen_B = order_B[index * batch : (index + 1) * batch]
            labels_B = data.labels_B[chosen_B]
            logits_BK = self._logits(augmented(data.images_BHWC[chosen_B], self.config.augment))
            loss = F.cross_entropy(logits_BK, labels_B)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._update(self.epoch * steps + index)
            loss_sum += loss.detach()
            correct += (logits_BK.detach().argmax(1) == labels_B).sum()
        return Evaluation(loss_sum.item() / steps, correct.item() / (steps * batch))

    def _update(self, step: int) -> None:
        lr, decay = self.schedule.lr(step), self.schedule.weight_decay(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            if self.config.hyper.lambda_norm and group["decayed"]:
                group["weight_decay"] = decay
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients, norm_type=math.inf)
        self._largest_gradient = torch.maximum(self._largest_gradient, norm)
        self.optimizer.step()

    def _logits(self, images_BHWC: Tensor) -> Tensor:
        # A contiguous BHWC batch, permuted, is a channels_last BCHW one: no copy.
        images_BCHW = (images_BHWC.permute(0, 3, 1, 2).float() - self._shift_CHW) * self._scale_CHW
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            logits_BK: Tensor = self.model(images_BCHW)
        return logits_BK.float()

    def _diverged(self, train_loss: float, val_loss: float) -> str | None:
        if not math.isfinite(train_loss):
            return f"training loss is {train_loss}"
        if not math.isfinite(val_loss):
            return f"validation loss is {val_loss}"
        at_chance = abs(train_loss - math.log(self.classes)) < DEAD_LOSS_TOLERANCE
        if at_chance and self.epoch > self.schedule.warmup_epochs() and self._largest_gradient.item() == 0:
            return f"dead logits: training loss is ln {self.classes} and every gradient was zero for an epoch"
        return None

    @contextmanager
    def _algorithms(self) -> Iterator[None]:
        # CPU kernels give the same bits for the same thread count; only CUDA has to be asked.
        before = torch.are_deterministic_algorithms_enabled()
        wanted = self.config.deterministic and self.device.type == "cuda"
        if wanted:
            # cuBLAS reads it when it is first used, and older torch refuses to be deterministic without it.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(wanted)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


class _Loaded:
    """One split's uint8 images and labels on the device."""

    def __init__(self, arrays: Arrays, device: torch.device) -> None:
        self.images_BHWC = torch.from_numpy(arrays.images_BHWC).to(device)
        self.labels_B = torch.from_numpy(arrays.labels_B).to(device)


def plan_of(config: TrialConfig, train_images: int) -> Plan:
    """The trial's planned length; a last batch that is not full is dropped.

    Raises:
        TrainableError: there are fewer training images than one batch.
    """
    if train_images < config.batch_size:
        raise TrainableError(f"batch_size {config.batch_size} is more than the {train_images} training images")
    return Plan(config.epochs, train_images // config.batch_size)


def build_model(config: TrialConfig, classes: int, image_shape_HWC: tuple[int, ...]) -> nn.Module:
    """The net with the initial weights of ``config.seed``; leaves the global random state as it was.

    Raises:
        CodeError: the dotted path gives no ``nn.Module``, the module does not give one row of logits an image, or
            its code raised.
    """
    height, width, channels = image_shape_HWC
    path = config.model.name if is_dotted(config.model.name) else MODELS[config.model.name]
    build = load_object(path)
    if not callable(build):
        raise CodeError(f"{path} is no function that builds a model")
    with _random_stream(derive_seed(config.seed, "initial weights"), torch.device("cpu")):
        try:
            model = build(classes, (channels, height, width), **config.model.options)
            if not isinstance(model, nn.Module):
                raise CodeError(f"{path} gave a {type(model).__name__}, not a torch.nn.Module")
            _check_logits(model, path, classes, (channels, height, width))
        except TrainableError:
            raise
        except Exception as error:
            message = f"{path} raised {type(error).__name__}: {' '.join(str(error).split())}"
            raise CodeError(message) from error
    return model


def build_optimizer(hyper: Hyper, model: nn.Module) -> torch.optim.Adam:
    """torch's Adam, AMSGrad or AdamW; only weights of two dimensions or more are decayed, not biases and norms."""
    weights = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": weights, "weight_decay": hyper.l2, "decayed": True},
        {"params": others, "weight_decay": 0.0, "decayed": False},
    ]
    kind = torch.optim.AdamW if hyper.lambda_norm else torch.optim.Adam
    return kind(
        [group for group in groups if group["params"]],
        lr=hyper.lr,
        betas=(hyper.beta1, hyper.beta2),
        eps=hyper.eps,
        amsgrad=hyper.amsgrad,
        fused=True,
    )


def augmented(images_BHWC: Tensor, kind: str) -> Tensor:
    """``flip_crop``: each image mirrored with chance 1/2 and shifted by up to 4 pixels, black coming in.

    Draws from torch's global CPU stream, whatever the images' device, so that CPU and GPU see the same images.
    """
    if kind == "none":
        return images_BHWC
    batch, height, width, _ = images_BHWC.shape
    device = images_BHWC.device
    flip_B = (torch.rand(batch) < 0.5).to(device)
    images_BHWC = torch.where(flip_B[:, None, None, None], images_BHWC.flip(2), images_BHWC)
    padded_BHWC = F.pad(images_BHWC, (0, 0, CROP_PADDING, CROP_PADDING, CROP_PADDING, CROP_PADDING))
    top_B = torch.randint(0, 2 * CROP_PADDING + 1, (batch,)).to(device)
    left_B = torch.randint(0, 2 * CROP_PADDING + 1, (batch,)).to(device)
    rows_BH = top_B[:, None] + torch.arange(height, device=device)
    columns_BW = left_B[:, None] + torch.arange(width, device=device)
    image_B = torch.arange(batch, device=device)
    return padded_BHWC[image_B[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :]]


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, shapes and bytes: equal if and only if every bit is."""
    running = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        running.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        running.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return running.hexdigest()


def device_name(device: torch.device) -> str:
    """The hardware whose kernels decide the bits: the GPU's name, or the processor's instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()} {_processor()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


@contextmanager
def _random_stream(seed: int, device: torch.device) -> Iterator[None]:
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _check_logits(model: nn.Module, path: str, classes: int, shape_CHW: tuple[int, int, int]) -> None:
    model.eval()
    with torch.no_grad():
        logits_BK = model(torch.zeros(2, *shape_CHW))
    if not isinstance(logits_BK, Tensor) or logits_BK.shape != (2, classes):
        got = tuple(logits_BK.shape) if isinstance(logits_BK, Tensor) else type(logits_BK).__name__
        raise CodeError(f"{path}: logits for 2 images must have shape (2, {classes}), not {got}")


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """The optimizer's tensor laid out as the parameter; its step count on the same device, where fused Adam has it."""
    if value.shape != parameter.shape:
        return value.to(parameter.device, copy=True)
    return torch.empty_like(parameter).copy_(value).detach()
