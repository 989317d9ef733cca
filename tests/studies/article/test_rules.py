"""The update rules as coded: by hand where they are wrong, torch's own where nothing is."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from studies.article.defects import Defect
from studies.article.rules import CodedAdam, correction, decayed, direction, kept_maximum
from trainables.space import Scalar

SHAPE = (3, 4)


def run(optimizer: torch.optim.Optimizer, weight: Tensor, updates: int) -> Tensor:
    """Updates with made-up gradients; the weight after them."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(updates):
        weight.grad = torch.randn(SHAPE, generator=generator)
        optimizer.step()
    return weight.detach()


def coded(weight: Tensor, defects: frozenset[Defect] = frozenset(), **settings: object) -> CodedAdam:
    return CodedAdam(torch.optim.AdamW([weight], **settings).param_groups, defects)  # type: ignore[arg-type]


def start() -> Tensor:
    return torch.full(SHAPE, 0.3, requires_grad=True)


@pytest.mark.parametrize("updates", [1, 2, 100])
@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 1e-2, "weight_decay": 0.0},
        {"lr": 1e-2, "weight_decay": 0.5},
        {"lr": 1e-2, "weight_decay": 0.0, "amsgrad": True, "betas": (0.9, 0.9)},
    ],
    ids=["adam", "adamw", "amsgrad"],
)
def test_without_defects_updates_are_torchs(settings: Mapping[str, Scalar], updates: int) -> None:
    ours, theirs = start(), start()
    run(coded(ours, frozenset(), **settings), ours, updates)
    run(torch.optim.AdamW([theirs], **settings), theirs, updates)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_correction_is_constant_as_coded_and_ends_at_one_when_right() -> None:
    assert correction(0.9, 1, constant=True) == correction(0.9, 500, constant=True) == pytest.approx(0.1)
    assert correction(0.9, 1, constant=False) == pytest.approx(0.1)
    assert correction(0.9, 500, constant=False) == pytest.approx(1)


@pytest.mark.parametrize(("beta2", "share"), [(0.999, 0.316), (0.98, 1.414), (0.9, 3.162)])
def test_steps_of_a_long_run_are_off_by_a_factor_of_beta2(beta2: float, share: float) -> None:
    weight = torch.zeros(1, requires_grad=True)
    optimizer = coded(weight, frozenset({Defect.CONSTANT_CORRECTION}), lr=1.0, betas=(0.9, beta2), weight_decay=0.0)
    for _ in range(20_000 if beta2 == 0.999 else 1000):
        before = weight.item()
        weight.grad = torch.ones(1)
        optimizer.step()
    assert before - weight.item() == pytest.approx(share, rel=1e-2)


def test_a_constant_gradient_overshoots_twofold_at_the_twelfth_update() -> None:
    m = v = torch.zeros(())
    steps = []
    for t in range(1, 101):
        m, v = 0.9 * m + 0.1, 0.999 * v + 0.001
        steps.append(direction(m, v, t, (0.9, 0.999), 1e-8, {Defect.CONSTANT_CORRECTION}).item())
    assert steps.index(max(steps)) + 1 == 12
    assert max(steps) == pytest.approx(2.08, abs=0.01)
    assert steps[99] == pytest.approx(1.02, abs=0.01)


def test_without_correction_of_v_the_first_amsgrad_step_is_three_times_the_learning_rate() -> None:
    m, v = torch.tensor(0.1), torch.tensor(0.1)
    wrong = {Defect.CONSTANT_CORRECTION, Defect.UNCORRECTED_V}
    assert direction(m, v, 1, (0.9, 0.9), 1e-8, wrong).item() == pytest.approx(3.162, abs=1e-3)
    assert direction(m, v, 1, (0.9, 0.9), 1e-8, set()).item() == pytest.approx(1)


def test_the_maximum_of_a_whole_tensor_lets_an_element_shrink() -> None:
    v_max, v = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.1])
    assert kept_maximum(v_max, v, whole_tensor=True).tolist() == pytest.approx([0, 1.1])
    assert kept_maximum(v_max, v, whole_tensor=False).tolist() == pytest.approx([1, 1.1])
    assert kept_maximum(v_max, v / 2, whole_tensor=True).tolist() == [1, 0]


@pytest.mark.parametrize(("defects", "factor"), [(set(), 0.95), ({Defect.WRONG_SIGN_DECAY}, 1.05)])
def test_without_a_gradient_decay_shrinks_weights_and_the_wrong_sign_grows_them(
    defects: set[Defect], factor: float
) -> None:
    weight = start()
    weight.grad = torch.zeros(SHAPE)
    coded(weight, frozenset(defects), lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full(SHAPE, 0.3 * factor))
    torch.testing.assert_close(decayed(torch.ones(2), 0.05, bool(defects)), torch.full((2,), factor))


def test_state_goes_by_torchs_names_so_that_a_checkpoint_holds_it() -> None:
    weight = start()
    optimizer = coded(weight, lr=0.1, amsgrad=True)
    run(optimizer, weight, 2)
    assert set(optimizer.state[weight]) == {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"}
