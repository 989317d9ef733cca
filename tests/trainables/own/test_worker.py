"""The worker of users' trainables without a cluster: reports, the withheld judge, resuming, reuse, errors."""

import json
import math
import os
import pickle
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables.errors import CodeError
from trainables.own import user_trainable
from trainables.own.scratch import PREFIX, Scratch
from trainables.own.trial import OwnTrial
from trainables.own.worker import OwnWorker
from trainables.report import OwnReport, OwnResult, StepReport
from trainables.worker.watchdog import LONELY_EXIT

Trial = Callable[..., OwnTrial]
Config = Callable[..., dict[str, Any]]


def run(worker: OwnWorker, config: dict[str, Any], calls: int = 100) -> list[StepReport]:
    """The answers of a worker to at most ``calls`` calls, with every answer as it travels through JSON."""
    answers = [worker.begin(json.loads(json.dumps(config)))]
    while worker.busy and len(answers) < calls:
        answers.append(worker.train())
    return [StepReport.from_dict(json.loads(json.dumps(answer))) for answer in answers]


def reports(steps: list[StepReport]) -> list[OwnReport]:
    return [step.epoch for step in steps if isinstance(step.epoch, OwnReport) and not step.ended]


def losses(steps: list[StepReport]) -> list[float]:
    return [report.metric("val_loss") for report in reports(steps)]


SETS = """
torch.set_default_dtype(torch.float64)
os.environ["THEIRS"] = "64"


class Sets(tune.Trainable):
    def setup(self, config):
        bits = torch.finfo(torch.get_default_dtype()).bits
        self.seen = float(os.environ["THEIRS"]) if bits == 64 and torch.is_grad_enabled() else 0.0
        torch.set_default_dtype(torch.float16)
        torch.set_grad_enabled(False)
        os.environ["THEIRS"] = "3"

    def step(self):
        return {"val_loss": self.seen}


class Interrupts(tune.Trainable):
    def step(self):
        return {"val_loss": 1.0}

    def cleanup(self):
        raise KeyboardInterrupt


class Interrupted(tune.Trainable):
    def step(self):
        raise KeyboardInterrupt


class Refuses(Decay):
    def step(self):
        return {"val_loss": float(self.iteration)}

    def load_checkpoint(self, folder):
        raise NotImplementedError


class Linked(Decay):
    def save_checkpoint(self, folder):
        Path(folder, "deep").mkdir()
        Path(folder, "deep", "x.json").write_text(json.dumps(self.x))
        os.symlink("deep", Path(folder, "latest"))

    def load_checkpoint(self, folder):
        self.x = json.loads(Path(folder, "latest", "x.json").read_text())
"""

CHECKPOINTING = ("Decay", "DictDecay", "decay")


@pytest.mark.parametrize("name", [*CHECKPOINTING, "Forgetful"])
def test_a_trial_makes_one_report_per_call_and_at_most_as_many_as_it_may(
    name: str, worker: OwnWorker, trial_of: Trial, config_of: Config
) -> None:
    steps = run(worker, config_of(trial_of(name, epochs=3)))
    assert losses(steps) == [4.0, 2.0, 1.0]
    assert [report.epoch for report in reports(steps)] == [1, 2, 3]
    assert all(step.result is None and step.attempt == 1 for step in steps)
    with pytest.raises(CodeError, match="the trial has ended"):
        worker.train()


def test_a_function_that_returns_ends_its_trial_after_its_last_report(
    worker: OwnWorker, trial_of: Trial, config_of: Config
) -> None:
    *first, last = run(worker, config_of(trial_of("decay", epochs=10)))
    assert losses(first) == [4.0, 2.0, 1.0, 0.5]
    assert not any(step.ended for step in first)
    assert (last.ended, last.epoch, last.result) == (True, first[-1].epoch, None)


def test_a_class_that_says_done_ends_its_trial_with_its_last_report(
    worker: OwnWorker, trial_of: Trial, config_of: Config
) -> None:
    *first, last = run(worker, config_of(trial_of("Decay", {"factor": 0.1}, epochs=10)))
    assert (len(first), last.ended) == (1, True)
    assert last.epoch is not None
    assert last.epoch.metric("val_loss") == pytest.approx(0.08)


@pytest.mark.parametrize(("name", "expected"), [("generated", [2.0, 1.0]), ("returned", [1.0])])
def test_a_function_may_yield_or_return_its_reports(
    name: str, expected: list[float], worker: OwnWorker, trial_of: Trial, config_of: Config
) -> None:
    steps = run(worker, config_of(trial_of(name, {})))
    assert losses(steps) == expected
    assert steps[-1].ended


