"""Exports: a winner's file trains again to the same bits, and an altered one is refused."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from tests.tuner.whole_jobs import Ended, Place
from trainables.config import TrialConfig
from trainables.report import ConfirmResult
from trainables.training.trainer import digest
from tuner.api import load_config
from tuner.errors import IntegrityError, NotFound
from tuner.export.export_file import NEWEST, Export, read_export
from tuner.export.job_winner import export_arm
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.workspace import Workspace
from tuner.report.publish import publish
from tuner.storage.events import Stage
from tuner.verdict.ranking import job_results

Tuner = Callable[..., Ended]
ARM = "noam"


@pytest.fixture(scope="module")
def exported(searched: tuple[Place, Ended], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the shared search, as YAML."""
    return export_arm(job_results(searched[0].job), ARM, tmp_path_factory.mktemp("export") / "noam.yaml", force=False)


@pytest.fixture
def values(exported: Path) -> dict[str, Any]:
    """What the export says, free to be changed."""
    return read_export(exported).plain()


def sealed(values: dict[str, Any]) -> str:
    """The values as JSON with a checksum that fits them: what a forger would write."""
    content = {key: value for key, value in values.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return json.dumps(content | {"sha256": hashlib.sha256(text.encode()).hexdigest()}, indent=2) + "\n"


@pytest.mark.parametrize("suffix", [".yaml", ".json", ".py", ".safetensors"])
def test_exporting_twice_gives_the_same_bytes(searched: tuple[Place, Ended], tmp_path: Path, suffix: str) -> None:
    first, second = (
        export_arm(job_results(searched[0].job), ARM, tmp_path / f"{n}{suffix}", force=False) for n in (1, 2)
    )
    assert first.read_bytes() == second.read_bytes() != b""


def test_every_text_format_says_the_same(searched: tuple[Place, Ended], exported: Path, tmp_path: Path) -> None:
    as_json = export_arm(job_results(searched[0].job), ARM, tmp_path / "noam.json", force=False)
    as_python = export_arm(job_results(searched[0].job), ARM, tmp_path / "noam.py", force=False)
    module: dict[str, Any] = {}
    exec(as_python.read_text(), module)
    found = read_export(exported)
    assert read_export(as_json) == found
    assert Export(**module["EXPORT"]) == found
    assert module["TRIAL"] == found.config


def test_an_export_tells_what_the_job_found(searched: tuple[Place, Ended], exported: Path) -> None:
    found, record = read_export(exported), searched[0].job.record()
    winner = record.trials[found.search_trial]
    assert found.trial["hyper"] == winner.hyper
    assert found.search_value == winner.epochs[-1].metric("val_acc")
    assert [run.seed for run in found.confirm_runs] == list(record.rounds[0].seeds)
    results = [record.trials[f"confirm/{ARM}/1/{seed}"].result for seed in record.rounds[0].seeds]
    assert [run.test_acc for run in found.confirm_runs] == [result and result.metric("test_acc") for result in results]
    assert all(run.mlflow_run for run in found.confirm_runs)
    assert found.comparison is not None


def test_the_weights_are_those_of_the_first_confirm_run(
    searched: tuple[Place, Ended], exported: Path, tmp_path: Path
) -> None:
    weights = load_file(export_arm(job_results(searched[0].job), ARM, tmp_path / "noam.safetensors", force=False))
    assert digest(weights) == read_export(exported).confirm_runs[0].weights_sha256


@pytest.mark.parametrize("damage", ["altered", "cut"])
def test_weights_that_are_damaged_are_not_exported(
    searched: tuple[Place, Ended], exported: Path, tmp_path: Path, damage: str
) -> None:
    job = searched[0].job
    kept = Path(job.weights(ARM, read_export(exported).confirm_round))
    good = kept.read_bytes()
    kept.write_bytes(good[:-1] if damage == "cut" else good[:-1] + bytes([good[-1] ^ 1]))
    try:
        with pytest.raises(IntegrityError, match=f"^{kept}: damaged"):
            export_arm(job_results(job), ARM, tmp_path / "noam.safetensors", force=False)
    finally:
        kept.write_bytes(good)
    assert list(tmp_path.iterdir()) == []


def test_load_config_gives_a_training_that_is_ready(searched_home: Workspace, exported: Path) -> None:
    training = load_config(exported)
    config = TrialConfig.from_dict(read_export(exported).trial)
    assert (training.config, training.epoch) == (config, 0)
    assert len(training.optimizer.param_groups[0]["params"]) == len(list(training.model.parameters()))
    assert training.schedule.lr(config.hyper.warmup - 1) == pytest.approx(config.hyper.lr)
    assert training.run_epoch().epoch == 1


def test_reproduce_comes_to_the_same_bits(searched_home: Workspace, exported: Path, tuner: Tuner) -> None:
    ended = tuner("reproduce", exported)
    assert ended.code == 0, ended.err
    assert "weights equal the recorded ones bit for bit" in ended.out
    assert ended.err.count("epoch ") == 6


def test_a_fresh_seed_must_be_fresh(searched_home: Workspace, exported: Path, tuner: Tuner) -> None:
    recorded = read_export(exported).confirm_runs[0].seed
    ended = tuner("reproduce", exported, "--fresh-seed", recorded)
    assert (ended.code, ended.out) == (2, "")
    assert f"seed {recorded} is one of the recorded seeds" in ended.err


def test_a_fresh_seed_is_judged_by_the_prediction_interval(
    searched_home: Workspace, exported: Path, tuner: Tuner
) -> None:
    ended = tuner("reproduce", exported, "--fresh-seed", 5, "-o", "json")
    found = json.loads(ended.out)
    assert (found["seed"], found["recorded"], found["same_bits"]) == (5, None, None)
    assert found["reproduced"] == (found["low"] <= found["test_acc"] <= found["high"])
    assert ended.code == (0 if found["reproduced"] else 5)


def test_a_forged_result_is_not_reproduced(
    searched_home: Workspace, values: dict[str, Any], tuner: Tuner, tmp_path: Path
) -> None:
    values["trial"]["hyper"]["lr"] *= 1.0001
    (tmp_path / "forged.json").write_text(sealed(values))
    ended = tuner("reproduce", tmp_path / "forged.json")
    assert ended.code == 5
    assert "weights differ from the recorded ones" in ended.out
    assert "forged.json: not reproduced" in ended.err


def test_other_data_is_told_before_training(
    searched_home: Workspace, values: dict[str, Any], tuner: Tuner, tmp_path: Path
) -> None:
    (tmp_path / "other.json").write_text(sealed(values | {"data_fingerprint": "0" * 64}))
    ended = tuner("reproduce", tmp_path / "other.json")
    assert ended.code == 5
    assert "the data differs from the data of the search" in ended.err
    assert f"decodes them otherwise (the search used tuner {values['versions']['tuner']})" in ended.err
    assert "epoch" not in ended.err


def test_code_that_an_export_names_is_not_run_unasked(
    searched_home: Workspace, values: dict[str, Any], tuner: Tuner, tmp_path: Path
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    values["trial"]["model"] = {"name": "evil:build", "options": {}}
    (tmp_path / "evil.json").write_text(sealed(values))
    ended = tuner("reproduce", tmp_path / "evil.json")
    assert ended.code == 2
    assert "names code to run (evil:build); give --allow-code if you trust it" in ended.err


@pytest.mark.parametrize(
    ("old", "new"),
    [("lr: 0", "lr: 1"), ("\n- seed: ", "\n- seed: 1"), ("verdict: ", "verdict: beats "), ("arm: n", "arm: m")],
)
def test_an_altered_export_is_refused(exported: Path, tuner: Tuner, tmp_path: Path, old: str, new: str) -> None:
    text = exported.read_text()
    assert old in text
    (tmp_path / "altered.yaml").write_text(text.replace(old, new, 1))
    ended = tuner("reproduce", tmp_path / "altered.yaml")
    assert ended.code == 5
    assert "altered.yaml: altered or cut short: its sha256 is not that of its content" in ended.err


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_truncated_export_is_refused(
    searched: tuple[Place, Ended], tmp_path: Path, share: float, suffix: str
) -> None:
    whole = export_arm(job_results(searched[0].job), ARM, tmp_path / f"whole{suffix}", force=False).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(IntegrityError, match=cut.name):
        read_export(cut)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("notes",), "mine", "notes: Extra inputs"),
        (("trial", "hyper", "momentum"), 0.9, "momentum"),
        (("trial", "data", "url"), "http://example.org", "url"),
        (("trial", "gpus"), 1, "gpus"),
        (("confirm_runs",), "none", "confirm_runs"),
        (("trial", "hyper"), None, "not an export of this version"),
        (("schema_version",), NEWEST + 1, f"written by a newer tuner (schema {NEWEST + 1}; this one reads up to"),
    ],
)
def test_what_this_version_does_not_know_is_refused_even_if_the_checksum_fits(
    values: dict[str, Any], tmp_path: Path, path: tuple[str, ...], value: Any, problem: str
) -> None:
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (tmp_path / "odd.json").write_text(sealed(values))
    with pytest.raises(IntegrityError) as caught:
        read_export(tmp_path / "odd.json")
    assert problem in str(caught.value)


