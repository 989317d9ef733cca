"""The article's hand-written update rules: small pure functions, and an optimizer that combines them.

Legend: w weights, m v first and second moment, t number of updates, this one included.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from studies.article.defects import Defect


def correction(beta: float, t: int, constant: bool) -> float:
    """The divisor that corrects a moment for its start at 0.

    Returns:
        ``1 - beta^t``, or ``1 - beta`` at every update if ``constant``, as in the article's programs.
    """
    return 1 - beta if constant else 1 - beta**t


def kept_maximum(v_max: Tensor, v: Tensor, whole_tensor: bool) -> Tensor:
    """AMSGrad's second moment.

    Returns:
        The maximum of each element. If ``whole_tensor``, the whole tensor with the larger sum, as in the article's
        program.
    """
    return torch.where(v.sum() > v_max.sum(), v, v_max) if whole_tensor else torch.maximum(v_max, v)


def direction(
    m: Tensor, v: Tensor, t: int, betas: tuple[float, float], eps: float, defects: Collection[Defect]
) -> Tensor:
    """The step without the learning rate: ``m^ / (sqrt(v^) + eps)``."""
    constant = Defect.CONSTANT_CORRECTION in defects
    v_divisor = 1.0 if Defect.UNCORRECTED_V in defects else correction(betas[1], t, constant)
    return (m / correction(betas[0], t, constant)) / ((v / v_divisor).sqrt() + eps)


def decayed(w: Tensor, rate: float, wrong_sign: bool) -> Tensor:
    """Weights after a decoupled decay of ``rate``, learning rate included. With the wrong sign, they grow."""
    return w * (1 + rate if wrong_sign else 1 - rate)


class CodedAdam(torch.optim.Adam):
    """Adam, AMSGrad or AdamW with the defects of a case. Without defects, it gives torch's own results.

    Decay is decoupled, as in all four cases.

    Args:
        groups: parameter groups with lr, betas, eps and amsgrad, as in the ``param_groups`` of an Adam.
        defects: defects of the case. Only those in ``OF_RULE`` have an effect.
    """

    def __init__(self, groups: list[dict[str, Any]], defects: Collection[Defect]) -> None:
        """Copy the groups, without the fused kernel."""
        super().__init__([{**group, "fused": False} for group in groups])
        self.defects = frozenset(defects)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "no case needs a closure"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, w: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[w]
        if not state:
            names = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * group["amsgrad"]
            state.update({name: torch.zeros_like(w) for name in names}, step=torch.tensor(0.0))
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - group["betas"][0])
        v = state["exp_avg_sq"]
        v.mul_(group["betas"][1]).addcmul_(gradient, gradient, value=1 - group["betas"][1])
        if group["amsgrad"]:
            whole = Defect.WHOLE_TENSOR_MAXIMUM in self.defects
            state["max_exp_avg_sq"] = v = kept_maximum(state["max_exp_avg_sq"], v, whole)
        step = direction(state["exp_avg"], v, int(state["step"]), group["betas"], group["eps"], self.defects)
        rate = group["lr"] * group["weight_decay"]
        w.copy_(decayed(w, rate, Defect.WRONG_SIGN_DECAY in self.defects) - group["lr"] * step)