class TestJudge:
    @pytest.mark.parametrize("name", ["Decay", "decay"])
    def test_the_judge_metric_of_a_search_trial_is_withheld(
        self, name: str, worker: OwnWorker, trial_of: Trial, config_of: Config, tmp_path: Path
    ) -> None:
        trial = trial_of(name, {"factor": 0.7}, epochs=3)
        answers = [worker.begin(config_of(trial)), worker.train(), worker.train()]
        assert "test_loss" not in json.dumps(answers)
        withheld = [repr(8.0 * 0.7**step + 1)[:6] for step in (1, 2, 3)]
        assert not any(value in json.dumps(answers) for value in withheld)
        files = [file.read_bytes() for file in (tmp_path / "checkpoints").iterdir()]
        assert len(files) == 2
        assert not any(value.encode() in content for value in withheld for content in files)

    @pytest.mark.parametrize(("name", "epochs"), [("Decay", 3), ("decay", 3), ("decay", 10)])
    def test_the_last_report_of_a_confirm_run_gives_it(
        self, name: str, epochs: int, worker: OwnWorker, trial_of: Trial, config_of: Config
    ) -> None:
        *first, last = run(worker, config_of(trial_of(name, epochs=epochs), read_test=True))
        assert not any(step.result for step in first)
        assert isinstance(last.epoch, OwnReport)
        assert isinstance(last.result, OwnResult)
        assert dict(last.result.values) == {"test_loss": last.epoch.metric("val_loss") + 1}
        assert last.result.device.startswith("cpu")
        assert "test_loss" not in last.epoch.values

    def test_it_may_come_with_the_last_report_only(self, worker: OwnWorker, trial_of: Trial, config_of: Config) -> None:
        last = run(worker, config_of(trial_of("late_judge", {}, epochs=10), read_test=True))[-1]
        assert isinstance(last.result, OwnResult)
        assert dict(last.result.values) == {"test_loss": 0.3}

    def test_without_a_judge_the_choose_metric_judges(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config
    ) -> None:
        last = run(worker, config_of(trial_of("decay", judge="val_loss"), read_test=True))[-1]
        assert last.epoch is not None
        assert isinstance(last.result, OwnResult)
        assert dict(last.result.values) == {"val_loss": last.epoch.metric("val_loss")}

    @pytest.mark.parametrize("placeholder", [math.nan, None, "none yet"])
    @pytest.mark.parametrize("epochs", [2, 10])
    def test_before_the_last_report_a_placeholder_may_stand_in_its_place(
        self, placeholder: Any, epochs: int, worker: OwnWorker, trial_of: Trial, config_of: Config
    ) -> None:
        given = [{"val_loss": 1.0, "test_loss": placeholder}, {"val_loss": 0.5, "test_loss": 0.3}]
        steps = run(worker, config_of(trial_of("reports", {"reports": given}, epochs=epochs), read_test=True))
        assert isinstance(steps[-1].result, OwnResult)
        assert dict(steps[-1].result.values) == {"test_loss": 0.3}
        assert all(isinstance(step.epoch, OwnReport) and step.epoch.diverged is None for step in steps)

    @pytest.mark.parametrize("epochs", [2, 10])
    def test_a_last_report_without_its_number_diverged_or_fails(
        self, epochs: int, worker: OwnWorker, trial_of: Trial, config_of: Config
    ) -> None:
        given = [{"val_loss": 1.0, "test_loss": 0.3}, {"val_loss": 0.5, "test_loss": math.nan}]
        last = run(worker, config_of(trial_of("reports", {"reports": given}, epochs=epochs), read_test=True))[-1]
        assert isinstance(last.epoch, OwnReport)
        assert (last.epoch.epoch, last.epoch.diverged, last.result) == (2, "test_loss is nan", None)
        given[1]["test_loss"] = None  # type: ignore[assignment]
        with pytest.raises(CodeError, match="reported 'test_loss' as None, which is no number"):
            run(worker, config_of(trial_of("reports", {"reports": given}, epochs=epochs), read_test=True))

    def test_an_attempt_that_resumes_after_the_last_report_judges_it_too(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config
    ) -> None:
        config = config_of(trial_of("endless", {}, epochs=10), read_test=True)
        run(worker, config, calls=3)
        worker.stop()
        [last] = run(worker, {**config, "attempt": 2, "accepted": [(3, 1)]})
        assert isinstance(last.epoch, OwnReport)
        assert (last.ended, last.epoch.epoch, last.epoch.diverged, last.result) == (True, 3, "test_loss is nan", None)

    def test_a_confirm_run_that_does_not_report_it_fails(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config
    ) -> None:
        with pytest.raises(CodeError, match=r"theirs:decay reported no metric 'tst_loss'; did you mean 'test_loss'\?"):
            run(worker, config_of(trial_of("decay", judge="tst_loss"), read_test=True))