def test_an_export_that_is_not_there_is_not_found(tuner: Tuner, tmp_path: Path) -> None:
    ended = tuner("reproduce", tmp_path / "none.yaml")
    assert ended.code == 4
    with pytest.raises(NotFound):
        read_export(tmp_path / "none.yaml")
    with pytest.raises(IntegrityError):
        read_export(tmp_path)


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_no_flipped_byte_is_taken(searched: tuple[Place, Ended], tmp_path: Path, suffix: str) -> None:
    file = export_arm(job_results(searched[0].job), ARM, tmp_path / f"flipped{suffix}", force=False)
    whole = file.read_bytes()
    rng = random.Random(0)
    found = []
    for _ in range(100):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= rng.randrange(1, 256)
        file.write_bytes(flipped)
        found.append(read_or_refused(file))
    # Not even a space for a line break, or Null for null, that says the same.
    assert found == [None] * 100


def read_or_refused(file: Path) -> Export | None:
    try:
        return read_export(file)
    except IntegrityError:
        return None


def test_before_anything_is_confirmed_there_is_nothing_to_export(
    made_up_job: Callable[[str, History], JobFolder], tuner: Tuner, tmp_path: Path
) -> None:
    history = History(spec_of())
    history.trial("adam_l2", 0, [0.5])
    made_up_job("job-1", history)
    ended = tuner("export", "job-1", "--best", "-o", "best.yaml")
    assert ended.code == 4
    assert (
        "nothing to export: the best setting of arm adam_l2 of job job-1 has no finished confirm run yet" in ended.err
    )
    assert not (tmp_path / "best.yaml").exists()


