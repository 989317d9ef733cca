"""Reports what a job sees of its cluster, as JSON: ``python -m tests.cluster.inside NAME``."""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.on_nodes import Answer, on_every_node
from cluster.runtime import connected_ray, on_cluster, slots

GIVEN_S = 120.0
SETTLED_S = 3.0


def runtime() -> dict[str, Any]:
    """Where this process runs, and how many trials fit on the cluster."""
    import ray

    before = signal.getsignal(signal.SIGTERM)
    with connected_ray():
        return {
            "on_cluster": on_cluster(),
            "worker_on_cluster": plain(on_every_node(on_cluster)),
            "node": ray.get_runtime_context().get_node_id(),
            "handlers_kept": signal.getsignal(signal.SIGTERM) is before,
            "slots": [slots(1, 0), slots(2, 0), slots(3, 0), slots(1, 0.5), slots(1, 2)],
        }


def everywhere() -> dict[str, Any]:
    """Calls on all nodes: their results and their failures."""
    with connected_ray():
        first = plain(on_every_node(os.getpid))
        started = time.monotonic()
        late = plain(on_every_node(time.sleep, 30, timeout_s=1))
        return {
            "pids": first,
            "raised": plain(on_every_node(os.listdir, "/nowhere")),
            "late": late,
            "late_s": time.monotonic() - started,
            "died": plain(on_every_node(os._exit, 3)),
            "with_gpus": plain(on_every_node(os.getenv, "CUDA_VISIBLE_DEVICES", gpus=0.25)),
            "without": plain(on_every_node(os.getenv, "CUDA_VISIBLE_DEVICES")),
        }


def gpu_shares() -> dict[str, Any]:
    """The devices of nine actors with a quarter of a GPU each. Eight of them fit."""
    import ray

    class Holder:
        def devices(self) -> str:
            return os.environ["CUDA_VISIBLE_DEVICES"]

    with connected_ray():
        actor: Any = ray.remote(num_cpus=0, num_gpus=0.25)(Holder)
        # An actor lives as long as its handle exists.
        holders = [actor.remote() for _ in range(9)]
        calls = [holder.devices.remote() for holder in holders]
        ray.wait(calls, num_returns=8, timeout=GIVEN_S)
        # An actor that wrongly gets a share may still be starting.
        ready, waiting = ray.wait(calls, num_returns=9, timeout=SETTLED_S)
        return {"devices": sorted(ray.get(ready)), "waiting": len(waiting)}


def doctor() -> dict[str, Any]:
    """The diagnostics about the GPUs of the nodes."""
    from tuner.jobs.workspace import Workspace
    from tuner.remote.diagnostics import checks_on_cluster

    hops = checks_on_cluster(Workspace(Path(tempfile.mkdtemp())), None)
    return {hop.name: [hop.ok, hop.detail] for hop in hops if hop.name.endswith("GPUs")}


def plain(answers: Mapping[str, Answer[Any]]) -> dict[str, list[Any]]:
    """The answers as lists, which JSON can hold."""
    return {node: [answer.value, answer.error] for node, answer in answers.items()}


FINDINGS: Mapping[str, Callable[[], dict[str, Any]]] = {
    find.__name__: find for find in (runtime, everywhere, gpu_shares, doctor)
}

if __name__ == "__main__":
    print(json.dumps(FINDINGS[sys.argv[1]]()))
