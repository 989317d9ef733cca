"""The Ray that trials run on: one started in this process tree, on loopback, with a token of its own."""

import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError

SETTINGS: Mapping[str, str] = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    # Takes 127.0.0.1 as it is, where Ray would take the interface's address instead and listen on every one.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # An error that nobody waited for any more, as when a run is left because of another, would be printed in full.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "RAY_AIR_NEW_OUTPUT": "0",
}
# Ray reads these when it is imported, so importing this module, which comes first, must set them.
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

OBJECT_STORE_BYTES = 128 * 2**20
LOOK_S = 0.002


def usable_cpus() -> int:
    """CPUs this process may use: its affinity, which containers and ``taskset`` narrow."""
    return len(os.sched_getaffinity(0))


def usable_gpus() -> int:
    """GPUs this process may use: those of ``CUDA_VISIBLE_DEVICES``, else all that the machine has."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


@contextmanager
def embedded_ray(cpus: int, gpus: int, scratch: Path, python_path: tuple[Path, ...] = ()) -> Iterator[None]:
    """Start Ray here and end it, and all it started, on the way out.

    Args:
        cpus: CPUs that trials may ask for; may be more than there are.
        gpus: GPUs that trials may ask for.
        scratch: a folder for Ray's own files, removed by whoever made it; its name is short, for sockets lie in it.
        python_path: folders whose modules trials may import (the user's own models and data).

    Raises:
        ClusterError: Ray does not start.
    """
    import ray

    before = os.environ.get("PYTHONPATH", "")
    # Workers inherit it: the folder of the spec is where the user's own models and data are.
    os.environ["PYTHONPATH"] = os.pathsep.join([*(str(path) for path in python_path), *filter(None, [before])])
    # What Ray starts ends with the thread that started it.
    with ThreadPoolExecutor(1, "ray") as starter:
        elsewhere = partial(_run_elsewhere, starter, _handlers())
        try:
            try:
                elsewhere(
                    ray.init,
                    address="local",
                    num_cpus=cpus,
                    num_gpus=gpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(scratch),
                )
            except (OSError, RuntimeError, ValueError) as error:
                raise ClusterError(f"cannot start Ray here: {str(error).splitlines()[0]}") from error
            yield
        finally:
            elsewhere(ray.shutdown)
            os.environ["PYTHONPATH"] = before


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
