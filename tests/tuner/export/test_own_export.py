"""Exports of the user's own trainables and optimizers: what they hold, what runs code, and running them again."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.events import History
from tests.tuner.own_jobs import OwnHistory, own_spec
from tests.tuner.spec_texts import NOAM, spec_of
from trainables.config import OptimizerConfig
from trainables.own.trial import OwnTrial
from trainables.report import Report
from tuner.errors import IntegrityError, SpecError
from tuner.export.export_file import NEWEST, Export, build_export, check_allowed, must_allow_code, read_export, render
from tuner.export.job_winner import as_champion
from tuner.export.reproduce import reproduce
from tuner.jobs.workspace import Workspace
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import Stage, State
from tuner.verdict.method import take_look
from tuner.verdict.ranking import build

SPEC = own_spec()
CODE = """
from ray import tune

def Ridge(config):
    for epoch in (1, 2):
        tune.report({"val_loss": 1.0 / epoch, "test_loss": config["alpha"] + config["seed"] / 3})
"""


def judged(history: OwnHistory, seed: int) -> float:
    """What ``CODE`` reports."""
    return float(history.arms["ridge"].default["alpha"]) + seed / 3


def export_of(values: Mapping[int, float] | None = None) -> Export:
    """The export of the baseline of a small job, with these judged values by seed."""
    history = OwnHistory(SPEC)
    history.searched({"ridge": [0.5, 0.52, 0.49], "trees": [0.4, 0.42, 0.39]})
    look = take_look(history.record(), SPEC, 3)
    assert look is not None
    history.looked(look.look, look.searches, look.outcomes)
    values = {seed: judged(history, seed) for seed in (7, 8, 9)} if values is None else values
    history.confirmed({"ridge": values, "trees": values}, {"ridge": 1, "trees": 1})
    record = history.record()
    return build_export(record, SPEC, build(record, SPEC), "ridge", {"": "parent"})


def test_an_export_holds_the_trial_and_its_results_by_seed() -> None:
    found = export_of()
    assert (found.schema_version, found.variant, found.chosen_by[:15]) == (NEWEST, "mine:Ridge", "lowest val_loss")
    trial = found.own_trial
    assert trial is not None
    assert (trial.trainable, trial.epochs, trial.seed, trial.passed) == ("mine:Ridge", 2, 7, ("seed",))
    assert (trial.choose, trial.judge) == ("val_loss", "test_loss")
    assert [run.seed for run in found.own_runs] == [7, 8, 9]
    assert found.judged_mean == pytest.approx(sum(run.judged for run in found.own_runs) / 3)
    plain = found.plain()
    assert plain["metric"] == {"choose": "val_loss", "judge": "test_loss", "goal": "minimize", "unit": ""}
    assert not plain.keys() & {"confirm_runs", "test_mean_points", "test_sd_points"}
    with pytest.raises(SpecError, match="is the trainable mine:Ridge, which builds its model itself"):
        _ = found.config


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_an_export_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    file, found = tmp_path / f"best{suffix}", export_of()
    file.write_text(render(found, suffix))
    assert read_export(file) == found
    file.write_text(render(found, suffix).replace("mine:Ridge", "mine:Other"))
    with pytest.raises(IntegrityError, match="altered or cut short"):
        read_export(file)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"own_runs": []}, "own_runs: is missing"),
        ({"test_mean_points": 5.0}, "test_mean_points: does not fit"),
        ({"trial": {"trainable": "no path"}}, "is no module:name"),
        ({"trial": {"judge": "other"}}, "must be those of the metric"),
        ({"trial": {"seed": 8}}, "must be that of the first confirm run"),
        ({"trial": {"threads": 0}}, "threads|cpus"),
        ({"trial": {"surprise": 1}}, "surprise"),
    ],
)
def test_an_export_that_no_job_could_give_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    values = {**export_of().plain(exclude={"sha256"})}
    for key, value in change.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    file = tmp_path / "best.yaml"
    file.write_text(sealed_text(values))
    with pytest.raises(IntegrityError, match=reason):
        read_export(file)


def sealed_text(values: Mapping[str, Any]) -> str:
    """A file with the right checksum of any content."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    whole = {**values, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def test_the_python_form_of_an_export_gives_the_trial() -> None:
    names: dict[str, Any] = {}
    exec(render(export_of(), ".py"), names)
    assert isinstance(names["TRIAL"], OwnTrial)


