"""The manifests against files that a person has reviewed, and against the schemas of Kubernetes and KubeRay."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from cluster.deploy.kubernetes import DATA, Job, Stores, Workers, dns_name, manifests
from cluster.errors import ClusterError
from tests.cluster.rayjob import RAYJOB

Manifest = dict[str, Any]

GOLDEN = Path(__file__).parent / "golden"
JOB = Job(
    name="elu-net",
    namespace="searches",
    files={"spec.yaml": b"name: elu-net\nbaseline: adam_l2  # on\n", "start.json": b'{"job": "elu-net-1"}'},
    image="registry.example/tuner:0.1.0",
    ray_version="2.60.0",
    entrypoint="python -m tuner.cli work",
    retries=3,
)
VOLUMES = Stores(
    storage="postgresql+psycopg://tuner@postgres:5432/tuner",
    tracking="http://mlflow:5000",
    tracking_user="tuner",
    secret="tuner-stores",
    shared="tuner-shared",
)
BUCKET = Stores(
    storage=VOLUMES.storage,
    tracking=VOLUMES.tracking,
    tracking_user=VOLUMES.tracking_user,
    secret=VOLUMES.secret,
    shared="s3://bucket/tuner",
    shared_secret="tuner-s3",
    data_claim="cifar10",
)
WITH_CODE = replace(JOB, files={**JOB.files, "code.zip": b"PK\xff\xfe"})
TEXTS = {
    "cpu": manifests(JOB, Workers(count=4, cpus=2, memory_gb=4.0), VOLUMES),
    "gpu": manifests(WITH_CODE, Workers(count=1, cpus=8, memory_gb=32.0, gpus=1), BUCKET),
}


def documents(text: str, version: str = "1.1") -> list[Manifest]:
    """The documents in a YAML text; Kubernetes reads version 1.1."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = version
    return list(yaml.load_all(text))


CASES = {case: documents(text) for case, text in TEXTS.items()}
every_case = pytest.mark.parametrize("case", CASES)


def pods(rayjob: Manifest) -> dict[str, Manifest]:
    """Every pod template of a RayJob, by its role."""
    spec = rayjob["spec"]
    cluster = spec["rayClusterSpec"]
    return {
        "submitter": spec["submitterPodTemplate"],
        "head": cluster["headGroupSpec"]["template"],
        "worker": cluster["workerGroupSpecs"][0]["template"],
    }


def containers(case: str) -> Iterator[tuple[str, Manifest]]:
    for name, pod in pods(CASES[case][1]).items():
        for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
            yield name, container


@every_case
def test_the_manifests_match_the_reviewed_files(case: str) -> None:
    assert TEXTS[case] == (GOLDEN / f"rayjob-{case}.yaml").read_text()


ODD = (
    "on", "null", "~", "0440", "1:30", "1e3", "", "a: b", "a #b", "it's", 'say "hi"', "C:\\n", "{{ name }}", "&a", "!t",
    "- a", "größe", "日本語", "😀", "a\x85b", "a\u2028b", "\ufeffx", "\x7f", "\x1b[31m", "a\xa0b", "a\tb", "long " * 50,
    "a\nb", "a\n\nb\n", "a\n\n", "\n", "  a\nb\n", "a \nb\n", "# a\n---\nb: '1'\n", "größe: 😀\n", "a\n  \nb\n",
    "a\r\nb\r\n", "...\n",
)  # fmt: skip


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_any_text_is_read_back_unchanged(text: str, version: str) -> None:
    job = replace(JOB, namespace=text, image=text, files={"first": text.encode(), "last": b"1", f"{text}.txt": b"2"})
    stores = replace(VOLUMES, storage=text, shared_secret=f"{text}!")
    config_map, rayjob = documents(manifests(job, Workers(1, 1, 1.0), stores), version)
    head = pods(rayjob)["head"]["spec"]["containers"][0]
    assert config_map["data"] == {"first": text, "last": "1", f"{text}.txt": "2"}
    assert (config_map["metadata"]["namespace"], rayjob["metadata"]["namespace"]) == (text, text)
    assert (head["image"], head["envFrom"]) == (text, [{"secretRef": {"name": f"{text}!"}}])
    assert {"name": "TUNER_STORAGE", "value": text} in head["env"]