class TestResuming:
    @pytest.mark.parametrize("name", CHECKPOINTING)
    def test_a_later_attempt_resumes_from_the_newest_report_on_record(
        self, name: str, worker: OwnWorker, trial_of: Trial, config_of: Config
    ) -> None:
        trial = trial_of(name)
        whole = run(worker, config_of(trial, checkpoints=f"{os.getcwd()}/unused"))
        killed, second = OwnWorker(), config_of(trial, attempt=2, accepted=[[2, 1], [1, 1]])
        run(killed, config_of(trial), calls=3)
        killed.close()
        steps = run(worker, second)
        assert [report.epoch for report in reports(steps)] == [3, 4]
        assert losses(steps) == losses(whole)[2:]
        if name != "decay":  # a class may count by ``self.iteration``
            assert [report.metric("steps") for report in reports(steps)] == [2, 3]

    def test_a_class_that_refuses_to_load_is_built_anew(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config, tmp_path: Path
    ) -> None:
        with (tmp_path / "code" / "theirs.py").open("a") as file:
            file.write(SETS)
        try:
            trial = trial_of("Refuses", judge="val_loss")
            run(worker, config_of(trial), calls=2)
            again = run(worker, config_of(trial, attempt=2, accepted=[[2, 1], [1, 1]]), calls=2)
            assert losses(again) == [0.0, 1.0]
            trial = trial_of("Linked")
            config = config_of(trial, checkpoints=str(tmp_path / "linked"))
            run(worker, config, calls=2)
            again = run(worker, {**config, "attempt": 2, "accepted": [[2, 1], [1, 1]]}, calls=1)
            assert losses(again) == [1.0]
        finally:
            torch.set_default_dtype(torch.float32)

    def test_a_damaged_checkpoint_is_not_used(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config, tmp_path: Path
    ) -> None:
        trial = trial_of("decay")
        run(worker, config_of(trial), calls=2)
        newest = tmp_path / "checkpoints" / "000002-001.safetensors"
        for what in (b"state.json", b"judged"):
            content = newest.read_bytes()
            at = content.index(what)
            newest.write_bytes(content[:at] + b"S" + content[at + 1 :])
            steps = run(worker, config_of(trial, attempt=2, accepted=[[2, 1], [1, 1]]), calls=1)
            assert [report.epoch for report in reports(steps)] == [2]
            newest.write_bytes(content)

    @pytest.mark.parametrize("name", ["Forgetful", "Empty", "Unloadable"])
    def test_a_trainable_without_checkpoints_starts_again(
        self, name: str, worker: OwnWorker, trial_of: Trial, config_of: Config
    ) -> None:
        trial = trial_of(name)
        first = run(worker, config_of(trial), calls=2)
        assert run(worker, config_of(trial, attempt=2, accepted=[[2, 1], [1, 1]]), calls=1)[0].epoch is not None
        again = run(worker, config_of(trial, attempt=3, accepted=[[2, 1], [1, 1]]), calls=2)
        assert [(report.epoch, report.metric("val_loss")) for report in reports(again)] == [
            (report.epoch, report.metric("val_loss")) for report in reports(first)
        ]

    def test_an_attempt_that_resumes_after_the_last_report_knows_the_result(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config
    ) -> None:
        trial = trial_of("decay", epochs=10)
        run(worker, config_of(trial, read_test=True), calls=4)
        accepted = [[epoch, 1] for epoch in (4, 3, 2, 1)]
        (only,) = run(worker, config_of(trial, read_test=True, attempt=2, accepted=accepted))
        assert (only.ended, only.epoch) == (True, None)
        assert isinstance(only.result, OwnResult)
        assert dict(only.result.values) == {"test_loss": 1.5}

    def test_a_checkpoint_that_cannot_be_loaded_is_an_error(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config
    ) -> None:
        run(worker, config_of(trial_of("Decay")), calls=1)
        with pytest.raises(CodeError, match=r"theirs:DictDecay: loading a checkpoint raised TypeError.*theirs\.py:\d+"):
            worker.begin(config_of(trial_of("DictDecay"), attempt=2, accepted=[[1, 1]]))

    def test_checkpoints_are_not_written_too_often(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config, tmp_path: Path
    ) -> None:
        steps = run(worker, config_of(trial_of("decay", {"factor": 0.5, "steps": 9}, epochs=9), checkpoint_s=3600.0))
        assert len(reports(steps)) == 9
        assert not (tmp_path / "checkpoints").exists()


