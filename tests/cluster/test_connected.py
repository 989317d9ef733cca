"""A job that uses the cluster it runs on."""

import json
import sys
from collections import Counter
from typing import Any

import pytest
import torch

from cluster.errors import ClusterError
from cluster.jobs import JobsApi
from cluster.runtime import connected_ray, embedded_ray, fitting, on_cluster
from tests.cluster.ray_cluster import RayCluster


def found_inside(api: JobsApi, name: str) -> dict[str, Any]:
    """What a job of ``tests.cluster.inside`` finds."""
    ran = api.run(f"{sys.executable} -m tests.cluster.inside {name}", timeout_s=180)
    assert ran.code == 0, ran.err
    # Ray tells of workers that died on stdout.
    found: dict[str, Any] = json.loads(ran.out.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("node_cpus", "node_gpus", "cpus", "gpus", "fit"),
    [
        (4, 0, 1, 0.0, 4),
        (5, 0, 2, 0.0, 2),
        (4, 0, 1, 1.0, 0),
        (16, 2, 1, 0.25, 8),
        (3, 2, 1, 0.25, 3),
        # Two of 0.4 leave a fifth of each device that nothing fits.
        (16, 2, 1, 0.4, 4),
        (16, 1, 1, 1 / 3, 3),
        (16, 1, 1, 0.1, 10),
        (16, 3, 1, 2.0, 1),
        (0, 2, 1, 0.5, 0),
    ],
)
def test_a_node_fits_whole_trials_and_shares_that_do_not_span_devices(
    node_cpus: float, node_gpus: float, cpus: int, gpus: float, fit: int
) -> None:
    assert fitting(node_cpus, node_gpus, cpus, gpus) == fit


def test_a_job_uses_its_cluster(api: JobsApi, shared_cluster: RayCluster) -> None:
    found = found_inside(api, "runtime")
    head = api.nodes()[0]
    assert found["on_cluster"]
    assert found["node"] == head.id
    assert found["handlers_kept"]
    assert found["worker_on_cluster"] == {node.ip: [False, None] for node in shared_cluster.workers}
    assert found["slots"] == [4, 2, 0, 2, 1]


def test_a_call_on_every_node_gives_each_nodes_answer_or_its_failure_in_a_line(
    api: JobsApi, shared_cluster: RayCluster
) -> None:
    found = found_inside(api, "everywhere")
    ips = {node.ip for node in shared_cluster.workers}
    with_gpus = shared_cluster.workers[1].ip
    pids = [pid for pid, error in found["pids"].values()]
    assert set(found["pids"]) == ips
    assert all(isinstance(pid, int) for pid in pids)
    assert set(found["raised"]) == ips
    assert all(error.startswith("FileNotFoundError: ") and "\n" not in error for _, error in found["raised"].values())
    assert found["late"] == {ip: [None, "no answer within 1 s"] for ip in ips}
    assert found["late_s"] < 10
    assert all(value is None and "died" in error and "\n" not in error for value, error in found["died"].values())
    assert set(found["with_gpus"]) == {with_gpus}
    assert found["with_gpus"][with_gpus][0] in ("0", "1")


def test_shares_of_gpus_are_never_over_packed_and_each_sees_its_own_device(api: JobsApi) -> None:
    found = found_inside(api, "gpu_shares")
    assert Counter(found["devices"]) == {"0": 4, "1": 4}
    assert found["waiting"] == 1


def test_declared_gpus_that_are_missing_are_reported(api: JobsApi, shared_cluster: RayCluster) -> None:
    plain, with_gpus = (node.ip for node in shared_cluster.workers)
    found = found_inside(api, "doctor")
    usable = torch.cuda.device_count()
    assert found[f"node {plain}: GPUs"] == [True, f"0 declared to Ray, {usable} present, {usable} usable by torch"]
    expected = [usable >= 2, f"2 declared to Ray, {usable} present, {usable} usable by torch"]
    assert found[f"node {with_gpus}: GPUs"] == expected


def test_outside_a_job_there_is_no_cluster_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a worker of Ray, embedded or not, has in its environment.
    monkeypatch.setenv("RAY_JOB_ID", "01000000")
    assert not on_cluster()
    with pytest.raises(ClusterError, match="is no job of a Ray cluster"), connected_ray():
        pass


def test_inside_a_job_no_other_ray_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    with pytest.raises(ClusterError, match="no other Ray is started"), embedded_ray(1, 0, tmp_path):
        pass


def test_a_ray_that_is_gone_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with (
        pytest.raises(ClusterError, match=r"^cannot connect to the Ray at 127\.0\.0\.1:1: [^\n]*refused$"),
        connected_ray(),
    ):
        pass
