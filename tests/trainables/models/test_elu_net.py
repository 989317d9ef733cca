"""The article's network: its size, its padding, and its loss before training."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.data import digits, normalize
from trainables.errors import TrainableError
from trainables.models.elu_net import SETUPS, EluNet, build, channels

SHAPE = (3, 32, 32)
NARROW = 1 / 8


def seeded(setup: str, seed: int = 0, num_classes: int = 10) -> EluNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build(num_classes, SHAPE, NARROW, setup)
    assert isinstance(net, EluNet)
    return net


def parameters(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


@pytest.fixture(scope="module")
def digit_batch() -> tuple[Tensor, Tensor]:
    train = digits.read().train
    shift, scale = normalize.constants(train.images_BHWC, "minmax")
    images = (np.moveaxis(train.images_BHWC[:100], -1, 1) - shift) * scale
    return torch.from_numpy(images.astype(np.float32)), torch.from_numpy(train.labels_B[:100])


def test_the_full_net_has_the_articles_number_of_weights() -> None:
    net = build(10, SHAPE)
    assert isinstance(net, EluNet)
    sizes = [14400, 36864, 331776, 46080, 230400, 62400, 270400, 72800, 313600, 84000, 3000]
    assert [conv.weight.numel() for conv in net.convolutions()] == sizes
    assert parameters(net) == 1_465_720


def test_an_eighth_of_the_width_has_the_number_of_weights_worked_out_by_hand() -> None:
    # 260/8 = 32.5 and 300/8 = 37.5 round up.
    assert channels(NARROW) == [24, 24, 24, 30, 30, 33, 33, 35, 35, 38]
    by_hand = [
        25 * 3 * 24,  # 1,800
        1 * 24 * 24,  # 576
        9 * 24 * 24,  # 5,184
        1 * 24 * 30,  # 720
        4 * 30 * 30,  # 3,600
        1 * 30 * 33,  # 990
        4 * 33 * 33,  # 4,356
        1 * 33 * 35,  # 1,155
        4 * 35 * 35,  # 4,900
        1 * 35 * 38,  # 1,330
        1 * 38 * 10,  # 380: the classes do not scale
    ]
    assert parameters(seeded("sound")) == sum(by_hand) == 24_991


def test_no_layer_has_fewer_than_four_channels() -> None:
    assert set(channels(0.001)) == {4}


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("seed", range(3))
def test_training_starts_at_chance(setup: str, seed: int, digit_batch: tuple[Tensor, Tensor]) -> None:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(100, *SHAPE, generator=generator), torch.randint(10, (100,), generator=generator)
    for images, labels in (digit_batch, noise):
        loss = F.cross_entropy(seeded(setup, seed)(images), labels).item()
        assert loss == pytest.approx(math.log(10), abs=0.1)


def test_the_articles_logits_are_at_least_minus_one_and_sound_logits_are_not() -> None:
    images = 1e5 * torch.randn(20, *SHAPE, generator=torch.Generator().manual_seed(0))
    article, sound = seeded("article")(images), seeded("sound")(images)
    assert article.min() >= -1
    assert article.min() < -0.99
    assert sound.min() < -1


def test_the_articles_standard_deviation_grows_in_a_narrower_net() -> None:
    first, *later = (conv.weight.std().item() for conv in seeded("article").convolutions())
    assert first == pytest.approx(0.05, rel=0.1)
    assert later == pytest.approx([0.05 * math.sqrt(8)] * 10, rel=0.15)


def test_even_kernels_pad_the_bottom_and_the_right() -> None:
    net = seeded("sound")
    index = next(i for i, layer in enumerate(net.layers) if getattr(layer, "kernel_size", 0) == (2, 2))
    pad, conv = net.layers[index - 1], net.layers[index]
    impulse = torch.zeros(1, 30, 8, 8)
    impulse[..., 0, 0] = 1
    touched = conv(pad(impulse)).abs().sum(dim=(0, 1)).nonzero().tolist()
    assert conv(pad(impulse)).shape[2:] == (8, 8)
    # An output sees its own pixel and the pixels below and to the right, so pixel (0, 0) reaches only its own output.
    assert touched == [[0, 0]]


def test_every_weight_gets_a_gradient() -> None:
    net = seeded("article")
    net(torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in net.parameters())


def test_larger_images_average_their_logits() -> None:
    net = build(7, (1, 64, 96), NARROW)
    images = torch.rand(2, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    logits_BK = net(images)
    assert logits_BK.shape == (2, 7)
    assert isinstance(net, EluNet)
    assert torch.allclose(logits_BK, net.layers(images).flatten(2).mean(dim=2), atol=1e-6)


def test_the_same_seed_draws_the_same_weights() -> None:
    first, again, other = (seeded("sound", seed).layers[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)  # type: ignore[arg-type]
    assert not torch.equal(first, other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "width", "setup", "message"),
    [
        ((3, 28, 28), 1.0, "sound", "multiples of 32 pixels, not 28x28"),
        ((3, 32, 0), 1.0, "sound", "multiples of 32"),
        (SHAPE, 0.0, "sound", "width must be above 0"),
        (SHAPE, 1.0, "best", "no setup 'best'"),
    ],
)
def test_invalid_options_of_the_net_are_refused(
    shape: tuple[int, int, int], width: float, setup: str, message: str
) -> None:
    with pytest.raises(TrainableError, match=message):
        build(10, shape, width, setup)