class TestReuse:
    def test_a_trainable_is_built_anew_for_each_trial(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config
    ) -> None:
        first, again = (losses(run(worker, config_of(trial_of("Decay")), calls=2)) for _ in range(2))
        assert first == again == [4.0, 2.0]

    def test_random_numbers_depend_on_the_seed_of_the_trial_alone(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config
    ) -> None:
        trial = trial_of("Draws", {}, judge="val_loss", epochs=1)
        answers = []
        for seed in (7, 8, 7):
            (step,) = run(worker, config_of(replace(trial, seed=seed)))
            assert isinstance(step.epoch, OwnReport)
            answers.append(step.epoch.values)
            random.seed()
            np.random.seed()
            torch.seed()
        assert answers[0] == answers[2]
        assert all(answers[0][name] != answers[1][name] for name in ("val_loss", "n", "t"))

    def test_each_trial_has_a_new_folder_that_is_removed(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config, tmp_path: Path
    ) -> None:
        trial = trial_of("where", {}, judge="val_loss", epochs=5)
        for _ in range(2):
            assert run(worker, config_of(trial), calls=1)[0].epoch is not None
            inside = Path.cwd()
            assert (inside / "made.txt").read_text() == "here"
            assert run(worker, config_of(trial))[0].epoch.metric("val_loss") == 1  # type: ignore[union-attr]
            assert not inside.exists()
        assert not (tmp_path / "made.txt").exists()
        assert Path.cwd() == tmp_path

    def test_a_stopped_function_has_left_before_the_next_trial(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config
    ) -> None:
        before = threading.active_count()
        run(worker, config_of(trial_of("decay")), calls=2)
        worker.stop()
        # The watchdog is a thread of the process.
        assert threading.active_count() <= before + 1

    @pytest.mark.slow
    def test_a_function_that_does_not_leave_ends_the_process_before_the_next_trial(
        self, config_of: Config, trial_of: Trial, tmp_path: Path
    ) -> None:
        lines = (
            "user_trainable.LEAVE_S = 0.1",
            "print('haunted' in worker.begin(config))",
            "print(worker.busy, sorted(worker.begin(config)), flush=True)",
        )
        ended = process(config_of(trial_of("stubborn", {}, judge="val_loss", epochs=1)), lines, tmp_path)
        assert (ended.returncode, ended.stdout) == (0, "True\nFalse ['haunted']\n"), ended.stderr

    def test_settings_of_the_process_are_those_after_the_import_for_every_trial(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config, tmp_path: Path
    ) -> None:
        with (tmp_path / "code" / "theirs.py").open("a") as file:
            file.write(SETS)
        trial = trial_of("Sets", {}, judge="val_loss", epochs=1)
        try:
            for _ in range(2):
                (step,) = run(worker, config_of(trial))
                assert step.epoch is not None
                assert step.epoch.metric("val_loss") == 64
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_grad_enabled(True)

    def test_a_cleanup_that_raises_keyboard_interrupt_does_not_lose_the_result(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config, tmp_path: Path
    ) -> None:
        with (tmp_path / "code" / "theirs.py").open("a") as file:
            file.write(SETS)
        (step,) = run(worker, config_of(trial_of("Interrupts", {}, judge="val_loss", epochs=1)))
        assert step.epoch is not None
        with pytest.raises(CodeError, match="theirs:Interrupted raised KeyboardInterrupt"):
            run(worker, config_of(trial_of("Interrupted", {}, judge="val_loss", epochs=1)))

    def test_a_worker_that_nobody_calls_ends_itself(self, config_of: Config, trial_of: Trial, tmp_path: Path) -> None:
        lines = ("worker.begin(config)", "print('waiting', flush=True)", "time.sleep(60)")
        ended = process(config_of(trial_of("decay"), lonely_s=0.2), lines, tmp_path)
        assert (ended.returncode, ended.stdout) == (LONELY_EXIT, "waiting\n"), ended.stderr


