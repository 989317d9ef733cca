"""The Ray that trials run on: one started in this process tree, or the cluster whose job this process is.

An embedded Ray listens on loopback and has a token of its own. On a cluster, the address and the token are those of the
environment, which the cluster gives to its jobs.
"""

import logging
import math
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError, first_line

SETTINGS: Mapping[str, str] = {
    # An error that nobody waited for any more, as when a run is left because of another, would be printed in full.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
EMBEDDED: Mapping[str, str] = {
    "RAY_AUTH_MODE": "token",
    # Takes 127.0.0.1 as it is, where Ray would take the interface's address instead and listen on every one.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
OBJECT_STORE_BYTES = 128 * 2**20
REACH_S = 5.0
LOOK_S = 0.002
_TOKEN = secrets.token_hex(32)
"""Of embedded Rays; one for all of a process, for Ray remembers it."""


def on_cluster() -> bool:
    """Whether this process was started by a job of a Ray cluster, directly or below.

    Workers are not: Ray starts them, on a cluster and embedded alike.
    """
    return bool(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") and os.environ.get("RAY_ADDRESS"))


# Ray reads these when it is imported, so importing this module, which comes first, must set them.
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)
if not on_cluster() and "ray" not in sys.modules:
    os.environ.update(EMBEDDED)


def usable_cpus() -> int:
    """CPUs this process may use: its affinity, which containers and ``taskset`` narrow."""
    return len(os.sched_getaffinity(0))


def usable_gpus() -> int:
    """GPUs this process may use: those of ``CUDA_VISIBLE_DEVICES``, else all that the machine has."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def gpu_model() -> str:
    """The first GPU of this machine by its driver's name for it."""
    for about in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in about.read_text().splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return "unknown GPU"


@contextmanager
def embedded_ray(cpus: int, gpus: int, scratch: Path, python_path: tuple[Path, ...] = ()) -> Iterator[None]:
    """Start Ray here and end it, and all it started, on the way out.

    Args:
        cpus: CPUs that trials may ask for; may be more than there are.
        gpus: GPUs that trials may ask for.
        scratch: a folder for Ray's own files, removed by whoever made it; its name is short, for sockets lie in it.
        python_path: folders whose modules trials may import (the user's own models and data).

    Raises:
        ClusterError: Ray does not start, or this is a job on a cluster, where the token is the cluster's.
    """
    if on_cluster():
        raise ClusterError("this is a job of a Ray cluster: no other Ray is started inside it")
    path = os.pathsep.join([*map(str, python_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Workers inherit it: the folder of the spec is where the user's own models and data are.
    with (
        _environment({"RAY_AUTH_TOKEN": _TOKEN, "PYTHONPATH": path}),
        _ray(
            "start Ray here",
            address="local",
            num_cpus=cpus,
            num_gpus=gpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(scratch),
        ),
    ):
        yield


@contextmanager
def connected_ray(code: Path | None = None) -> Iterator[None]:
    """Use the cluster that this job runs on, and leave it on the way out.

    Args:
        code: a folder that workers get a copy of, and may import from (the user's own models and data).

    Raises:
        ClusterError: this is no job of a Ray cluster, or its Ray cannot be reached.
    """
    if not on_cluster():
        raise ClusterError("this is no job of a Ray cluster; submit it with: tuner submit")
    address = cluster_id()
    _check_reachable(address)
    # What the job was submitted with is for the driver: workers get this instead.
    os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"
    runtime_env = {} if code is None else {"working_dir": str(code)}
    with _ray(f"connect to the Ray at {address}", address=address, runtime_env=runtime_env):
        yield


def cluster_id() -> str:
    """The address of the Ray that this job runs on, by which two jobs know that they share it."""
    return os.environ["RAY_ADDRESS"]


def slots(cpus: int, gpus: float) -> int:
    """How many trials of this size the nodes that are up have room for, were they empty; each node counts by itself."""
    import ray

    return sum(
        fitting(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0), cpus, gpus)
        for node in ray.nodes()
        if node["Alive"]
    )


def fitting(node_cpus: float, node_gpus: float, cpus: int, gpus: float) -> int:
    """How many trials fit one node; shares of a GPU never span two.

    Args:
        node_cpus: CPUs of the node.
        node_gpus: GPUs of the node.
        cpus: CPUs of each trial, at least 1.
        gpus: GPUs of each trial: 0, a share below 1, or a whole number.
    """
    by_cpu = int(node_cpus // cpus)
    if not gpus:
        return by_cpu
    # A third is three to a device, whatever binary fractions say.
    by_gpu = int(node_gpus) * math.floor(1 / gpus + 1e-9) if gpus < 1 else int(node_gpus // gpus)
    return min(by_cpu, by_gpu)


def _check_reachable(address: str) -> None:
    """Ray itself would try for more than a minute."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except (OSError, ValueError) as error:
        raise ClusterError(f"cannot connect to the Ray at {address}: {first_line(error)}") from error


@contextmanager
def _ray(what: str, **options: Any) -> Iterator[None]:
    import ray

    # What Ray starts ends with the thread that started it.
    with ThreadPoolExecutor(1, "ray") as starter:
        elsewhere = partial(_run_elsewhere, starter, _handlers())
        try:
            try:
                elsewhere(ray.init, log_to_driver=False, logging_level=logging.ERROR, **options)
            except Exception as error:
                # On a machine too busy to start it in 30 s Ray raises just that.
                raise ClusterError(f"cannot {what}: {first_line(error)}") from error
            yield
        finally:
            elsewhere(ray.shutdown)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


Handlers = Mapping[int, Any]


def _handlers() -> Handlers:
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    return {number: handler for number, handler in found.items() if handler is not None}


def _run_elsewhere(thread: ThreadPoolExecutor, handlers: Handlers, call: Callable[..., object], **options: Any) -> None:
    """Call Ray in a thread that is not the main one, and undo meanwhile what it does to signals.

    In the main thread it takes SIGTERM to exit wherever that comes, for the seconds that it starts: in the middle of a
    callback the exit goes unheard, and what was asked to stop runs on. Its core, in whatever thread, takes SIGTERM to
    abort with a stack trace, and leaves the default action behind when it shuts down.
    """
    called = thread.submit(call, **options)
    while not called.done():
        wait([called], LOOK_S)
        _put_back(handlers)
    called.result()


def _put_back(handlers: Handlers) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)
