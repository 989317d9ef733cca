"""A user's own model: it trains in its layout, it is checked as it is trained, and the seed reaches what it draws."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trainables.small import TOY, smallest_trial
from trainables.config import ModelConfig, TrialConfig
from trainables.data.splits import Splits
from trainables.errors import CodeError
from trainables.training.cuda_graph import warm_up
from trainables.training.model_check import check_model
from trainables.training.trainer import Training, digest

ModelFile = Callable[[str, str], ModelConfig]

TUTORIAL = """
import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(4)
        self.fc = nn.Linear(6 * 7 * 7, classes)
        self.start()

    def start(self):
        pass

    def forward(self, x):
        x = self.pool(F.relu(self.conv(x)))
        x = x.view(-1, 6 * 7 * 7)
        return self.fc(x)


def build(classes, shape):
    return Net(classes)
"""
FROM_NUMPY = """
        with torch.no_grad():
            self.fc.weight.copy_(torch.from_numpy(np.random.normal(0, 0.01, self.fc.weight.shape)))
"""
NOISE = """
        if self.training:
            x = x + 0.1 * random.gauss(0, 1) + torch.from_numpy(np.random.normal(0, 0.1, x.shape)).float()
        return self.fc(x)
"""


def with_start(code: str) -> str:
    return TUTORIAL.replace("        pass\n", code)


def with_end(code: str) -> str:
    return TUTORIAL.replace("        return self.fc(x)\n", code)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], TrialConfig]:
    """Writes a user's own module and returns a trial of its model."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str) -> TrialConfig:
        name = f"own_{abs(hash((str(tmp_path), text)))}"
        (tmp_path / f"{name}.py").write_text(text)
        return smallest_trial("adam_l2", {"lr": 1e-2}, model=ModelConfig(f"{name}:build"), channels_last=False)

    return write


def trained(trial: TrialConfig, splits: Splits, epochs: int) -> Training:
    training = Training(trial, splits)
    for _ in range(epochs):
        training.run_epoch()
    return training


def test_a_tutorials_net_with_a_view_after_a_convolution_trains(
    own: Callable[[str], TrialConfig], tiny: Splits
) -> None:
    trial = own(TUTORIAL)
    check_model(trial, tiny)
    training = Training(trial, tiny)
    losses = [training.run_epoch().train_loss for _ in range(4)]
    assert losses[-1] < losses[0]


def test_only_our_own_models_train_in_channels_last(own: Callable[[str], TrialConfig], tiny: Splits) -> None:
    seen: dict[str, bool] = {}
    for what, trial in (("ours", smallest_trial("adam_l2")), ("own", own(TUTORIAL))):
        training = Training(trial, tiny)

        def note(model: nn.Module, args: tuple[Tensor, ...], what: str = what) -> None:
            seen[what] = args[0].is_contiguous()

        training.model.register_forward_pre_hook(note)
        training.run_epoch()
    assert seen == {"ours": False, "own": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            with_end("        return (self.fc(x), x) if self.training else self.fc(x)\n"),
            r":build: in training mode, logits for 50 images must have shape \(50, 10\), not tuple$",
        ),
        (
            with_end("        return self.fc(x)[:25] if self.training else self.fc(x)\n"),
            r":build: in training mode, logits for 50 images must have shape \(50, 10\), not \(25, 10\)$",
        ),
        (
            with_end("        return self.fc(x.view(2, -1) if self.training else x)\n"),
            r":build: training it raised RuntimeError: .* \(.*/own_\d+\.py:24\)$",
        ),
        (
            with_end("        x = self.fc(x)\n        y = x.exp()\n        y += 1\n        return y\n"),
            ":build: training it raised RuntimeError: .*modified by an inplace operation",
        ),
        (
            TUTORIAL.replace("return Net(classes)", "return nn.Sequential(nn.AdaptiveAvgPool2d((2, 5)), Sum())")
            + "\nclass Sum(nn.Module):\n    def forward(self, x):\n        return x.sum(1).flatten(1)\n",
            ":build: training it raised ValueError: optimizer got an empty parameter list",
        ),
    ],
)
def test_a_model_that_fails_only_in_training_is_refused_in_one_line(
    own: Callable[[str], TrialConfig], tiny: Splits, text: str, message: str
) -> None:
    with pytest.raises(CodeError, match=message) as refused:
        check_model(own(text), tiny)
    assert "\n" not in str(refused.value)


def test_batch_norm_at_batch_size_1_is_refused(own: Callable[[str], TrialConfig], tiny: Splits) -> None:
    text = TUTORIAL.replace("        self.start()", "        self.norm = nn.BatchNorm1d(6 * 7 * 7)")
    trial = own(text.replace("self.fc(x)\n", "self.fc(self.norm(x))\n"))
    check_model(trial, tiny)
    with pytest.raises(CodeError, match=r"training it raised ValueError: Expected more than 1 value per chan.*py:\d"):
        check_model(replace(trial, batch_size=1), tiny)


