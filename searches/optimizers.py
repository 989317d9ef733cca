"""Muon for a convolutional net: the optimizer of the arm ``muon`` in ``optimizers.yaml``.

Muon (Jordan et al. 2024) makes the momentum of a matrix orthogonal before it changes the weights. It is for the hidden
layers; the first and the last layer are trained with AdamW, as its authors recommend. ``torch.optim.Muon`` takes
matrices only, so the filters of a convolution are the rows of a matrix here.
"""

from typing import Any

import torch
from torch import nn


def hidden(model: nn.Module) -> list[dict[str, Any]]:
    """Two parameter groups: the weights of the hidden layers for Muon, and all other parameters for AdamW."""
    layers = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    inner = {id(weight) for weight in layers[1:-1]}
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if id(p) in inner], "muon": True},
        {"params": [p for p in parameters if id(p) not in inner], "muon": False},
    ]


class Muon(torch.optim.Optimizer):
    """``torch.optim.Muon`` for the groups with ``muon: True``, and ``torch.optim.AdamW`` for the others.

    Muon scales its updates to the size of AdamW's (Liu et al. 2025, arXiv:2502.16982), so one learning rate fits both.
    """

    def __init__(self, params: Any, lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "muon": True})
        self.parts = [self._part(group) for group in self.param_groups]

    def _part(self, group: dict[str, Any]) -> torch.optim.Optimizer:
        usual = {"lr": group["lr"], "weight_decay": group["weight_decay"]}
        if not group["muon"]:
            return torch.optim.AdamW(group["params"], **usual)
        matrices = [weight.detach().flatten(1).clone() for weight in group["params"]]
        return torch.optim.Muon(matrices, momentum=group["momentum"], adjust_lr_fn="match_rms_adamw", **usual)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters; the schedule has set the learning rates of this optimizer's own groups."""
        for group, part in zip(self.param_groups, self.parts, strict=True):
            own = part.param_groups[0]
            own["lr"] = group["lr"]
            pairs = list(zip(group["params"], own["params"], strict=True)) if group["muon"] else []
            for weight, matrix in pairs:
                matrix.copy_(weight.flatten(1))
                matrix.grad = weight.grad.flatten(1)
            part.step()
            for weight, matrix in pairs:
                weight.copy_(matrix.view_as(weight))

    def state_dict(self) -> dict[str, Any]:
        """With the moments of both optimizers, so that a trial can continue from a checkpoint."""
        return {**super().state_dict(), "parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        super().load_state_dict(state_dict)
        for part, own in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(own)
