"""Why an attempt on Ray failed, as the journal, the report and the terminal say it."""

import pytest
from ray.exceptions import RayError, RayTaskError

from trainables.errors import CodeError, TrainableError
from trainables.own.reported import MissingMetric
from tuner.errors import after_colon
from tuner.execution.ray_executor import reason_of

TRACEBACK = 'ray::OwnWorker.train() (pid=7, ip=10.0.0.1)\n  File "worker.py", line 3, in train\n'


def raised(cause: Exception) -> RayError:
    """The error that ``ray.get`` raises for an exception of a worker."""
    name = f"{type(cause).__module__}.{type(cause).__name__}"
    text = f"{TRACEBACK}{name}: {cause}"
    error = RayTaskError("train", text, cause, proctitle="ray::OwnWorker", pid=7, ip="10.0.0.1")
    told: RayError = error.as_instanceof_cause()
    return told


@pytest.mark.parametrize(
    "cause", [CodeError("mine:train raised KeyError: 'k' (mine.py:3)"), MissingMetric("mine:train", "val", ["vla"])]
)
def test_an_error_of_ours_is_its_one_line(cause: TrainableError) -> None:
    assert "OwnWorker" in str(raised(cause))
    assert reason_of(raised(cause)) == str(cause)


def test_any_other_error_keeps_its_traceback() -> None:
    assert reason_of(raised(ValueError("it broke"))).startswith("ray::OwnWorker.train()")
    assert reason_of(raised(ValueError("it broke"))).endswith("ValueError: it broke")


def test_a_failed_search_has_a_reason_of_one_line_on_its_own_line() -> None:
    assert "failures:" + after_colon("mine:train raised\n") == "failures: mine:train raised"
    assert "failures:" + after_colon("Traceback\nit broke") == "failures:\nTraceback\nit broke"