def optimizer_job(name: str, more: str = "") -> tuple[SearchSpec, Export]:
    """A job whose second arm has this optimizer, and the export of the arm."""
    arm = (
        f"  - {{name: own, optimizer: '{name}', parameters: {{lr: {{min: 1e-3, max: 1.0, scale: log}}}}, "
        f"fixed: {{momentum: 0.9}}{more}}}\n"
    )
    spec = spec_of((NOAM, arm))
    history = History(spec)
    history.trial("adam_l2", 0, [0.5])
    setting = dict(history.arms["own"].setting(history.arms["own"].default))
    for key, stage, seed, round_number in (("search/own/0", "search", 0, 0), ("confirm/own/1/5", "confirm", 5, 1)):
        if stage == "confirm":
            history.add("confirm", round=1, seeds=[5], winners={"own": 0})
        begun = {"trial": key, "stage": stage, "arm": "own", "number": 0, "seed": seed, "round": round_number}
        knobs = dict(history.arms["own"].default) if stage == "search" else {}
        history.add("trial", **begun, hyper=setting, knobs=knobs)
        history.add("attempt", trial=key, attempt=1, epoch=0)
        numbers = dict.fromkeys(("train_loss", "train_acc", "val_loss", "val_acc", "lr", "weight_decay"), 0.5)
        history.add("epoch", trial=key, attempt=1, epoch=1, seconds=1.0, **numbers)
        result = {"test_acc": 0.75, "test_loss": 0.5, "weights_sha256": "a" * 64, "device": "cpu"}
        end = result if stage == "confirm" else {}
        history.add("end", trial=key, state=State.COMPLETE, reason=None, result=end)
    record = history.record()
    assert record.of(Stage.CONFIRM)
    return spec, build_export(record, spec, build(record, spec), "own", {})


def test_an_own_optimizers_export_has_all_that_builds_the_trial_again(tmp_path: Path) -> None:
    spec, found = optimizer_job("torch.optim:SGD")
    assert found.config.optimizer == OptimizerConfig("torch.optim:SGD", {"momentum": 0.9})
    assert (found.schema_version, found.test_mean_points) == (NEWEST, 75.0)
    file = tmp_path / "own.yaml"
    file.write_text(render(found, ".yaml"))
    assert read_export(file) == found
    # An optimizer of torch is no code of a stranger's.
    check_allowed(found, None, allow_code=False)
    assert not must_allow_code(spec)
    assert "allow_code" not in as_champion("model", found, b"", 0).description


@pytest.mark.parametrize(
    ("name", "more", "code"),
    [
        ("lion_pytorch:Lion", "", "lion_pytorch:Lion"),
        ("torch.optim:SGD", ", groups: 'mine:groups'", "mine:groups"),
        ("torch.optim.sgd:SGD", "", "torch.optim.sgd:SGD"),
    ],
)
def test_an_export_that_names_code_needs_the_users_word(name: str, more: str, code: str) -> None:
    spec, found = optimizer_job(name, more)
    with pytest.raises(SpecError, match=rf"names code to run \({code}\); give --allow-code"):
        check_allowed(found, None, allow_code=False)
    check_allowed(found, None, allow_code=True)
    assert must_allow_code(spec)
    assert "allow_code=True" in as_champion("model", found, b"", 0).description


def test_an_own_trainable_runs_only_with_the_users_word(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"names code to run \(mine:Ridge\)"):
        reproduce(export_of(), Workspace(tmp_path))


def test_an_own_trainable_is_run_again_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///the-users-own.db")
    seen: list[Report] = []
    same = reproduce(export_of(), Workspace(tmp_path), allow_code=True, on_epoch=seen.append)
    assert same.ok
    # The worker leads the trainable's own mlflow away, and nobody else's.
    assert (os.environ["MLFLOW_TRACKING_URI"], Path.cwd()) == ("sqlite:///the-users-own.db", tmp_path)
    assert same.text().endswith("equal to the recorded value to the last bit")
    assert [(report.epoch, report.metric("val_loss")) for report in seen] == [(1, 1.0), (2, 0.5)]
    fresh = reproduce(export_of(), Workspace(tmp_path), fresh_seed=10, allow_code=True)
    assert fresh.ok
    assert "inside" in fresh.text()
    other = reproduce(export_of({7: 50.0, 8: 50.1, 9: 50.2}), Workspace(tmp_path), allow_code=True)
    assert not other.ok
    assert "(recorded 50.0); outside 48" in other.text()
    with pytest.raises(SpecError, match="one confirm run, which shows no spread"):
        reproduce(export_of({7: 2.0}), Workspace(tmp_path), fresh_seed=1, allow_code=True)
