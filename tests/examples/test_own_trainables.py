"""The examples of own trainables, at a small size."""

from pathlib import Path

import pytest

from tests.tuner.whole_jobs import ROOT, place
from tuner.jobs.record import Record
from tuner.storage.events import State
from tuner.storage.journal import read

EXAMPLES = ROOT / "examples"
SMALL = {
    "regression": {"trials: 10, epochs: 40": "trials: 2, epochs: 4", "searches: {at: [3, 5]}": "claim: setting"},
    "text_model": {
        "trials: 8, epochs: 8": "trials: 2, epochs: 2",
        "searches: {at: [3, 5]}": "claim: setting",
        "updates: 50": "updates: 5",
        "first_rung: 2": "first_rung: 1",
    },
}
"""Example -> what its spec says, and what the test makes of it."""


def small(name: str) -> str:
    """The text of an example's spec with less work."""
    text = (EXAMPLES / f"{name}.yaml").read_text()
    for usual, less in SMALL[name].items():
        assert usual in text
        text = text.replace(usual, less)
    return text.replace("confirm: {", "confirm: {seeds: 3, ")


def test_every_example_of_an_own_trainable_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.yaml") if "trainable:" in path.read_text()} == set(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_an_example_runs_to_its_verdict(name: str, tmp_path: Path) -> None:
    code = (EXAMPLES / f"{name}.py").read_text()
    with place(tmp_path, small(name), {f"{name}.py": code}) as where:
        ended = where.tuner("run", "spec.yaml")
        assert ended.code == 0, ended.err
        record = Record()
        for entry in read(where.job.journal):
            record.add(entry)
        assert {trial.state for trial in record.trials.values()} <= {State.COMPLETE, State.PRUNED}
        assert sum(trial.result is not None for trial in record.trials.values()) == 6
        assert "not enough evidence" in ended.out or "beats" in ended.out or "loses" in ended.out
