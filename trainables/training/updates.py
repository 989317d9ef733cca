"""Updates of the weights in two equivalent forms: eager updates, and updates that a CUDA graph can capture.

``Eager`` is the reference: Python supplies the inputs of each update, one update after the other. ``Static`` keeps the
inputs in tensors with a fixed place on the device and fills them once per epoch. No update then waits for the host, so
an update can be captured and replayed. docs/numerics.md lists where the two forms may differ, and by how much.

Legend: B batch, K classes, T updates of an epoch.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import TrialConfig, derive_seed
from trainables.data.device import DeviceArrays
from trainables.hyper import Hyper
from trainables.schedules import Schedule
from trainables.training.augment import Draws, draw, flip_crop
from trainables.training.cuda_graph import captured
from trainables.training.net import Net


class Sums:
    """The sums over an epoch's updates, on the device; they are read only after the epoch."""

    def __init__(self, device: torch.device) -> None:
        # In float32 the mean of 450 equal losses has an error of 1e-5, too much to recognise a loss of ln K.
        self.loss = torch.zeros((), device=device, dtype=torch.float64)
        self.correct = torch.zeros((), device=device, dtype=torch.int64)
        self.largest_gradient = torch.zeros((), device=device)

    def tensors(self) -> list[Tensor]:
        """All sums."""
        return [self.loss, self.correct, self.largest_gradient]