@every_case
def test_every_yaml_version_reads_the_same(case: str) -> None:
    assert documents(TEXTS[case], "1.1") == documents(TEXTS[case], "1.2")


def test_a_spec_stays_easy_to_read() -> None:
    spec = "# Title\nname: it's\n\narms:\n  - {variant: adamw}\n"
    text = manifests(replace(JOB, files={"spec.yaml": spec.encode()}), Workers(1, 1, 1.0), VOLUMES)
    assert '  "spec.yaml": |\n    # Title\n    name: it\'s\n\n    arms:\n      - {variant: adamw}\n---\n' in text


@every_case
def test_the_config_map_and_every_pod_match_the_schema_of_kubernetes(case: str) -> None:
    config_map, rayjob = CASES[case]
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(config_map, version, strict=True)
    for name, template in pods(rayjob).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, version, strict=True)


@every_case
def test_the_rayjob_matches_the_schema_of_kuberay(case: str) -> None:
    jsonschema.validate(CASES[case][1], RAYJOB)


def test_both_checks_would_notice_a_field_that_does_not_exist() -> None:
    config_map, rayjob = CASES["cpu"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(config_map | {"dta": {}}, kubernetes_validate.latest_version(), strict=True)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(rayjob | {"spec": rayjob["spec"] | {"backOffLimit": 3}}, RAYJOB)


@every_case
def test_a_container_has_minimal_rights(case: str) -> None:
    for _, container in containers(case):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]) == {"requests", "limits"}
    for pod in pods(CASES[case][1]).values():
        context = pod["spec"]["securityContext"]
        assert (context["runAsUser"], context["runAsNonRoot"]) == (10001, True)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["spec"]["automountServiceAccountToken"] is False


@every_case
def test_only_the_head_knows_the_stores(case: str) -> None:
    for name, container in containers(case):
        known = {entry["name"] for entry in container.get("env", [])}
        held = {mount["name"] for mount in container["volumeMounts"]}
        assert ("TUNER_STORAGE" in known) == (container["name"] == "ray-head")
        assert not ("secrets" in held and name != "head")


@every_case
def test_ray_requires_its_token_and_the_head_runs_no_trial(case: str) -> None:
    cluster: dict[str, Any] = CASES[case][1]["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_a_lost_head_is_replaced() -> None:
    assert CASES["cpu"][1]["spec"]["backoffLimit"] == 3


@pytest.mark.parametrize("pod", ["head", "worker"])
def test_nodes_have_their_own_home_and_share_a_volume_or_a_bucket(pod: str) -> None:
    for case, shared in (("cpu", {"shared": "/shared"}), ("gpu", {"data": DATA})):
        container = pods(CASES[case][1])[pod]["spec"]["containers"][0]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["home"] == "/var/lib/tuner"
        assert {name: path for name, path in mounts.items() if name in ("shared", "data")} == shared
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environment["TUNER_SHARED"] == "s3://bucket/tuner"
    assert container["envFrom"] == [{"secretRef": {"name": "tuner-s3"}}]


def test_the_command_starts_in_the_folder_of_its_files() -> None:
    head = pods(CASES["gpu"][1])["head"]["spec"]
    mounted = {mount["name"]: mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]}
    assert CASES["gpu"][1]["spec"]["entrypoint"].split()[:2] == ["env", f"--chdir={mounted['files']}"]
    assert CASES["gpu"][0]["binaryData"] == {"code.zip": "UEv//g=="}


def test_code_too_large_for_a_config_map_is_refused() -> None:
    with pytest.raises(ClusterError, match="bytes and a ConfigMap holds 1,000,000; put the code into the image"):
        manifests(replace(JOB, files={"code.zip": bytes(800_000)}), Workers(1, 1, 1.0), VOLUMES)


def test_kubernetes_and_ray_get_the_same_number_of_gpus() -> None:
    group = CASES["gpu"][1]["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    worker = group["template"]["spec"]["containers"][0]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert group["rayStartParams"]["num-gpus"] == "1"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("quickstart", "quickstart"), ("My_Search 2.1", "my-search-2-1"), ("-_-", "search"), ("a" * 60, "a" * 47)],
)
def test_the_name_of_a_spec_becomes_a_valid_kubernetes_name(name: str, expected: str) -> None:
    assert dns_name(name) == expected
