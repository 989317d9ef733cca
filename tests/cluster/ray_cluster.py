"""A real Ray cluster on loopback: a head, which runs no trials, and workers. Each node has its own address and folder.

A cluster shares nothing with other clusters or embedded Rays on the machine, so several can run at once. When a node
ends, all processes that it started end too, jobs included.
"""

import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import requests

from tests.faults.services import free_ports

ROOT = Path(__file__).parents[2]
START_S = 120.0
GONE_S = 20.0
POLL_S = 0.1
OBJECT_STORE_BYTES = 80 * 2**20
INIT = """
import ctypes, os, signal, sys, threading, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
if os.fork() == 0:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execv(sys.executable, [sys.executable, "-m", "ray.scripts.scripts", *sys.argv[1:]])

def family(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            return [one for child in children.read().split() for one in (int(child), *family(child))]
    except OSError:
        return []

def end_with_the_tests():
    os.read(0, 1)
    while True:
        for pid in family(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)

threading.Thread(target=end_with_the_tests, daemon=True).start()
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
"""
"""The first process of a node. Like the init process of a machine, it adopts every orphan and ends last.
If its standard input ends, because the tests were killed, it kills all processes of the node."""
QUIET: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
    "RAY_enable_metrics_collection": "0",
    # Ray starts no worker in advance: each one is a Python interpreter that imports ray.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}


