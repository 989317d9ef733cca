"""What a driver says of the data before it starts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from trainables.data.splits import Arrays, Raw
from tuner.driver.prepare import _load
from tuner.jobs.record import Record


def read(path: Path | None) -> Raw:
    """A user's own reader: 150 training images."""
    generator = np.random.default_rng(0)

    def noise(count: int) -> Arrays:
        images = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        return Arrays(images, np.arange(count, dtype=np.int64) % 3)

    return Raw(noise(150), noise(30), ("cat", "dog", "eel"), flips=True)


def said_of(data: str, tmp_path: Path) -> list[str]:
    lines: list[str] = []
    workspace = SimpleNamespace(cache=tmp_path / "cache")
    context: Any = SimpleNamespace(workspace=workspace, view=SimpleNamespace(announce=lines.append))
    loaded = _load(context, spec_of(("digits", data)), Record())
    assert loaded.images.val in (15, 199)
    return [line for line in lines if "margin" in line]


def test_a_coarse_validation_set_of_ones_own_reader_is_told_once_it_is_known(tmp_path: Path) -> None:
    assert said_of("tests.tuner.driver.test_prepare:read", tmp_path) == [
        "warning: job.yaml:2: data: one of the 15 validation images is worth 6.7 points, more than confirm.margin "
        "(0.5): chance decides which setting is chosen; use more validation images, or metric val/loss"
    ]


def test_of_other_data_the_check_has_told_it_before(tmp_path: Path) -> None:
    assert said_of("digits\n  val_images: 199", tmp_path) == []


def build(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """A user's own model."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


@pytest.mark.parametrize("begun", [False, True])
def test_a_model_is_checked_once_and_this_is_said(tmp_path: Path, begun: bool) -> None:
    spec = spec_of(("elu_net", "tests.tuner.driver.test_prepare:build"))
    lines: list[str] = []
    workspace = SimpleNamespace(cache=tmp_path / "cache")
    context: Any = SimpleNamespace(workspace=workspace, view=SimpleNamespace(announce=lines.append))
    _load(context, spec, History(spec).record() if begun else Record())
    assert sum(line.startswith("checking the model: ") for line in lines) == (not begun)