def process(config: dict[str, Any], lines: tuple[str, ...], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run ``lines`` in a new process with a ``worker``."""
    code = (
        "import cluster.runtime, json, sys, time",
        "from trainables.own import user_trainable",
        "from trainables.own.worker import OwnWorker",
        "config, worker = json.loads(sys.argv[1]), OwnWorker()",
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(folder / "code")])}
    return subprocess.run(
        [sys.executable, "-c", "\n".join((*code, *lines)), json.dumps(config)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class TestConfig:
    def test_the_config_has_no_keys_that_the_spec_does_not_pass(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config
    ) -> None:
        seed = 2**62 + 5
        for passed in ((), ("seed",), ("seed", "read_test")):
            trial = trial_of("seen", {"lr": 0.5}, judge="val_loss", passed=passed, seed=seed, epochs=1)
            (step,) = run(worker, config_of(trial))
            assert isinstance(step.epoch, OwnReport)
            names = {name.removeprefix("got/") for name in step.epoch.values if name.startswith("got/")}
            assert names == {"lr"} | ({"seed"} if passed else set())  # a bool is no number, so read_test is not shown
            if passed:
                assert step.epoch.metric("got/seed") == seed % 2**31


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "config", "message"),
        [
            ("Failing", {}, r"theirs:Failing raised Odd: odd 3 \(.*theirs\.py:\d+\)"),
            ("Failing", {"at": "setup"}, r"theirs:Failing raised Odd: odd 3 \(.*theirs\.py:\d+\)"),
            ("failing", {}, r"theirs:failing raised Odd: odd 3 \(.*theirs\.py:\d+\)"),
            ("silent", {}, "theirs:silent ended without a report; call ray.tune.report"),
            ("two", {}, "'theirs:two' must be callable with one argument, the config"),
            ("number", {}, "'theirs:number' must be a ray.tune.Trainable subclass, or a function .*, not int"),
            ("Odd", {}, "'theirs:Odd' is a class, but no subclass of ray.tune.Trainable"),
            ("nothing", {}, "'theirs:nothing': module 'theirs' has no attribute 'nothing'"),
        ],
    )
    def test_a_failure_is_one_line_that_names_file_and_line(
        self, name: str, config: Any, message: str, worker: OwnWorker, trial_of: Trial, config_of: Config
    ) -> None:
        with pytest.raises(CodeError, match=f"^{message}") as caught:
            run(worker, config_of(trial_of(name, config, judge="val_loss")))
        assert "\n" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        assert not worker.busy
        assert losses(run(worker, config_of(trial_of("Decay")), calls=1)) == [4.0]

    def test_the_traceback_of_users_code_goes_to_the_workers_output(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(CodeError):
            run(worker, config_of(trial_of("failing", {}, judge="val_loss")))
        assert "raise Odd(1, 2)" in capsys.readouterr().err

    def test_the_error_of_a_missing_metric_survives_pickling(
        self, worker: OwnWorker, trial_of: Trial, config_of: Config
    ) -> None:
        with pytest.raises(CodeError) as caught:
            run(worker, config_of(trial_of("decay", choose="val_los")))
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        assert "did you mean 'val_loss'?" in str(caught.value)


class TestScratch:
    def test_the_users_mlflow_writes_to_a_store_of_the_worker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker.example")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
        monkeypatch.setenv("MLFLOW_RUN_ID", "0123")
        scratch = Scratch()
        left = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
        assert left == {"MLFLOW_TRACKING_URI": f"sqlite:///{scratch.path}/mlflow.db"}
        scratch.remove()

    def test_the_folder_of_a_killed_worker_is_removed_by_a_later_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        alive, killed = Scratch(), tmp_path / f"{PREFIX}killed"
        (killed / "deep").mkdir(parents=True)
        for folder in (alive.path, killed):
            os.utime(folder, (1, 1))
        Scratch().remove()
        assert alive.path.exists()
        assert not killed.exists()
        alive.remove()

    def test_modules_are_found_from_every_folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(sys, "path", ["", "code", *sys.path])
        scratch = Scratch()
        assert sys.path[:2] == [str(tmp_path), str(tmp_path / "code")]
        scratch.remove()


def test_packed_files_cannot_leave_the_folder(tmp_path: Path) -> None:
    for name in ("../out", "/out", "a/../../out"):
        with pytest.raises(ValueError, match="outside the checkpoint"):
            user_trainable.unpack({name: torch.zeros(1, dtype=torch.uint8)}, tmp_path)