class Updates(ABC):
    """Runs a trial's updates, one epoch at a time.

    Args:
        net: the model to train.
        data: the training images.
        config: the trial.
        schedule: the trial's learning rate and decay.
        optimizer: the optimizer of the model's weights.
    """

    def __init__(
        self, net: Net, data: DeviceArrays, config: TrialConfig, schedule: Schedule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.net = net
        self.schedule = schedule
        self.optimizer = optimizer
        self.sums = Sums(net.device)
        self._data = data
        self._config = config
        self._steps = schedule.plan.steps_per_epoch
        self._augments = config.augment == "flip_crop"

    def run_epoch(self, epoch: int) -> None:
        """Update the weights with every batch of ``epoch`` (from 0); ``sums`` then contains the sums of this epoch."""
        for tensor in self.sums.tensors():
            tensor.zero_()
        self._run(epoch)

    def weight_decay(self, step: int) -> float:
        """The decay of the update that follows ``step`` updates, for the report of an epoch."""
        return self.schedule.weight_decay(step)

    def state(self) -> dict[str, Tensor]:
        """The optimizer's state: the tensors that the next updates change, under names of their own."""
        return {
            f"{index}.{name}": value
            for index, parameter in enumerate(self.net.model.parameters())
            for name, value in self.optimizer.state[parameter].items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue with a ``state()``; its tensors are copied.

        Raises:
            RuntimeError: the state belongs to another model or to another optimizer.
        """
        for index, parameter in enumerate(self.net.model.parameters()):
            moments = prefixed(f"{index}.", state)
            if any(value.shape not in (parameter.shape, torch.Size()) for value in moments.values()):
                raise RuntimeError("a moment has another shape than its parameter")
            self.optimizer.state[parameter] = {name: _laid_out_as(parameter, value) for name, value in moments.items()}

    @abstractmethod
    def _run(self, epoch: int) -> None: ...

    def _images(self, chosen_B: Tensor, draws: Draws | None) -> Tensor:
        images_BHWC = self._data.images_BHWC[chosen_B]
        return images_BHWC if draws is None else flip_crop(images_BHWC, draws)

    def _gradients(self, chosen_B: Tensor, draws: Draws | None) -> None:
        labels_B = self._data.labels_B[chosen_B]
        logits_BK = self.net.logits(self._images(chosen_B, draws))
        loss = F.cross_entropy(logits_BK, labels_B)
        self.net.model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.net.model.parameters() if p.grad is not None]
        largest = nn.utils.get_total_norm(gradients, norm_type=math.inf)
        sums = self.sums
        torch.maximum(sums.largest_gradient, largest, out=sums.largest_gradient)
        sums.loss += loss.detach()
        sums.correct += (logits_BK.detach().argmax(1) == labels_B).sum()


class Eager(Updates):
    """The reference: draws from torch's global CPU stream, learning rate and decay from Python, torch's own AdamW."""

    def __init__(self, net: Net, data: DeviceArrays, config: TrialConfig, schedule: Schedule) -> None:
        super().__init__(net, data, config, schedule, self._built(config, net.model))

    def _run(self, epoch: int) -> None:
        batch = self._config.batch_size
        order_B = torch.randperm(len(self._data)).to(self.net.device)
        for index in range(self._steps):
            self._gradients(order_B[index * batch : (index + 1) * batch], self._drawn())
            self._set(epoch * self._steps + index)
            self.optimizer.step()

    def _built(self, config: TrialConfig, model: nn.Module) -> torch.optim.Optimizer:
        kind = torch.optim.AdamW if config.hyper.lambda_norm else torch.optim.Adam
        return build_optimizer(kind, config.hyper, model)

    def _drawn(self) -> Draws | None:
        config = self._config
        return draw(config.batch_size, shift=config.shift).to(self.net.device) if self._augments else None

    def _set(self, step: int) -> None:
        lr, decay = self.schedule.lr(step), self.schedule.weight_decay(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            if self._config.hyper.lambda_norm and group["decayed"]:
                group["weight_decay"] = decay


@dataclass(frozen=True)
class _Inputs:
    """The inputs of an epoch's updates, one row per update: first on the host, then at a fixed place on the device."""

    order_TB: Tensor
    flip_TB: Tensor
    top_TB: Tensor
    left_TB: Tensor
    lr_T: Tensor
    keep_T: Tensor
    """The factor of each update on the decayed weights: 1 - lr * decay."""

    def tensors(self) -> list[Tensor]:
        return [self.order_TB, self.flip_TB, self.top_TB, self.left_TB, self.lr_T, self.keep_T]

    def to(self, device: torch.device) -> "_Inputs":
        return _Inputs(*(tensor.to(device, copy=True) for tensor in self.tensors()))

    def fill(self, others: "_Inputs") -> None:
        for tensor, other in zip(self.tensors(), others.tensors(), strict=True):
            tensor.copy_(other)


class Static(Updates):
    """Updates that a CUDA graph can capture: on CUDA they are replayed, on other devices they run directly.

    The learning rate is a tensor, and decoupled decay is a multiplication before Adam's own step. Both can therefore
    change from one replay to the next.
    """

    def __init__(self, net: Net, data: DeviceArrays, config: TrialConfig, schedule: Schedule) -> None:
        self._lr = torch.zeros((), device=net.device)
        optimizer = build_optimizer(torch.optim.Adam, config.hyper, net.model, self._lr)
        super().__init__(net, data, config, schedule, optimizer)
        self._step_1 = torch.zeros(1, dtype=torch.int64, device=net.device)
        self._ahead: tuple[int, _Inputs] | None = None
        self._inputs: _Inputs | None = None
        self._launch: Callable[[], None] | None = None

    def load(self, state: dict[str, Tensor]) -> None:
        """Load as every form does, and drop the captured graph: it uses the earlier tensors."""
        super().load(state)
        self._launch = None

    def _run(self, epoch: int) -> None:
        made, host = self._ahead or (-1, None)
        if host is None or made != epoch:
            host = self._made(epoch)
        if self._inputs is None:
            self._inputs = host.to(self.net.device)
        else:
            self._inputs.fill(host)
        self._step_1.zero_()
        if self._launch is None:
            self._launch = self._captured()
        for _ in range(self._steps):
            self._launch()
        if epoch + 1 < self._config.epochs:
            # Make the next epoch's inputs now, while the device still runs the launched updates.
            self._ahead = epoch + 1, self._made(epoch + 1)

    def update(self) -> None:
        """Run the next update; no operation in it reads a number from the device."""
        assert self._inputs is not None, "an epoch has begun"
        order_B, flip_B, top_B, left_B, lr, keep = (
            tensor.index_select(0, self._step_1)[0] for tensor in self._inputs.tensors()
        )
        self._gradients(order_B, self._draws(flip_B, top_B, left_B))
        self._lr.copy_(lr)
        if self._config.hyper.lambda_norm:
            self._decay(keep)
        self.optimizer.step()
        self._step_1 += 1

    def _draws(self, flip_B: Tensor, top_B: Tensor, left_B: Tensor) -> Draws | None:
        return Draws(flip_B, top_B, left_B, self._config.shift) if self._augments else None

    def _captured(self) -> Callable[[], None]:
        if self.net.device.type != "cuda":
            return self.update
        changed = [*self.sums.tensors(), self._lr, self._step_1]
        return captured(self.update, self.net.model, self.optimizer, changed, self.net.device)

    @torch.no_grad()
    def _decay(self, keep: Tensor) -> None:
        for group in self.optimizer.param_groups:
            if group["decayed"]:
                torch._foreach_mul_([p for p in group["params"] if p.grad is not None], keep)

    def _made(self, epoch: int) -> _Inputs:
        """The inputs of an epoch, drawn as in ``Eager``: with the same seed and in the same order."""
        generator = torch.Generator().manual_seed(derive_seed(self._config.seed, "epoch", epoch))
        steps, batch, schedule = self._steps, self._config.batch_size, self.schedule
        order_B = torch.randperm(len(self._data), generator=generator)
        drawn = [draw(batch, generator, self._config.shift) for _ in range(steps if self._augments else 0)]
        updates = range(epoch * steps, (epoch + 1) * steps)
        return _Inputs(
            order_B[: steps * batch].view(steps, batch),
            _rows([draws.flip_B for draws in drawn], steps),
            _rows([draws.top_B for draws in drawn], steps),
            _rows([draws.left_B for draws in drawn], steps),
            torch.tensor([schedule.lr(update) for update in updates], dtype=torch.float32),
            torch.tensor(
                [1 - schedule.lr(update) * schedule.weight_decay(update) for update in updates], dtype=torch.float32
            ),
        )


def build_optimizer(
    kind: type[torch.optim.Adam], hyper: Hyper, model: nn.Module, lr: Tensor | None = None
) -> torch.optim.Adam:
    """Build Adam, AMSGrad or AdamW; the decay applies to weights of two or more dimensions, not to biases and norms.

    Args:
        kind: torch's class; the decoupled decay is set before each update.
        hyper: the trial's knobs.
        model: the model to train.
        lr: the learning rate as a tensor on the device whose value can change, so that a CUDA graph can capture the
            step; None uses ``hyper.lr``.
    """
    weights = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": weights, "weight_decay": hyper.l2, "decayed": True},
        {"params": others, "weight_decay": 0.0, "decayed": False},
    ]
    return kind(
        [group for group in groups if group["params"]],
        lr=hyper.lr if lr is None else lr,
        betas=(hyper.beta1, hyper.beta2),
        eps=hyper.eps,
        amsgrad=hyper.amsgrad,
        fused=True,
        capturable=lr is not None and lr.device.type == "cuda",
    )


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, under the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _rows(rows: list[Tensor], count: int) -> Tensor:
    return torch.stack(rows) if rows else torch.zeros(count, 0)


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """The optimizer's tensor in the parameter's memory layout, on its device; fused Adam needs the step count there."""
    if value.shape != parameter.shape:
        return value.to(parameter.device, copy=True)
    return torch.empty_like(parameter).copy_(value).detach()