def test_for_trials_on_a_gpu_the_batch_of_the_check_is_small(
    own: Callable[[str], TrialConfig], tiny: Splits, tmp_path: Path
) -> None:
    note = (
        "        if self.training:\n"
        f"            with open({str(tmp_path / 'batches')!r}, 'a') as file:\n"
        "                file.write(f'{len(x)} ')\n"
        "            FAIL\n"
        "        return self.fc(x)\n"
    )
    trial = replace(own(with_end(note.replace("FAIL", "0"))), gpu=True)
    check_model(trial, tiny)
    assert (tmp_path / "batches").read_text() == "2 2 "
    check_model(replace(own(with_end(note.replace("FAIL", "x.view(50, -1)"))), gpu=True), tiny)
    assert (tmp_path / "batches").read_text() == "2 2 2 50 50 "
    with pytest.raises(CodeError, match="raised ZeroDivisionError"):
        check_model(replace(own(with_end(note.replace("FAIL", "1 / 0"))), gpu=True), tiny)
    check_model(replace(own(with_end(note.replace("FAIL", "pass"))), gpu=True, batch_size=1), tiny)
    assert (tmp_path / "batches").read_text().endswith(" 1 1 ")


def test_a_last_evaluation_batch_of_one_image_is_checked(own: Callable[[str], TrialConfig], tiny: Splits) -> None:
    trial = own(with_end("        return self.fc(x).squeeze()\n"))
    check_model(trial, tiny)
    one = replace(tiny, test=tiny.test.take(np.arange(1)))
    with pytest.raises(CodeError, match=r"logits for 1 images must have shape \(1, 10\), not \(10,\)"):
        check_model(trial, one)


def test_the_check_of_a_model_reads_no_test_image_and_draws_from_no_stream(
    own: Callable[[str], TrialConfig], tiny: Splits
) -> None:
    trial = own(with_end(NOISE))
    spoilt = replace(tiny, test=replace(tiny.test, labels_B=tiny.test.labels_B + 1000))
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    check_model(trial, spoilt)
    assert before == (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())


@pytest.mark.parametrize("text", [with_start(FROM_NUMPY), with_end(NOISE)], ids=["weights", "noise"])
def test_what_a_model_draws_from_random_and_numpy_is_the_seeds(
    own: Callable[[str], TrialConfig], tiny: Splits, text: str
) -> None:
    trial = own(text)
    said: list[str] = []
    check_model(trial, tiny, said.append)
    assert said == [f"checking the model: {trial.model.name} is trained for one update, twice, on the CPU"]
    random.seed(1)
    np.random.seed(1)
    first = trained(trial, tiny, 3).state()
    random.seed(2)
    np.random.seed(2)
    assert digest(first) == digest(trained(trial, tiny, 3).state())
    assert digest(first) != digest(trained(replace(trial, seed=1), tiny, 3).state())
    # A trial that resumes draws what it would have drawn.
    half = trained(trial, tiny, 2)
    resumed = Training(trial, tiny)
    resumed.load_state(half.state())
    resumed.run_epoch()
    assert digest(resumed.state()) == digest(first)


def test_noise_in_evaluation_is_the_seeds(own: Callable[[str], TrialConfig], tiny: Splits) -> None:
    trial = own(with_end("        return self.fc(x) + torch.randn(len(x), 10) + random.gauss(0, 1)\n"))
    first, second = Training(trial, tiny), Training(trial, tiny)
    assert first.evaluate("test") == second.evaluate("test") == first.evaluate("test")


def test_initial_weights_from_an_own_generator_are_refused(own: Callable[[str], TrialConfig], tiny: Splits) -> None:
    with pytest.raises(CodeError, match=r"two models built with the same seed have different weights.*numpy\.r"):
        check_model(own(with_start(FROM_NUMPY.replace("np.random.normal", "np.random.default_rng().normal"))), tiny)


def test_noise_from_an_own_generator_is_said(own: Callable[[str], TrialConfig], tiny: Splits) -> None:
    said: list[str] = []
    check_model(own(with_end(NOISE.replace("np.random.normal", "np.random.default_rng().normal"))), tiny, said.append)
    assert len(said) == 2
    assert "two trainings of the same seed differ, so results cannot be reproduced" in said[1]


def test_an_own_generator_that_is_seeded_from_a_global_one_is_fine(
    own: Callable[[str], TrialConfig], tiny: Splits
) -> None:
    seeded = "np.random.default_rng(np.random.randint(2**31)).normal"
    said: list[str] = []
    check_model(own(with_start(FROM_NUMPY.replace("np.random.normal", seeded))), tiny, said.append)
    assert not any("differ" in line for line in said)


def test_a_built_in_model_is_only_built(tiny: Splits) -> None:
    check_model(smallest_trial("noam", {"warmup": 3}), tiny, pytest.fail)
    check_model(smallest_trial("noam", {"warmup": 3}, model=TOY), tiny)


def test_the_preparation_of_a_graph_restores_the_streams_of_python_and_numpy() -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters())

    def update() -> None:
        random.random()
        np.random.random()

    before = random.getstate(), str(np.random.get_state())
    with pytest.raises(Exception, match="draws random numbers on the host"):
        warm_up(update, model, optimizer, [], torch.device("cpu"))
    assert before == (random.getstate(), str(np.random.get_state()))
