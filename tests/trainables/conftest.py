"""The fixtures that all tests of trials share: one thread, and a data set that is decoded once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.trainables.small import REQUEST
from trainables.data.cache import load
from trainables.data.splits import Splits


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("decoded")


@pytest.fixture(scope="session")
def tiny(cache_dir: Path) -> Splits:
    return load(REQUEST, cache_dir)
