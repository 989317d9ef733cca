"""The trainables under ``examples``: they learn, and the text model resumes to the same numbers."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainables.own.trial import OwnTrial
from trainables.own.worker import OwnWorker
from trainables.report import OwnReport, StepReport

Config = Callable[..., dict[str, Any]]
EXAMPLES = Path(__file__).parents[3] / "examples"
TEXT = {"cell": "gru", "width": 16, "lr": 0.02, "updates": 3}
TREES = {"learning_rate": 0.2, "max_depth": 2, "subsample": 0.8}


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    for name in ("regression", "text_model"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "config", "unit", "passed"),
    [
        ("regression:ridge", {"alpha": 1.0}, "rmse", ("seed",)),
        ("regression:boosting", TREES, "rmse", ("seed",)),
        ("text_model:Train", TEXT, "bits", ("read_test",)),
    ],
)
def test_an_example_learns_and_resumes(
    name: str, config: dict[str, Any], unit: str, passed: tuple[str, ...], worker: OwnWorker, config_of: Config
) -> None:
    trial = OwnTrial(name, config, 3, 5, passed, f"val_{unit}", f"test_{unit}")
    options = config_of(trial, read_test=True)
    answers = [StepReport.from_dict(worker.begin(options))]
    while worker.busy:
        answers.append(StepReport.from_dict(worker.train()))
    reports = [answer.epoch for answer in answers if isinstance(answer.epoch, OwnReport) and not answer.ended]
    values = [report.metric(f"val_{unit}") for report in reports]
    assert values == sorted(values, reverse=True)
    assert answers[-1].result is not None
    assert answers[-1].result.metric(f"test_{unit}") > 0
    again = StepReport.from_dict(worker.begin(options | {"attempt": 2, "accepted": [[1, 1]]}))
    assert isinstance(again.epoch, OwnReport)
    # The text model resumes after its first report; the others start again.
    expected = reports[1] if name == "text_model:Train" else reports[0]
    assert (again.epoch.epoch, again.epoch.values) == (expected.epoch, expected.values)
