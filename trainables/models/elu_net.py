"""The article's network: eleven convolutions without bias, an ELU after each, and average pooling between them.

Legend: B images, C channels, H W pixels, K classes.
"""

import math

import torch
from torch import Tensor, nn

from trainables.errors import TrainableError

CHANNELS = (192, 192, 192, 240, 240, 260, 260, 280, 280, 300)
"""Output channels of every layer except the last, which has one output per class."""
KERNELS = (5, 1, 3, 1, 2, 1, 2, 1, 2, 1, 1)
POOLED_AFTER = frozenset({0, 2, 4, 6, 8})
"""Indices of the layers that are followed by 2x2 average pooling: 32 -> 16 -> 8 -> 4 -> 2 -> 1 pixels."""
SETUPS = ("article", "sound")

ARTICLE_STD = 0.05
LAST_LAYER_FACTOR = 0.1
"""Factor on the last layer's standard deviation after He initialisation, in ``sound``."""


def channels(width: float) -> list[int]:
    """Output channels of every layer except the last, scaled by ``width`` and rounded half up, at least 4 each."""
    return [max(4, math.floor(width * full + 0.5)) for full in CHANNELS]


class EluNet(nn.Module):
    """Maps normalised float images_BCHW to logits_BK; for images larger than 32x32 it averages the logits."""

    def __init__(self, num_classes: int, in_channels: int, width: float, elu_logits: bool) -> None:
        """Create the layers with torch's default weights; ``build`` draws the final weights."""
        super().__init__()
        sizes = [in_channels, *channels(width), num_classes]
        last = len(KERNELS) - 1
        layers: list[nn.Module] = []
        for index, kernel in enumerate(KERNELS):
            layers += _same_conv(sizes[index], sizes[index + 1], kernel)
            if index < last or elu_logits:
                layers.append(nn.ELU())
            if index in POOLED_AFTER:
                layers.append(nn.AvgPool2d(2))
        self.layers = nn.Sequential(*layers)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits_BK."""
        logits_BKHW: Tensor = self.layers(images_BCHW)
        return logits_BKHW.mean(dim=(2, 3))

    def convolutions(self) -> list[nn.Conv2d]:
        """Return the eleven convolutions, from input to output."""
        return [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]


def build(num_classes: int, image_shape: tuple[int, int, int], width: float = 1.0, setup: str = "sound") -> nn.Module:
    """Build the network and draw its weights.

    The weights come from torch's global generator: fork and seed it around the call.

    ``article`` is the article's setup: ELU on the logits too, so that they lie in [-1, inf), and weights with
    standard deviation 0.05. This deviation suits the article's widths; from the second layer on we divide it by
    ``sqrt(width)``. ``sound`` follows today's practice: linear logits, He initialisation (He et al. 2015,
    arXiv:1502.01852, fan-in) and a last layer scaled down by ten, so that training starts at chance.

    We measured the initial loss on 100 images each of CIFAR-10, digits and uniform noise, with min-max and standard
    inputs, with ten seeds at width 1/8 and two at width 1. It is within 0.022 of ln 10 in ``article`` (0.018 on
    min-max inputs) and within 0.047 in ``sound`` (0.029 on min-max inputs).

    Args:
        num_classes: K, at least 2; ``width`` does not scale it.
        image_shape: (C, H, W); H and W are multiples of 32 pixels.
        width: factor on the layers' channels, above 0; with 1.0 and K = 10 there are 1,465,720 weights.
        setup: "article" or "sound".

    Raises:
        TrainableError: the setup is unknown, the width is not above 0, or the images' sides do not fit.
    """
    in_channels, height, image_width = image_shape
    if setup not in SETUPS:
        raise TrainableError(f"elu_net has no setup {setup!r} (there are: {', '.join(SETUPS)})")
    if not 0 < width < math.inf:
        raise TrainableError(f"elu_net's width must be above 0, not {width}")
    if min(height, image_width) < 32 or height % 32 or image_width % 32:
        raise TrainableError(
            f"elu_net takes images whose sides are multiples of 32 pixels, not {height}x{image_width}; "
            "set the data's `size`"
        )
    net = EluNet(num_classes, in_channels, width, elu_logits=setup == "article")
    if setup == "article":
        _draw_article(net, width)
    else:
        _draw_sound(net)
    return net


def _same_conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """TensorFlow's SAME padding: an even kernel gets its extra padding at the bottom and at the right."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=(kernel - 1) // 2, bias=False)
    return [conv] if kernel % 2 else [nn.ZeroPad2d((0, 1, 0, 1)), conv]


def _draw_article(net: EluNet, width: float) -> None:
    first, *later = net.convolutions()
    nn.init.normal_(first.weight, std=ARTICLE_STD)
    for conv in later:
        nn.init.normal_(conv.weight, std=ARTICLE_STD / math.sqrt(width))


def _draw_sound(net: EluNet) -> None:
    for conv in net.convolutions():
        nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
    with torch.no_grad():
        net.convolutions()[-1].weight.mul_(LAST_LAYER_FACTOR)