def test_an_existing_file_is_kept_unless_forced(searched_home: Workspace, tuner: Tuner, tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text("mine")
    ended = tuner("export", "--best", "-o", "best.yaml")
    assert ended.code == 2
    assert "best.yaml exists already; give --force to overwrite it" in ended.err
    assert (tmp_path / "best.yaml").read_text() == "mine"
    assert tuner("export", "--best", "-o", "best.yaml", "--force").code == 0
    assert read_export(tmp_path / "best.yaml").arm in searched_home.job().record().arms


def test_all_arms_are_exported_to_a_folder(searched_home: Workspace, tuner: Tuner, tmp_path: Path) -> None:
    ended = tuner("export", "--all", "-o", "out")
    assert ended.code == 0
    arms = searched_home.job().record().arms
    assert ended.out.split() == [f"out/{arm}.yaml" for arm in arms]
    assert [read_export(tmp_path / "out" / f"{arm}.yaml").arm for arm in arms] == list(arms)


@pytest.mark.parametrize(
    ("args", "code", "problem"),
    [
        (("-o", "a.yaml"), 2, "give exactly one of --best, --arm ARM and --all"),
        (("--best", "--all", "-o", "a.yaml"), 2, "give exactly one of"),
        (("--best",), 2, "Missing option '-o'"),
        (("--best", "-o", "a.toml"), 2, "cannot export to .toml; use .yaml, .yml, .json, .py, .safetensors"),
        (("--best", "-o", "a"), 2, "a file without a suffix"),
        (("--arm", "adam", "-o", "a.yaml"), 4, "no arm 'adam'"),
        (("--best", "-o", "."), 2, "is a folder; name a file"),
    ],
)
def test_an_export_that_cannot_be_made_is_told(
    searched_home: Workspace, tuner: Tuner, args: tuple[str, ...], code: int, problem: str
) -> None:
    ended = tuner("export", *args)
    assert (ended.code, ended.out) == (code, "")
    assert problem in ended.err


def test_weights_that_were_not_kept_are_told(made_up_job: Callable[[str, History], JobFolder], tuner: Tuner) -> None:
    history = History(spec_of())
    winners = dict.fromkeys(history.arms, 0)
    for arm in winners:
        history.trial(arm, 0, [0.5])
    history.confirm(1, winners, {arm: {1: 0.5, 2: 0.6} for arm in winners})
    made_up_job("job-1", history)
    ended = tuner("export", "--best", "-o", "best.safetensors")
    assert ended.code == 4
    assert "kept no weights of arm adam_l2" in ended.err


def test_the_share_of_active_maxima_is_no_part_of_an_export(
    searched: tuple[Place, Ended], exported: Path, tmp_path: Path
) -> None:
    record = searched[0].job.record()
    for trial in record.of(Stage.CONFIRM, ARM):
        assert trial.end is not None
        assert isinstance(trial.end.result, ConfirmResult)
        trial.end = replace(trial.end, result=replace(trial.end.result, max_active=0.25))
    again = export_arm(job_results(searched[0].job, record), ARM, tmp_path / "noam.yaml", force=False)
    assert again.read_bytes() == exported.read_bytes()


def test_an_export_of_an_earlier_round_does_not_stay_beside_later_ones(
    searched: tuple[Place, Ended], tmp_path: Path
) -> None:
    job = searched[0].job
    copied = JobFolder(Path(shutil.copytree(job.path, tmp_path / job.id)))
    arms = {row.arm for row in job_results(job).board.rows}
    copied.export("earlier").write_bytes(copied.export(ARM).read_bytes())
    publish(job_results(copied))
    assert {file.stem for file in copied.export(ARM).parent.iterdir()} == arms
