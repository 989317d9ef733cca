"""Optimizers, parameter groups and schedules as a user writes them: good ones, and one of each kind of mistake."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Plain(torch.optim.Optimizer):
    """Gradient descent as in a tutorial."""

    def __init__(self, params: Any, lr: float = 0.1, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * (p.grad + group["weight_decay"] * p))


class Kinds(Plain):
    """Its state has every kind of value, and tensors that torch's own loading would convert to another type."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["counts"] = [len(group.get("counts", [])), None, True, float("inf")]
            for p in group["params"]:
                state = self.state[p]
                half = p.grad.to(torch.bfloat16)
                state["half"] = state.get("half", 0) * torch.tensor(0.5, dtype=torch.bfloat16) + half
                state["count"] = state.get("count", torch.zeros((), dtype=torch.int64)) + 1
                state["nest"] = {"pair": (half, "a text"), 3: [half.double()]}
                p.grad.add_(state["half"].float() * state["count"].item())
        super().step()


class Later(Plain):
    """Its count of updates is in no state, and acts only at every fifth update."""

    updates = 0

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.updates += 1
        if self.updates % 5:
            super().step()


class Kept(Plain):
    """Its count of updates is in no state."""

    updates = 0

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.updates += 1
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.mul_(self.updates)
        super().step()


class Still(Plain):
    """It never changes a weight."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        pass


class Exploding(Plain):
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.fill_(float("inf"))
        super().step()


class Failing(Plain):
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        raise ZeroDivisionError("no such\nluck")


class Functions(Plain):
    """Its state has a function, which no checkpoint holds."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.param_groups[0]["rule"] = print
        super().step()


class WithoutRate(Plain):
    def __init__(self, params: Any) -> None:
        super().__init__(params)


class Hidden(torch.optim.SGD):
    """Its groups have no ``lr``."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            del group["lr"]


class Anything(torch.optim.SGD):
    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)


class TensorRate(torch.optim.Adam):
    """Its learning rate is a tensor, as for a captured update."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, lr=torch.tensor(lr), foreach=False)


built = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)


def function(params: Any, lr: float) -> None: ...


# Parameter groups.


def two_rates(model: nn.Module) -> Iterator[dict[str, Any]]:
    first, *others = model.parameters()
    yield {"params": first, "lr": 0.02}
    yield {"params": others, "weight_decay": 0.1}


def matrices(model: nn.Module) -> list[dict[str, Any]]:
    return [{"params": [p for p in model.parameters() if p.ndim == 2]}]


def strangers(model: nn.Module) -> list[dict[str, Any]]:
    return [{"params": [torch.zeros(2, 2, requires_grad=True)]}]


def no_groups(model: nn.Module) -> list[dict[str, Any]]:
    return []


def parameters(model: nn.Module) -> Iterator[Tensor]:
    return iter(list(model.parameters()))


# Schedules.


def linear(step: int, total: int) -> float:
    return 1 - step / total


def negative(step: int, total: int) -> float:
    return 1 - 2 * step / total


def a_text(step: int, total: int) -> str:
    return "fast"


def zero(step: int, total: int) -> int:
    return 0


def failing(step: int, total: int) -> float:
    return 1 / step


def one_argument(step: int) -> float:
    return 1.0
