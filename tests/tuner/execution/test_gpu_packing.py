"""How many trials a GPU takes at once: what is tried, what is taken, and what is kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainables.small import NARROW, TOY, smallest_trial
from tests.tuner.spec_texts import more, spec_of
from trainables.config import TrialConfig
from tuner.errors import SpecError
from tuner.execution import gpu_packing as packing
from tuner.execution.gpu_packing import AT_ONCE, Rates, as_packed, best, measured, with_measured_packing, with_packing
from tuner.jobs.job_folder import JobFolder

AUTO = more("resources: auto\n")


def of(rates: Rates) -> Callable[[int], float | None]:
    """A measurement that comes to these rates, and fails where there is none."""
    return lambda trials: rates[trials]


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({1: 100.0, 2: 180.0, 4: 250.0, 8: 260.0}, 8),
        ({1: 100.0, 2: 180.0, 4: 250.0, 8: 251.0}, 4),
        ({1: 100.0, 2: 101.0, 4: 102.0, 8: 102.9}, 1),
        ({1: 100.0, 2: 180.0, 4: 170.0}, 2),
        ({1: 100.0, 2: 180.0, 4: None}, 2),
        ({1: 100.0, 2: None}, 1),
        ({1: 100.0}, 1),
    ],
)
def test_the_highest_rate_is_taken_with_the_fewest_trials_that_come_close(rates: Rates, expected: int) -> None:
    assert best(rates) == expected


@pytest.mark.parametrize("rates", [{}, {1: None}])
def test_a_trial_that_does_not_fit_alone_is_refused(rates: Rates) -> None:
    with pytest.raises(SpecError, match="one trial alone runs out of the GPU's memory"):
        best(rates)


@pytest.mark.parametrize(
    ("rates", "tried"),
    [
        ({1: 10.0, 2: 20.0, 4: 30.0, 8: 40.0}, [1, 2, 4, 8]),
        ({1: 10.0, 2: 20.0, 4: 15.0}, [1, 2, 4]),
        ({1: 10.0, 2: None}, [1, 2]),
        ({1: None}, [1]),
    ],
)
def test_more_are_tried_until_memory_runs_out_or_all_get_slower(rates: Rates, tried: list[int]) -> None:
    assert list(measured(of(rates))) == tried
    assert measured(of(rates)) == rates


def test_nothing_more_is_tried_once_the_job_was_asked_to_stop() -> None:
    asked = iter([False, False, True])
    assert list(measured(of(dict.fromkeys(AT_ONCE, 1.0)), lambda: next(asked))) == [1, 2]


def test_what_was_taken_is_said_in_one_line() -> None:
    found = "1 at once 41,200 images/s, 2 at once 62,000 images/s, 4 at once out of memory"
    assert packing.described({1: 41200.4, 2: 62000.0, 4: None}) == f"2 trials at once on a GPU ({found})"


# A job.


class Asked:
    """Says what a job would, and counts what is measured on a machine that has one GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rates: Rates) -> None:
        self.said: list[str] = []
        self.tried: list[int] = []
        self._rates = rates
        monkeypatch.setattr(packing, "usable_gpus", lambda: 1)

    def _images_per_s(self, trial: TrialConfig, trials: int) -> float | None:
        assert trial.gpu
        self.tried.append(trials)
        return self._rates[trials]

    def gpus(self, folder: JobFolder, trial: TrialConfig | None = None) -> float:
        trial = trial or smallest_trial("adam_l2", model=TOY)
        spec = with_measured_packing(spec_of(AUTO), trial, folder, self._images_per_s, self.said.append, lambda: False)
        assert not spec.resources.auto
        assert as_packed(spec_of(AUTO), folder) == spec
        return spec.resources.gpus


def test_a_job_measures_once_and_its_next_driver_takes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = JobFolder(tmp_path), Asked(monkeypatch, {1: 100.0, 2: 190.0, 4: 300.0, 8: None})
    assert asked.gpus(folder) == 0.25
    assert asked.gpus(folder) == 0.25
    assert asked.tried == [1, 2, 4, 8]
    assert "resources: auto: 4 trials at once on a GPU" in asked.said[-1]


@pytest.mark.parametrize("change", [{"batch_size": 20}, {"precision": "bf16"}, {"model": NARROW}])
def test_another_net_batch_or_precision_is_measured_again(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = JobFolder(tmp_path), Asked(monkeypatch, {1: 100.0, 2: 90.0})
    asked.gpus(folder)
    asked.gpus(folder, smallest_trial("adam_l2", **{"model": TOY, **change}))
    assert asked.tried == [1, 2, 1, 2]


@pytest.mark.parametrize("kept", ["", "{}", "[1]", json.dumps({"of": {}, "rates": {}, "trials_per_gpu": 1})])
def test_an_answer_that_is_damaged_or_of_something_else_is_measured_again(
    kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = JobFolder(tmp_path), Asked(monkeypatch, {1: 100.0, 2: 150.0, 4: 10.0})
    folder.packing.write_text(kept)
    assert asked.gpus(folder) == 0.5


def test_without_a_gpu_a_trial_has_one_thread_and_as_many_run_as_there_are_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "usable_gpus", lambda: 0)
    said: list[str] = []
    trial, folder = smallest_trial("adam_l2", model=TOY), JobFolder(tmp_path)
    spec = with_measured_packing(
        spec_of(AUTO), trial, folder, lambda *_: pytest.fail("measured"), said.append, lambda: False
    )
    assert (spec.resources.cpus, spec.resources.gpus, spec.concurrent_on(6, 0)) == (1, 0, 6)
    assert len(said) == 1
    assert not folder.packing.exists()


@pytest.mark.parametrize(("gpus", "words"), [(0, "no GPU here: one thread a trial"), (1, "begins by measuring 1 to 8")])
def test_what_will_be_measured_is_told_before(gpus: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "usable_gpus", lambda: gpus)
    assert words in str(packing.expected(spec_of(AUTO)))
    assert packing.expected(spec_of()) is None


def test_a_cap_in_gpu_hours_is_none_where_there_is_no_gpu() -> None:
    spec = spec_of(("epochs: 8", "epochs: 8\n  max_gpu_hours: 2\nresources: auto"))
    assert with_packing(spec, None).budget.max_gpu_hours is None
    assert with_packing(spec, 2).budget.max_gpu_hours == 2
