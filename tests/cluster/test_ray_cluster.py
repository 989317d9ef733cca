"""The clusters that tests use: one that asks for no token, whose head goes and comes back; nothing is left of it."""

import shutil
import subprocess
import sys
from subprocess import PIPE

import psutil
import pytest

from cluster.jobs import JOB, JobsApi, Status
from tests.cluster.ray_cluster import ray_cluster

pytestmark = pytest.mark.slow  # of the harness itself


def test_an_open_cluster_is_told_and_its_head_comes_back_at_its_address_and_in_the_end_all_is_gone() -> None:
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


def test_a_cluster_ends_when_the_tests_that_use_it_are_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", USER], stdin=PIPE, stdout=PIPE, text=True) as tests:
        assert tests.stdout is not None
        folder = tests.stdout.readline().strip()
        processes = psutil.Process(tests.pid).children(recursive=True)
        tests.kill()
    assert len(processes) > 5
    assert psutil.wait_procs(processes, timeout=20)[1] == []
    shutil.rmtree(folder)
