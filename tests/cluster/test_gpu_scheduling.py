"""Shares of GPUs, on nodes that only say that they have some: never more on a device than fit, each told its own."""

import json
import sys
from pathlib import Path

from cluster.jobs import JobsApi

SCRIPT = """\
import json
import os
import cluster.runtime
from cluster.runtime import connected_ray, slots
import ray


class Trial:
    def where(self):
        return os.environ["CUDA_VISIBLE_DEVICES"]


with connected_ray():
    fit = slots(1, 0.5)
    Actor = ray.remote(num_cpus=0.1, num_gpus=0.25)(Trial)
    actors = [Actor.remote() for _ in range(9)]
    asked = [actor.where.remote() for actor in actors]
    ready, waiting = ray.wait(asked, num_returns=8, timeout=60)
    late, still = ray.wait(waiting, num_returns=1, timeout=2)
    placed = ray.get(ready)
    for actor, call in zip(actors, asked):
        if call in ready:
            ray.kill(actor)
            break
    freed, _ = ray.wait(still, num_returns=1, timeout=60)
    print(json.dumps({"slots": fit, "devices": placed, "late": len(late), "freed": ray.get(freed)}))
"""


def test_four_trials_of_a_quarter_share_a_device_and_the_fifth_waits(api: JobsApi, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    ran = api.run(f"{sys.executable} script.py", tmp_path, timeout_s=150)
    assert ran.code == 0, ran.err
    found = json.loads(ran.out.splitlines()[-1])
    # Two CPUs and two GPUs: two trials of a CPU and half a GPU, for want of CPUs.
    assert found["slots"] == 2
    assert sorted(found["devices"]) == ["0"] * 4 + ["1"] * 4
    assert found["late"] == 0
    assert found["freed"] in (["0"], ["1"])
