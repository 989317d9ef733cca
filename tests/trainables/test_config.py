"""A trial's config: it survives JSON, and a hash gives the seeds of its random streams."""

import hashlib
import json
from dataclasses import replace

import pytest

from tests.trainables.small import smallest_trial
from trainables.config import TrialConfig, derive_seed
from trainables.variants import VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_a_trial_survives_a_round_trip_through_json(name: str) -> None:
    trial = smallest_trial(name)
    trial = replace(trial, data=replace(trial.data, sha256=(("a.parquet", "00"),)))
    assert TrialConfig.from_dict(json.loads(json.dumps(trial.to_dict()))) == trial


def test_columns_are_kept_if_they_are_named() -> None:
    trial = smallest_trial("adamw")
    assert not {"image_column", "label_column"} & trial.to_dict()["data"].keys()
    trial = replace(trial, data=replace(trial.data, label_column="fine_label"))
    assert TrialConfig.from_dict(json.loads(json.dumps(trial.to_dict()))) == trial


def test_a_streams_seed_is_the_first_63_bits_of_a_hash() -> None:
    first_64_bits = int(hashlib.sha256(b"7/epoch/3").hexdigest()[:16], 16)
    assert derive_seed(7, "epoch", 3) == first_64_bits // 2 < 2**63


def test_every_stream_of_every_seed_has_another_seed() -> None:
    streams = [("initial weights",), *(("epoch", epoch) for epoch in range(20))]
    assert len({derive_seed(seed, *parts) for seed in range(20) for parts in streams}) == 20 * 21
