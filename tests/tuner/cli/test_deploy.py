"""``tuner render kubernetes``: the manifests it writes, and the specs and options it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.tuner.conftest import Tuner
from tests.tuner.spec_texts import SPEC

IMAGE = ("--image", "registry.example/tuner:0.1.0")


def documents(text: str) -> list[dict[str, Any]]:
    return list(YAML(typ="safe", pure=True).load_all(text))


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(SPEC + "resources: {cpus: 3, gpus: 0.25}\n")
    return path


def test_workers_get_the_resources_of_a_trial(tuner: Tuner, spec: Path) -> None:
    ended = tuner("render", "kubernetes", spec, *IMAGE, "--workers", 5)
    config_map, rayjob = documents(ended.out)
    assert config_map["data"]["spec.yaml"] == spec.read_text()
    assert rayjob["metadata"]["name"] == json.loads(config_map["data"]["start.json"])["job"]
    group = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert group["replicas"] == 5
    assert group["rayStartParams"] == {"num-cpus": "3", "num-gpus": "1"}


def test_manifests_overwrite_a_file_only_with_force(tuner: Tuner, spec: Path, tmp_path: Path) -> None:
    file = tmp_path / "job-on-kubernetes.yaml"
    first = tuner("render", "kubernetes", spec, *IMAGE, "-o", file)
    assert (first.code, first.out) == (0, "")
    assert [document["kind"] for document in documents(file.read_text())] == ["ConfigMap", "RayJob"]
    assert tuner("render", "kubernetes", spec, *IMAGE, "-o", file).code != 0
    assert tuner("render", "kubernetes", spec, *IMAGE, "-o", file, "--force").code == 0


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("postgresql+psycopg://tuner:hunter2@postgres/tuner", "password"),
        ("sqlite:///studies.db", "SQLite"),
        ("nonsense", "not a database URL"),
    ],
)
def test_a_storage_that_pods_cannot_use_is_refused(tuner: Tuner, spec: Path, storage: str, message: str) -> None:
    ended = tuner("render", "kubernetes", spec, *IMAGE, "--storage", storage)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert message in ended.err
    assert "hunter2" not in ended.err


def test_an_invalid_spec_is_refused(tuner: Tuner, spec: Path) -> None:
    spec.write_text(SPEC.replace("epochs: 8", "epochs: 0"))
    ended = tuner("render", "kubernetes", spec, *IMAGE)
    assert (ended.code, ended.out) == (2, "")


def test_automatic_resources_are_refused(tuner: Tuner, spec: Path) -> None:
    spec.write_text(SPEC + "resources: auto\n")
    ended = tuner("render", "kubernetes", spec, *IMAGE)
    assert (ended.code, ended.out) == (2, "")
    assert "resources: auto measures the machine that it runs on" in ended.err


def test_the_manifests_contain_the_users_own_code(tuner: Tuner, spec: Path) -> None:
    spec.write_text(SPEC.replace("name: elu_net", "name: mynet:build"))
    (spec.parent / "mynet.py").write_text("def build(num_classes, image_shape):\n    raise NotImplementedError\n")
    config_map, _ = documents(tuner("render", "kubernetes", spec, *IMAGE).out)
    assert set(config_map["binaryData"]) == {"code.zip"}


def test_the_storage_can_come_from_the_environment(tuner: Tuner, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_STORAGE", "postgresql+psycopg://me@db/jobs")
    assert 'value: "postgresql+psycopg://me@db/jobs"' in tuner("render", "kubernetes", spec, *IMAGE).out
