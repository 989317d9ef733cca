"""What travels with a job is shown before it goes, and code that would not run on a node is refused here."""

import json
import os
import stat
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.tuner.conftest import Tuner
from tests.tuner.spec_texts import SPEC
from tuner.control.cluster_job import Service
from tuner.driver.code_check import try_imports
from tuner.jobs import code_archive
from tuner.jobs.workspace import Workspace
from tuner.remote.submission import PackedJob, pack_job

NET = """\
import math

from torch import nn

import {helper}


def build(classes, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
"""
IMAGE = ("--image", "registry.example/tuner:0.1.0")


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """A folder with a spec of an own model, and a module that the model needs. Both modules are new to this process."""
    folder, number = tmp_path / "mine", len(sys.modules)
    net, helper = f"net_{number}", f"helper_{number}"
    folder.mkdir()
    (folder / f"{net}.py").write_text(NET.format(helper=helper))
    (folder / f"{helper}.py").write_text("")
    (folder / "spec.yaml").write_text(SPEC.replace("elu_net", f"{net}:build"))
    paths = [*sys.path]
    yield folder
    sys.path[:] = paths
    for name in (net, helper):
        sys.modules.pop(name, None)


def packed(spec: Path) -> PackedJob:
    return pack_job(spec, None, partial(try_imports, announce=print))


def helper_of(mine: Path) -> Path:
    return next(mine.glob("helper_*.py"))


def test_a_dry_run_lists_what_would_go_and_needs_no_cluster(tuner: Tuner, mine: Path) -> None:
    (mine / ".env").write_text("KEY=hunter2")
    ended = tuner("submit", mine / "spec.yaml", "--dry-run", "--address", "http://127.0.0.1:1")
    assert (ended.code, ended.err) == (0, "")
    assert "job-" in ended.out
    assert "code: 3 files" in ended.out
    assert helper_of(mine).name in ended.out
    assert "code: .env stays here: it looks like a secret" in ended.out
    found = json.loads(tuner("submit", mine / "spec.yaml", "--dry-run", "-o", "json").out)
    assert found["code"]["files"].keys() == {"spec.yaml", *(file.name for file in mine.glob("*.py"))}
    assert found["code"]["files"]["spec.yaml"] == (mine / "spec.yaml").stat().st_size
    assert found["code"]["left_out"] == {".env": "it looks like a secret"}


def test_without_own_code_only_the_spec_goes(tuner: Tuner, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "notes").write_text("x")
    ended = tuner("submit", "spec.yaml", "--dry-run")
    assert (ended.code, ended.out.count("\n")) == (0, 1)
    assert packed(tmp_path / "spec.yaml").files.keys() == {"spec.yaml", "start.json"}


def test_a_plan_shows_what_would_travel(tuner: Tuner, mine: Path, tmp_path: Path) -> None:
    (mine / "deploy.key").write_text("hunter2")
    ended = tuner("plan", mine / "spec.yaml", "--no-measure")
    assert "code: 3 files with" in ended.out
    assert "code: deploy.key stays here" in ended.out
    planned = json.loads(tuner("plan", mine / "spec.yaml", "--no-measure", "-o", "json").out)
    size = sum(file.stat().st_size for file in (mine / "spec.yaml", *mine.glob("*.py")))
    assert planned["code"] == {"folder": str(mine), "files": 3, "bytes": size, "left_out": 1}
    (tmp_path / "spec.yaml").write_text(SPEC)
    assert json.loads(tuner("plan", "spec.yaml", "--no-measure", "-o", "json").out)["code"] is None


def test_manifests_hold_no_secret_and_what_they_hold_is_said(tuner: Tuner, mine: Path) -> None:
    before = packed(mine / "spec.yaml")
    (mine / ".env").write_text("KEY=hunter2")
    assert packed(mine / "spec.yaml").files["code.zip"] == before.files["code.zip"]
    ended = tuner("render", "kubernetes", mine / "spec.yaml", *IMAGE)
    assert "code: 3 files" in ended.err
    assert "code: .env stays here" in ended.err


@pytest.mark.parametrize(
    ("how", "reason"),
    [("a link", "a link out of the folder"), ("ignored", "an ignore file names it"), ("a key", "holds a private key")],
)
def test_an_imported_module_that_would_stay_here_is_refused(
    tuner: Tuner, mine: Path, tmp_path: Path, how: str, reason: str
) -> None:
    helper = helper_of(mine)
    if how == "a link":
        helper.symlink_to(helper.rename(tmp_path / helper.name))
    elif how == "a key":
        helper.write_text('KEY = "-----BEGIN PRIVATE KEY-----"\n')
    else:
        (mine / ".gitignore").write_text("helper_*\n")
    ended = tuner("submit", mine / "spec.yaml", "--dry-run")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert f"{helper.name} is imported and would not travel: " in ended.err
    assert reason in ended.err


