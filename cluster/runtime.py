"""The Ray that runs the trials: an embedded Ray, or the cluster that runs this process as a job.

An embedded Ray is started by this process. It listens on loopback and has a token of its own. On a cluster, the address
and the token come from the environment, which the cluster sets for its jobs.
"""

import logging
import math
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError, first_line

SETTINGS: Mapping[str, str] = {
    # Ray would print the whole traceback of an error that no caller waits for, for example after another error.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
EMBEDDED: Mapping[str, str] = {
    "RAY_AUTH_MODE": "token",
    # Keeps 127.0.0.1. Otherwise Ray replaces it by the address of an interface and listens on all interfaces.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
OBJECT_STORE_BYTES = 128 * 2**20
LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
"""The longest path of a socket, in bytes."""
SOCKET = "/tuner-12345678/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store_1"
"""A socket of an embedded Ray, in the folder of temporary files."""
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
REACH_S = 5.0
POLL_S = 0.002
_TOKEN = secrets.token_hex(32)
"""Token of every embedded Ray in this process: Ray keeps the first token it reads."""


def on_cluster() -> bool:
    """Whether this process is a job of a Ray cluster or a descendant of one.

    A worker is neither: Ray starts the workers, both on a cluster and embedded.
    """
    return bool(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") and os.environ.get("RAY_ADDRESS"))


# Ray reads these variables at its import. So the import of this module, which comes first, sets them.
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)
if not on_cluster() and "ray" not in sys.modules:
    os.environ.update(EMBEDDED)


def usable_cpus() -> int:
    """The number of CPUs that this process may use: its CPU affinity, which containers and ``taskset`` reduce."""
    return len(os.sched_getaffinity(0))


def usable_gpus() -> int:
    """The number of GPUs that this process may use: those in ``CUDA_VISIBLE_DEVICES``, else all of the machine."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def gpu_model() -> str:
    """The model name of this machine's first GPU, as its driver reports it."""
    for about in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in about.read_text(encoding="utf-8").splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return "unknown GPU"


def scratch_parent() -> Path | None:
    """Where to make the scratch folder of an embedded Ray: where temporary files are made (``TMPDIR``), else ``/tmp``.

    Returns:
        The first of these folders that can be written and whose name is short enough for Ray's sockets; None if none
        is.
    """
    with suppress(OSError):
        for folder in (tempfile.gettempdir(), *SHORT_FOLDERS):
            if len(os.fsencode(folder) + SOCKET.encode()) <= LONGEST_SOCKET and os.access(folder, os.W_OK | os.X_OK):
                return Path(folder)
    return None


@contextmanager
def embedded_ray(cpus: int, gpus: int, scratch: Path, python_path: tuple[Path, ...] = ()) -> Iterator[None]:
    """Start Ray on this machine. On exit, end it with all its processes.

    Args:
        cpus: CPUs that the trials may request; may be more than the machine has.
        gpus: GPUs that the trials may request.
        scratch: a folder for Ray's own files, which the caller removes. Its name must be short: it will hold sockets.
        python_path: folders with modules that trials may import (the user's own models and data).

    Raises:
        ClusterError: Ray does not start, or this process is a job of a cluster and so has the token of the cluster.
    """
    if on_cluster():
        raise ClusterError("this process is a job of a Ray cluster and must not start another Ray")
    path = os.pathsep.join([*map(str, python_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    # The workers inherit PYTHONPATH. It has the folder of the spec, which holds the user's own models and data.
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
    """Connect to the cluster that runs this job. Disconnect on exit.

    Args:
        code: a folder with the user's own models and data. The workers get a copy and may import from it.

    Raises:
        ClusterError: this process is not a job of a Ray cluster, or the cluster is unreachable.
    """
    if not on_cluster():
        raise ClusterError("this process is not a job of a Ray cluster; submit the spec with: tuner submit")
    address = cluster_id()
    _check_reachable(address)
    # The runtime environment of the submission is for the driver. The workers get ``runtime_env`` instead.
    os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"
    runtime_env = {} if code is None else {"working_dir": str(code)}
    with _ray(f"connect to Ray at {address}", address=address, runtime_env=runtime_env):
        yield


def cluster_id() -> str:
    """The address of the Ray that runs this job. Two jobs on one cluster have the same id."""
    return os.environ["RAY_ADDRESS"]


def slots(cpus: int, gpus: float) -> int:
    """The number of trials of this size that fit on the live nodes if all were empty; no trial spans two nodes."""
    import ray

    return sum(
        fitting(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0), cpus, gpus)
        for node in ray.nodes()
        if node["Alive"]
    )


def fitting(node_cpus: float, node_gpus: float, cpus: int, gpus: float) -> int:
    """The number of trials that fit on one node. A share of a GPU never spans two GPUs.

    Args:
        node_cpus: CPUs of the node.
        node_gpus: GPUs of the node.
        cpus: CPUs per trial, at least 1.
        gpus: GPUs per trial: 0, a share below 1, or a whole number.
    """
    by_cpu = int(node_cpus // cpus)
    if not gpus:
        return by_cpu
    # Three trials with a third of a GPU fit on one GPU, in spite of rounding errors.
    by_gpu = int(node_gpus) * math.floor(1 / gpus + 1e-9) if gpus < 1 else int(node_gpus // gpus)
    return min(by_cpu, by_gpu)


def _check_reachable(address: str) -> None:
    """Fail soon if the address does not answer. Ray itself would retry for more than a minute."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except (OSError, ValueError) as error:
        raise ClusterError(f"cannot connect to Ray at {address}: {first_line(error)}") from error


@contextmanager
def _ray(what: str, **options: Any) -> Iterator[None]:
    import ray

    # The processes that Ray starts end with the thread that started them.
    with ThreadPoolExecutor(1, "ray") as starter:
        elsewhere = partial(_run_elsewhere, starter, _handlers())
        try:
            try:
                elsewhere(ray.init, log_to_driver=False, logging_level=logging.ERROR, **options)
            except Exception as error:
                # If Ray does not start within 30 s on a busy machine, it raises a plain Exception.
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
    """Call Ray in another thread than the main one, and restore our signal handlers while it runs.

    While Ray starts in the main thread, for seconds, its handler for SIGTERM raises ``SystemExit`` at any point. Inside
    a callback, that exception is lost and the process continues. In any thread, Ray's core installs a handler for
    SIGTERM that aborts with a stack trace. At its shutdown, Ray's core restores the default action, not our handler.
    """
    called = thread.submit(call, **options)
    while not called.done():
        wait([called], POLL_S)
        _put_back(handlers)
    called.result()


def _put_back(handlers: Handlers) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)
