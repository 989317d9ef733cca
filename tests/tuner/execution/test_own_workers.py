"""Workers of users' trainables on a real Ray: crashes, hangs, errors, memory, and trials that end by themselves."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tuner.execution.own_run import new_record
from tuner.jobs.record import Trial
from tuner.storage.events import State
from tuner.storage.journal import read

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trials() -> Iterator[dict[str, Trial]]:
    """What the journal of the run says of each arm's trial."""
    with tempfile.TemporaryDirectory(prefix="tr", dir="/tmp") as name:
        command = [sys.executable, "-m", "tests.tuner.execution.own_run", name]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert ended.returncode == 0, ended.stderr
        record = new_record()
        for entry in read(Path(name) / "journal.jsonl"):
            record.add(entry)
        yield {key.split("/")[1]: trial for key, trial in record.trials.items()}


def losses(trial: Trial) -> list[float]:
    return [report.metric("loss") for report in trial.epochs]


@pytest.mark.parametrize("arm", ["fine", "die", "hang"])
def test_a_trial_whose_worker_dies_or_hangs_resumes_from_its_checkpoint(arm: str, trials: dict[str, Trial]) -> None:
    trial = trials[arm]
    assert trial.state == State.COMPLETE
    assert losses(trial) == [1.0, 2.0, 3.0, 4.0]
    # A checkpoint is at most a second old when a worker dies, so the first reports may be made again.
    assert [*trial.reporters][-1] == (1 if arm == "fine" else 2)
    assert trial.result is not None
    assert trial.result.metric("test") == 4.5


def test_an_exception_fails_a_trial_after_its_retries_and_says_where(trials: dict[str, Trial]) -> None:
    trial = trials["fail"]
    assert (trial.state, trial.attempts) == (State.FAILED, 2)
    assert str(trial.reason).startswith("theirs:Count raised ValueError: the third is bad (")
    assert "theirs.py:" in str(trial.reason)
    assert "\n" not in str(trial.reason)


def test_a_trial_without_memory_is_not_tried_again(trials: dict[str, Trial]) -> None:
    assert (trials["overflow"].state, trials["overflow"].attempts) == (State.OOM, 1)


def test_a_function_that_returns_early_completes_its_trial(trials: dict[str, Trial]) -> None:
    trial = trials["two"]
    assert (trial.state, losses(trial)) == (State.COMPLETE, [2.0, 1.0])
    assert trial.result is not None
    assert trial.result.metric("test") == 0.0


def test_a_metric_that_is_not_finite_ends_its_trial(trials: dict[str, Trial]) -> None:
    assert (trials["lost"].state, trials["lost"].reason) == (State.DIVERGED, "loss is inf")
