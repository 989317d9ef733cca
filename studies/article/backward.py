"""The article's hand-written backward passes: the forward pass is the right one, the gradient is not.

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
"""Feedback weights are uniform between minus and plus this."""


class EluOfSlopeTwo(torch.autograd.Function):
    """ELU whose derivative above 0 is 2; at and below 0 it is exp(x), which is right."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """elu(x)."""
        y = F.elu(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """The gradient times 2 or exp(x) = y + 1."""
        (y,) = ctx.saved_tensors
        return grads[0] * torch.where(y > 0, 2.0, y + 1)


class PoolOfWholeGradient(torch.autograd.Function):
    """2x2 average pooling whose four inputs each get the whole gradient of their mean."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor) -> Tensor:
        """The mean of each 2x2 square."""
        return F.avg_pool2d(x_BCHW, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """The gradient, each element copied to its square."""
        return F.interpolate(grads[0], scale_factor=2, mode="nearest")


class SumOverBatch(torch.autograd.Function):
    """Turns the gradient of a mean over the batch into that of a sum."""

    @staticmethod
    def forward(ctx: Any, logits_BK: Tensor) -> Tensor:
        """The logits as they are."""
        return logits_BK.view_as(logits_BK)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """The gradient times B."""
        return grads[0] * len(grads[0])


class ConvolutionWithFeedback(torch.autograd.Function):
    """A convolution that sends the gradient back through other weights than it came by."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight: Tensor, feedback: Tensor, padding: int) -> Tensor:
        """The convolution of x with the weights."""
        ctx.save_for_backward(x_BCHW, weight, feedback)
        ctx.padding = padding
        return F.conv2d(x_BCHW, weight, padding=padding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        """To x through ``feedback``; to the weights what is right for the gradient that arrives."""
        x_BCHW, weight, feedback = ctx.saved_tensors
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = convolution_gradients.conv2d_input(x_BCHW.shape, feedback, grads[0], padding=ctx.padding)  # type: ignore[no-untyped-call]
        to_weight = convolution_gradients.conv2d_weight(x_BCHW, weight.shape, grads[0], padding=ctx.padding)  # type: ignore[no-untyped-call]
        return to_x, to_weight, None, None


class _Applied(nn.Module):
    """A parameterless autograd function as a module."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function.apply(x)
        return result


class FeedbackConv(nn.Module):
    """``conv`` with fixed feedback weights drawn from torch's global generator."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """Keep the weights, draw the feedback's."""
        super().__init__()
        self.weight = conv.weight
        self.padding = int(conv.padding[0])
        self.feedback: Tensor
        self.register_buffer(
            "feedback", torch.empty_like(conv.weight.detach()).uniform_(-FEEDBACK_LIMIT, FEEDBACK_LIMIT)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The convolution of x with the weights."""
        y_BCHW: Tensor = ConvolutionWithFeedback.apply(x_BCHW, self.weight, self.feedback, self.padding)
        return y_BCHW


def build(num_classes: int, image_shape: tuple[int, int, int], width: float = 1.0, defects: str = "") -> nn.Module:
    """The article's net with these defects of the backward pass.

    The initial weights are those of ``elu_net`` without defects: the feedback's are drawn after them.

    Args:
        num_classes: K.
        image_shape: (C, H, W).
        width: as ``elu_net.build`` takes it.
        defects: values of ``Defect``, joined by spaces: a model's options are plain values.
    """
    net = elu_net.build(num_classes, image_shape, width, setup="article")
    assert isinstance(net, elu_net.EluNet)
    wrong = {Defect(name) for name in defects.split()}
    for index, layer in enumerate(net.layers):
        net.layers[index] = _with_defects(layer, wrong)
    return nn.Sequential(net, _Applied(SumOverBatch)) if Defect.SUMMED_LOSS in wrong else net


def option(defects: Collection[Defect]) -> str:
    """Those of the defects that ``build`` makes, as it takes them."""
    return " ".join(sorted(OF_BACKWARD.intersection(defects)))


def _with_defects(layer: nn.Module, wrong: Collection[Defect]) -> nn.Module:
    if isinstance(layer, nn.ELU) and Defect.DOUBLED_SLOPE in wrong:
        return _Applied(EluOfSlopeTwo)
    if isinstance(layer, nn.AvgPool2d) and Defect.UNNORMALISED_POOL in wrong:
        return _Applied(PoolOfWholeGradient)
    if isinstance(layer, nn.Conv2d) and Defect.RANDOM_FEEDBACK in wrong:
        return FeedbackConv(layer)
    return layer
