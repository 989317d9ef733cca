"""The peers, at the smallest size: each trains what ``tuner`` trained, and the benchmarks give whole results."""

from pathlib import Path

import pytest

from benchmarks import control, growth, whole_search
from benchmarks.measuring import Result
from benchmarks.peers.task import Done, Task
from benchmarks.whole_search import PEERS, Peer, Search
from trainables.config import ModelConfig, TrialConfig
from trainables.data.request import DataRequest
from trainables.hyper import Hyper

TINY = Search("{name: digits, train_images: 60, val_images: 30, test_images: 30}", 0.03, 1, 1, 20)


def is_whole(result: Result) -> bool:
    return all(
        len(compared.ours) == len(compared.theirs) >= 1 and min(compared.ours + compared.theirs) > 0
        for compared in result.comparisons
    )


def test_a_task_is_what_was_written(tmp_path: Path) -> None:
    trial = TrialConfig(
        DataRequest("digits"),
        ModelConfig(options={"width": 0.1}),
        Hyper(lr=1e-3, l2=1e-4),
        epochs=2,
        batch_size=50,
        seed=3,
    )
    file = tmp_path / "task.json"
    task = Task((trial, trial), "cache", loader_workers=8, cpus=2)
    task.write(file)
    assert Task.read(file) == task
    assert task.settings == [{"lr": 1e-3, "l2": 1e-4}] * 2


def test_what_a_peer_says_last_is_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    print("talk")
    Done(3, 12, 1.5, 2.5).tell()
    assert Done.told(capsys.readouterr().out) == Done(3, 12, 1.5, 2.5)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: f"{peer.module}-{peer.loader_workers}")
def test_every_peer_trains_the_same_trials(peer: Peer) -> None:
    result = whole_search.measure(1, TINY, [peer])
    assert [compared.peer for compared in result.comparisons] == [peer.title]
    assert is_whole(result)


@pytest.mark.slow
def test_control_is_compared_trial_by_trial() -> None:
    assert is_whole(control.measure(1, trials=6))


@pytest.mark.slow
def test_growth_compares_the_end_of_a_search_with_its_start() -> None:
    result = growth.measure(1, trials=12, samplers=("random",))
    assert is_whole(result)
    assert max(result.details["random"]["seconds_a_trial_before"]) == 12  # type: ignore[index]