@dataclass
class Node:
    """One node: its address, and the process that is the ancestor of all its others."""

    name: str
    ip: str
    folder: Path
    command: list[str]
    env: Mapping[str, str]
    process: "subprocess.Popen[bytes]" = field(repr=False)

    @property
    def log(self) -> str:
        """The output of the node."""
        return (self.folder / "log").read_text()

    def processes(self) -> list[psutil.Process]:
        """All live processes of this node. The first one is the ancestor of the others."""
        # After its end, another process may get its id. It ends last, so no other process of the node is left.
        if self.process.poll() is not None:
            return []
        try:
            first = psutil.Process(self.process.pid)
            family = [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        return [process for process in family if _lives(process)]

    def raylet(self) -> psutil.Process:
        """The raylet, which is the process of Ray that manages a node."""
        return next(process for process in self.processes() if process.name() == "raylet")


class RayCluster:
    """A cluster; ``ray_cluster`` starts and ends it.

    Args:
        folder: folder for all its files. Its name must be short: it will hold sockets.
        token: whether clients need the token in ``token_file``.
        head_env: environment of the head, and so of the submitted jobs.
        net: first three numbers of the nodes' addresses; by default, random numbers on loopback.
    """

    def __init__(
        self, folder: Path, token: bool = True, head_env: Mapping[str, str] | None = None, net: str | None = None
    ) -> None:
        self.token_file = folder / "token"
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(secrets.token_hex(32))
        self.workers: list[Node] = []
        self._folder = folder
        self._token = token
        self._head_env = dict(head_env or {})
        # Each cluster has its own addresses: Ray treats two nodes at one address as one restarted node.
        self._net = net or f"127.{random.randint(1, 254)}.{random.randint(0, 254)}"
        self._ports = free_ports(5)
        self.head = self._start_head()

    @property
    def address(self) -> str:
        """URL of the dashboard and the Jobs API."""
        return f"http://127.0.0.1:{self._ports[1]}"

    @property
    def client_env(self) -> dict[str, str]:
        """The environment variables of a client of this cluster."""
        env = {"RAY_API_SERVER_ADDRESS": self.address}
        return env | ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)} if self._token else {})

    @property
    def nodes(self) -> list[Node]:
        """The head, then the workers that were not killed."""
        return [self.head, *self.workers]

    def add_worker(
        self,
        cpus: int = 2,
        gpus: int = 0,
        env: Mapping[str, str] | None = None,
        ip: str | None = None,
        within: Sequence[str] = (),
    ) -> Node:
        """Start another worker. ``wait`` waits until it is part of the cluster.

        Args:
            cpus: CPUs that it declares to Ray.
            gpus: GPUs that it declares to Ray.
            env: its environment.
            ip: its address; by default, the next one.
            within: a command to run the worker with, for example in its own network.
        """
        name = f"w{len(list(self._folder.iterdir()))}"
        options = [f"--address={self.head.ip}:{self._ports[0]}", f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
        address = ip or f"{self._net}.{len(list(self._folder.iterdir())) + 1}"
        node = self._start(name, address, options, env or {}, within)
        self.workers.append(node)
        return node

    def wait(self) -> None:
        """Wait until exactly the nodes that were started are part of the cluster."""
        deadline = time.monotonic() + START_S
        while (alive := self._alive()) != {node.ip for node in self.nodes}:
            for node in self.nodes:
                assert node.process.poll() is None, f"{node.name} ended: {node.log[-3000:]}"
            assert time.monotonic() < deadline, f"only {alive} of {self.nodes}: {self.head.log[-3000:]}"
            time.sleep(POLL_S)

    def kill(self, node: Node) -> None:
        """Kill all processes of a node at once, like a power failure."""
        end(node)
        if node in self.workers:
            self.workers.remove(node)

    def restart_head(self) -> None:
        """Kill the head and start a new, empty one at the same address. The old workers end by themselves."""
        self.kill(self.head)
        self.head = self._start_head()
        self._wait_for_jobs_api()

    def close(self) -> None:
        """End every node, and check that no process of it is left."""
        nodes = [*self.workers, self.head]
        for node in nodes:
            end(node)

    def _start_head(self) -> Node:
        options = [
            *("--head", f"--port={self._ports[0]}", "--num-cpus=0", "--num-gpus=0"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={self._ports[1]}"),
            f"--ray-client-server-port={self._ports[2]}",
        ]
        env = {"DASHBOARD_METRIC_PORT": str(self._ports[3]), "AUTOSCALER_METRIC_PORT": str(self._ports[4])}
        env |= self._head_env
        return self._start(f"h{len(list(self._folder.iterdir()))}", f"{self._net}.1", options, env)

    def _start(
        self, name: str, ip: str, options: list[str], env: Mapping[str, str], within: Sequence[str] = ()
    ) -> Node:
        folder = self._folder / name
        folder.mkdir()
        command = [*within, sys.executable, "-ISc", INIT, "start", "--block", f"--node-ip-address={ip}", *options]
        command += [f"--temp-dir={folder}", f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats"]
        # With 0, the kernel chooses free ports.
        command += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        command += ["--include-log-monitor=false"]
        own = {"RAY_AUTH_MODE": "disabled"}
        if self._token:
            own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}
        whole = {**_clean_environment(), **QUIET, **own, **env}
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=whole,
                cwd=folder,
                start_new_session=True,
            )
        return Node(name, ip, folder, command, whole, process)

    def _alive(self) -> set[str]:
        headers = {"Authorization": f"Bearer {self.token_file.read_text()}"}
        with suppress(requests.RequestException, ValueError, KeyError, TypeError):
            answer = requests.get(f"{self.address}/api/v0/nodes?detail=1", headers=headers, timeout=10).json()
            return {node["node_ip"] for node in answer["data"]["result"]["result"] if node["state"] == "ALIVE"}
        return set()

    def _wait_for_jobs_api(self) -> None:
        deadline = time.monotonic() + START_S
        while self.head.ip not in self._alive():
            assert self.head.process.poll() is None, f"the head ended: {self.head.log[-3000:]}"
            assert time.monotonic() < deadline, f"the head does not answer: {self.head.log[-3000:]}"
            time.sleep(POLL_S)


@contextmanager
def ray_cluster(
    workers: Iterable[Mapping[str, int]] = ({}, {}),
    token: bool = True,
    head_env: Mapping[str, str] | None = None,
    worker_env: Mapping[str, str] | None = None,
    net: str | None = None,
) -> Iterator[RayCluster]:
    """A running cluster.

    Args:
        workers: ``cpus`` and ``gpus`` of each worker.
        token: whether clients need the token.
        head_env: environment of the head.
        worker_env: environment of every worker.
        net: see ``RayCluster``.
    """
    folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
    cluster = RayCluster(folder, token, head_env, net)
    try:
        # The head starts first: a worker fails if it cannot reach the head.
        cluster.wait()
        for worker in workers:
            cluster.add_worker(worker.get("cpus", 2), worker.get("gpus", 0), worker_env)
        cluster.wait()
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


def end(node: Node) -> None:
    """Kill all processes of a node, and check that they are gone."""
    deadline = time.monotonic() + GONE_S
    known: set[psutil.Process] = set()
    while rest := node.processes()[1:]:
        known |= set(rest)
        for process in rest:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.02)
        assert time.monotonic() < deadline, f"cannot kill {rest}"
    node.process.wait(GONE_S)
    if node.process.stdin is not None:
        node.process.stdin.close()
    left = [process for process in known if _lives(process)]
    assert not left, f"still alive: {left}"


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _clean_environment() -> dict[str, str]:
    """Our environment without the variables that Ray, Tune and the service read, and with our code first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_", "TUNER_"))}
    return kept | {"PYTHONPATH": str(ROOT)}
