"""The updates of a trial with a user's own optimizer: its learning rates, its modes and its state."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from trainables.config import TrialConfig
from trainables.data.device import DeviceArrays
from trainables.errors import CodeError
from trainables.own.optimizer import build_own
from trainables.own.optimizer_state import packed, same, unpacked
from trainables.schedules import Schedule
from trainables.training.net import Net
from trainables.training.updates import Eager

NORM_BATCHES = 50
"""Most batches from which the statistics of batch normalisation are computed anew."""


class OwnUpdates(Eager):
    """Eager updates with a user's own optimizer.

    The schedule multiplies each parameter group's own first learning rate by its factor. The decay is the class's own.

    Some optimizers, such as the schedule-free ones, train other weights than those that they evaluate, and have methods
    ``train`` and ``eval`` that exchange the two. Outside the updates of an epoch, the model always has the weights of
    ``eval``: evaluations, checkpoints and exports read these. The statistics of batch normalisation belong to the other
    weights, so they are computed anew after each epoch, from the average of up to ``NORM_BATCHES`` training batches.
    """

    def __init__(self, net: Net, data: DeviceArrays, config: TrialConfig, schedule: Schedule) -> None:
        assert config.optimizer is not None, "the trial has an own optimizer"
        self._name = config.optimizer.name
        super().__init__(net, data, config, schedule)
        if not all("lr" in group for group in self.optimizer.param_groups):
            raise CodeError(f"{self._name} keeps no `lr` in its parameter groups, so no schedule can set it")
        self._first_lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._has_modes = all(callable(getattr(self.optimizer, mode, None)) for mode in ("train", "eval"))
        self._switch("eval")

    def weight_decay(self, step: int) -> float:
        """The ``weight_decay`` of the first parameter group; 0 if it has none."""
        decay = self.optimizer.param_groups[0].get("weight_decay", 0.0)
        return float(decay) if isinstance(decay, int | float | Tensor) else 0.0

    def state(self) -> dict[str, Tensor]:
        """The optimizer's ``state_dict``, packed into tensors."""
        return packed(self.optimizer.state_dict(), self._name)

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue with a ``state()``.

        Raises:
            KeyError, RuntimeError: the state belongs to another optimizer, or the optimizer does not load it as it was.
        """
        loaded = unpacked(state, self.net.device)
        try:
            self.optimizer.load_state_dict(loaded)
        except Exception as error:
            raise RuntimeError(f"{self._name} does not load the state: {error}") from error
        if type(self.optimizer).load_state_dict is torch.optim.Optimizer.load_state_dict:
            # Torch converts tensors to the type of their parameter; a trial continues with the types that it had.
            for key, values in self.optimizer.state_dict()["state"].items():
                if isinstance(values, dict):
                    values.update(loaded["state"][key])
        if not same(self.state(), state):
            raise RuntimeError(f"the state of {self._name} is another one after it was loaded")

    def _built(self, config: TrialConfig, model: nn.Module) -> torch.optim.Optimizer:
        assert config.optimizer is not None
        return build_own(config.optimizer, config.hyper.lr, model)

    def _run(self, epoch: int) -> None:
        self._switch("train")
        super()._run(epoch)
        self._switch("eval")
        if self._has_modes:
            with torch.no_grad(), self.net.autocast():
                update_bn(self._batches(), self.net.model)

    def _batches(self) -> Iterator[Tensor]:
        batch = self._config.batch_size
        order_B = torch.randperm(len(self._data)).to(self.net.device)
        for index in range(min(NORM_BATCHES, self._steps)):
            chosen_B = order_B[index * batch : (index + 1) * batch]
            yield self.net.inputs(self._images(chosen_B, self._drawn()))

    def _set(self, step: int) -> None:
        factor = self.schedule.lr_factor(step)
        for group, first in zip(self.optimizer.param_groups, self._first_lrs, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(first * factor)
            else:
                group["lr"] = first * factor

    def _switch(self, mode: str) -> None:
        if self._has_modes:
            getattr(self.optimizer, mode)()
