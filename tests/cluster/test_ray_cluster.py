"""The test clusters: a cluster without tokens works, its head can restart, and no process is left at the end."""

import shutil
import subprocess
import sys
from subprocess import PIPE

import psutil
import pytest

from cluster.jobs import JOB, JobsApi, Status
from tests.cluster.ray_cluster import ray_cluster

pytestmark = pytest.mark.slow  # This tests the test cluster itself.


def test_a_cluster_without_tokens_restarts_its_head_at_the_same_address_and_leaves_no_process() -> None:
    with ray_cluster(workers=(), token=False) as made:
        api = JobsApi.connect(made.address)
        assert not api.auth_is_on()
        assert api.submit("long-1", "sleep 302", None, {JOB: "long-1"})
        while "sleep" not in {process.name() for process in made.head.processes()}:
            assert api.wait("long-1", timeout_s=0.1).status in (Status.PENDING, Status.RUNNING)
        processes = made.head.processes()
        assert {"gcs_server", "raylet"} <= {process.name() for process in processes}
        made.restart_head()
        assert not any(process.is_running() for process in processes)
        assert JobsApi.connect(made.address).submissions() == []
        processes = made.head.processes()
    assert processes
    assert not any(process.is_running() for process in processes)
    assert not [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == ["sleep", "302"]]


USER = """
from tests.cluster.ray_cluster import ray_cluster

with ray_cluster(workers=()) as made:
    print(made.token_file.parent, flush=True)
    input()
"""


def test_a_cluster_ends_when_its_tests_are_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", USER], stdin=PIPE, stdout=PIPE, text=True) as tests:
        assert tests.stdout is not None
        folder = tests.stdout.readline().strip()
        processes = psutil.Process(tests.pid).children(recursive=True)
        tests.kill()
    assert len(processes) > 5
    assert psutil.wait_procs(processes, timeout=20)[1] == []
    shutil.rmtree(folder)
