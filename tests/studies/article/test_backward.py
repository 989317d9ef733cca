"""The defects of the backward pass: forward all are right, backward each is wrong in its own way and no other."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from studies.article.backward import (
    ConvolutionWithFeedback,
    EluOfSlopeTwo,
    FeedbackConv,
    PoolOfWholeGradient,
    SumOverBatch,
    build,
    option,
)
from studies.article.defects import OF_BACKWARD, Defect
from trainables.models import elu_net

SHAPE = (3, 32, 32)
WIDTH = 0.05

Function = Callable[[Tensor], Tensor]


def elu(x: Tensor) -> Tensor:
    return EluOfSlopeTwo.apply(x)  # type: ignore[no-any-return]


def pool(x: Tensor) -> Tensor:
    return PoolOfWholeGradient.apply(x)  # type: ignore[no-any-return]


def summed(x: Tensor) -> Tensor:
    return SumOverBatch.apply(x)  # type: ignore[no-any-return]


def right_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def right_sum(x: Tensor) -> Tensor:
    return x.clone()


def input_of(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)


def net(defects: str = "") -> nn.Module:
    torch.manual_seed(3)
    return build(10, SHAPE, WIDTH, defects)


def gradients(model: nn.Module) -> list[Tensor]:
    """Of the mean cross-entropy on eight made-up images, by layer."""
    generator = torch.Generator().manual_seed(1)
    images_BCHW = torch.rand(8, *SHAPE, generator=generator)
    F.cross_entropy(model(images_BCHW), torch.arange(8)).backward()  # type: ignore[no-untyped-call]
    found = [p.grad for p in model.parameters()]
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize(
    ("wrong", "right"), [(elu, F.elu), (pool, right_pool), (summed, right_sum)], ids=["elu", "pool", "sum"]
)
def test_the_right_function_passes_gradcheck_and_the_coded_one_gives_its_values_and_fails(
    wrong: Function, right: Function
) -> None:
    x = input_of(2, 3, 4, 4)
    assert torch.equal(wrong(x), right(x))
    assert torch.autograd.gradcheck(right, x)
    assert not torch.autograd.gradcheck(wrong, x, raise_exception=False)


def test_the_coded_elu_has_slope_two_above_zero_and_the_right_one_below() -> None:
    x = torch.tensor([-1.0, -0.5, 0.0, 0.5, 3.0], requires_grad=True)
    elu(x).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([0.367879, 0.606531, 1.0, 2.0, 2.0], abs=1e-6)


def test_the_coded_pooling_gives_each_input_the_whole_gradient() -> None:
    x_BCHW = torch.zeros(1, 1, 2, 4, requires_grad=True)
    (pool(x_BCHW) * torch.tensor([3.0, 5.0])).sum().backward()  # type: ignore[no-untyped-call]
    assert x_BCHW.grad is not None
    assert x_BCHW.grad.tolist() == [[[[3, 3, 5, 5], [3, 3, 5, 5]]]]


def test_the_coded_loss_sends_back_the_sum_over_the_batch() -> None:
    logits_BK = torch.zeros(4, 2, requires_grad=True)
    F.cross_entropy(summed(logits_BK), torch.zeros(4, dtype=torch.int64)).backward()  # type: ignore[no-untyped-call]
    assert logits_BK.grad is not None
    assert logits_BK.grad.tolist() == [[-0.5, 0.5]] * 4


def test_feedback_sends_the_gradient_back_through_other_weights_and_leaves_the_weights_own_right() -> None:
    x_BCHW, weight = input_of(2, 3, 5, 5), input_of(4, 3, 3, 3)
    feedback = torch.rand(4, 3, 3, 3, dtype=torch.float64)
    upstream = torch.rand(2, 4, 5, 5, dtype=torch.float64)
    y = ConvolutionWithFeedback.apply(x_BCHW, weight, feedback, 1)
    to_x, to_weight = torch.autograd.grad(y, (x_BCHW, weight), upstream)
    _, right_to_weight = torch.autograd.grad(F.conv2d(x_BCHW, weight, padding=1), (x_BCHW, weight), upstream)
    through_feedback = torch.autograd.grad(F.conv2d(x_BCHW, feedback, padding=1), x_BCHW, upstream)[0]
    assert torch.equal(y, F.conv2d(x_BCHW, weight, padding=1))
    torch.testing.assert_close(to_weight, right_to_weight)
    torch.testing.assert_close(to_x, through_feedback)


def test_feedback_weights_are_uniform_up_to_a_half_and_no_parameters() -> None:
    conv = FeedbackConv(nn.Conv2d(30, 40, 3, padding=1, bias=False))
    assert [name for name, _ in conv.named_parameters()] == ["weight"]
    assert 0.49 < conv.feedback.max() <= 0.5
    assert -0.5 <= conv.feedback.min() < -0.49
    assert conv.feedback.std().item() == pytest.approx(12**-0.5, rel=0.02)


def test_without_defects_it_is_the_article_set_up_itself() -> None:
    torch.manual_seed(3)
    right = elu_net.build(10, SHAPE, WIDTH, setup="article")
    assert all(torch.equal(*pair) for pair in zip(gradients(net()), gradients(right), strict=True))


@pytest.mark.parametrize("defect", sorted(OF_BACKWARD))
def test_a_defect_changes_gradients_and_nothing_else(defect: Defect) -> None:
    images_BCHW = torch.rand(4, *SHAPE)
    assert torch.equal(net(defect)(images_BCHW), net()(images_BCHW))
    right, wrong = gradients(net()), gradients(net(defect))
    assert not torch.allclose(wrong[0], right[0])


def test_constant_scales_are_what_pool_and_sum_come_to() -> None:
    right, wrong = gradients(net()), gradients(net("summed-loss unnormalised-pool"))
    torch.testing.assert_close(wrong[-1], 8 * right[-1])
    torch.testing.assert_close(wrong[0], 8 * 4**5 * right[0], rtol=1e-4, atol=1e-8)


def test_gradients_through_feedback_have_little_to_do_with_the_right_ones() -> None:
    right, wrong = gradients(net()), gradients(net("random-feedback"))
    cosines = [F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item() for a, b in zip(right, wrong, strict=True)]
    assert cosines[-1] == pytest.approx(1)
    assert sum(abs(cosine) for cosine in cosines[:-1]) / 10 < 0.35


def test_the_models_option_names_the_defects_of_the_backward_pass_alone() -> None:
    assert option({Defect.SUMMED_LOSS, Defect.EPOCH_INDEX, Defect.DOUBLED_SLOPE}) == "doubled-slope summed-loss"
