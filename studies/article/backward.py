"""The article's hand-written backward passes. The forward pass is right, and the gradient is wrong.

Legend: B images, C channels, H W pixels, K classes.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import grad as convolution_gradients

from studies.article.defects import OF_BACKWARD, Defect
from trainables.models import elu_net

FEEDBACK_LIMIT = 0.5
"""Feedback weights are uniform between minus and plus this value."""


class EluOfSlopeTwo(torch.autograd.Function):
    """ELU with the wrong derivative 2 above 0. At and below 0 it has the right one, exp(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return elu(x)."""
        y = F.elu(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Return the gradient times 2, or times exp(x) = y + 1."""
        (y,) = ctx.saved_tensors
        return grads[0] * torch.where(y > 0, 2.0, y + 1)


class PoolOfWholeGradient(torch.autograd.Function):
    """2x2 average pooling with a wrong gradient: each of the four inputs gets the whole gradient of their mean."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor) -> Tensor:
        """Return the mean of each 2x2 square."""
        return F.avg_pool2d(x_BCHW, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Return the gradient, with each element copied to its whole square."""
        return F.interpolate(grads[0], scale_factor=2, mode="nearest")


class SumOverBatch(torch.autograd.Function):
    """Turns the gradient of a mean over the batch into the gradient of a sum."""

    @staticmethod
    def forward(ctx: Any, logits_BK: Tensor) -> Tensor:
        """Return the logits unchanged."""
        return logits_BK.view_as(logits_BK)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Return the gradient times B."""
        return grads[0] * len(grads[0])


class ConvolutionWithFeedback(torch.autograd.Function):
    """A convolution whose backward pass uses other weights than its forward pass."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight: Tensor, feedback: Tensor, padding: int) -> Tensor:
        """Return the convolution of x with the weights."""
        ctx.save_for_backward(x_BCHW, weight, feedback)
        ctx.padding = padding
        return F.conv2d(x_BCHW, weight, padding=padding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        """Return the gradient of x, computed with ``feedback``, and the right gradient of the weights."""
        x_BCHW, weight, feedback = ctx.saved_tensors
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = convolution_gradients.conv2d_input(x_BCHW.shape, feedback, grads[0], padding=ctx.padding)  # type: ignore[no-untyped-call]
        to_weight = convolution_gradients.conv2d_weight(x_BCHW, weight.shape, grads[0], padding=ctx.padding)  # type: ignore[no-untyped-call]
        return to_x, to_weight, None, None


class _Applied(nn.Module):
    """An autograd function without parameters, as a module."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function.apply(x)
        return result


class FeedbackConv(nn.Module):
    """``conv`` with fixed feedback weights, which are drawn from torch's global generator."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """Keep the weights of ``conv`` and draw the feedback weights."""
        super().__init__()
        self.weight = conv.weight
        self.padding = int(conv.padding[0])
        self.feedback: Tensor
        self.register_buffer(
            "feedback", torch.empty_like(conv.weight.detach()).uniform_(-FEEDBACK_LIMIT, FEEDBACK_LIMIT)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the convolution of x with the weights."""
        y_BCHW: Tensor = ConvolutionWithFeedback.apply(x_BCHW, self.weight, self.feedback, self.padding)
        return y_BCHW


def build(num_classes: int, image_shape: tuple[int, int, int], width: float = 1.0, defects: str = "") -> nn.Module:
    """Build the article's net with these defects of the backward pass.

    The initial weights equal those of ``elu_net`` without defects, because the feedback weights are drawn after them.

    Args:
        num_classes: K.
        image_shape: (C, H, W).
        width: the factor that ``elu_net.build`` takes.
        defects: values of ``Defect``, joined by spaces, because options of a model must be plain values.
    """
    net = elu_net.build(num_classes, image_shape, width, setup="article")
    assert isinstance(net, elu_net.EluNet)
    wrong = {Defect(name) for name in defects.split()}
    for index, layer in enumerate(net.layers):
        net.layers[index] = _with_defects(layer, wrong)
    return nn.Sequential(net, _Applied(SumOverBatch)) if Defect.SUMMED_LOSS in wrong else net


def option(defects: Collection[Defect]) -> str:
    """The defects among these that ``build`` implements, as its ``defects`` argument."""
    return " ".join(sorted(OF_BACKWARD.intersection(defects)))


def _with_defects(layer: nn.Module, wrong: Collection[Defect]) -> nn.Module:
    if isinstance(layer, nn.ELU) and Defect.DOUBLED_SLOPE in wrong:
        return _Applied(EluOfSlopeTwo)
    if isinstance(layer, nn.AvgPool2d) and Defect.UNNORMALISED_POOL in wrong:
        return _Applied(PoolOfWholeGradient)
    if isinstance(layer, nn.Conv2d) and Defect.RANDOM_FEEDBACK in wrong:
        return FeedbackConv(layer)
    return layer