def test_an_environment_in_the_folder_is_not_the_users_code(
    tuner: Tuner, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mine / ".gitignore").write_text("venv/\n")
    for name in ("bin/tuner", "lib/python3.11/json/decoder.py", "lib/python3.11/site-packages/a.py"):
        file = mine / "venv" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
        module = ModuleType(file.stem)
        module.__file__ = str(file)
        monkeypatch.setitem(sys.modules, f"of_an_environment_{file.stem}", module)
    monkeypatch.setattr(sys, "prefix", str(mine / "venv"))
    ended = tuner("submit", mine / "spec.yaml", "--dry-run")
    assert (ended.code, ended.err) == (0, "")


def test_what_is_too_much_is_listed_and_then_refused(tuner: Tuner, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_archive, "MOST_BYTES", 10)
    ended = tuner("submit", mine / "spec.yaml", "--dry-run")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "at most 10 can travel" in ended.err
    assert ended.out.startswith("code: 3 files with ")
    assert helper_of(mine).name in ended.out
    ended = tuner("submit", mine / "spec.yaml", "--dry-run", "-o", "json")
    found = json.loads(ended.out)
    assert (ended.code, found["job"], len(found["code"]["files"])) == (2, None, 3)


def test_a_plan_of_a_job_of_this_machine_tells_an_ignore_file_that_cannot_be_read(tuner: Tuner, mine: Path) -> None:
    (mine / "deep").mkdir()
    (mine / "deep" / ".gitignore").write_bytes(b"\xff\n")
    ended = tuner("plan", mine / "spec.yaml", "--no-measure")
    assert ended.code == 0, ended.err
    assert "deep/.gitignore: cannot be read" in ended.out
    planned = json.loads(tuner("plan", mine / "spec.yaml", "--no-measure", "-o", "json").out)
    assert "deep/.gitignore: cannot be read" in planned["code"]["problem"]
    assert tuner("submit", mine / "spec.yaml", "--dry-run").code == 2


def test_ray_is_given_files_that_no_other_user_may_read(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = {}

    class Api:
        def submit(self, job: str, command: str, folder: Path, metadata: Any) -> bool:
            modes.update({file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()})
            return True

    service = Service.__new__(Service)
    monkeypatch.setattr(service, "api", Api(), raising=False)
    service.submit(mine / "spec.yaml", queue=True)
    assert modes == {"spec.yaml": 0o600, "start.json": 0o600, "code.zip": 0o600}


def test_a_job_in_a_database_says_what_goes_into_it(
    tuner: Tuner, mine: Path, home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_STORAGE", "postgresql+psycopg://nobody@127.0.0.1:1/none")
    ended = tuner("run", mine / "spec.yaml")
    assert ended.code == 3
    assert "code: 3 files with" in ended.err


OWN = """\
name: own
metric: {choose: v, goal: minimize}
baseline: a
arms:
  - {name: a, trainable: "MODULE:f", parameters: {x: {min: 0.0, max: 1.0}}}
  - {name: b, trainable: "MODULE:f", parameters: {x: {min: 0.0, max: 2.0}}}
budget: {trials: 4, epochs: 1}
"""


def test_code_that_ends_the_process_does_not_end_the_command(tuner: Tuner, tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("import os\nos._exit(0)\n")
    (tmp_path / "own.yaml").write_text(OWN.replace("MODULE", "ends"))
    ended = tuner("submit", "own.yaml", "--dry-run")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "importing: your code ended the process that checks it, which ended with exit code 0" in ended.err


def test_a_package_that_only_the_cluster_has_is_a_warning(tuner: Tuner, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN.replace("MODULE", "only_there.train"))
    ended = tuner("submit", "own.yaml", "--dry-run")
    assert ended.code == 0, ended.err
    assert "warning: own.yaml:5: arms[0].trainable: " in ended.err
    assert "there is no module 'only_there' to import; the cluster must have it" in ended.err


def test_an_arms_module_outside_the_folder_is_refused(
    tuner: Tuner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "editable.py").write_text("def f(config): ...\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.yaml").write_text(OWN.replace("MODULE", "editable"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"), prepend=os.pathsep)
    ended = tuner("submit", "mine/own.yaml", "--dry-run")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "editable.py, outside of" in ended.err
    assert "would not travel" in ended.err
