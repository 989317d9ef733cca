"""The processes that train: Ray actors of the Ray Tune trainable, handed from one attempt to the next."""

from dataclasses import dataclass, field
from typing import Any

import ray

from trainables.training.ray_trainable import TrialTrainable

_Actor = Any
Call = Any
"""A call of a worker: a Ray ``ObjectRef`` of the report of one epoch."""


@dataclass(eq=False)
class Worker:
    """One process, and whether it has a place on the cluster and has started yet."""

    actor: _Actor
    up: bool = False
    ready: Any = field(init=False)

    def __post_init__(self) -> None:
        self.ready = self.actor.__ray_ready__.remote()

    def begin(self, config: dict[str, Any]) -> Call:
        """Take an attempt and train its first epoch."""
        return self.actor.begin.remote(config)

    def train(self) -> Call:
        """Train another epoch of the attempt."""
        return self.actor.train.remote()


class Workers:
    """Starts a worker if none is idle, and keeps it for the next attempt, because a process takes seconds to start.

    Args:
        cpus: CPUs of each worker.
        gpus: GPUs of each worker: 0, a share below 1, or a whole number.
    """

    def __init__(self, cpus: int, gpus: float) -> None:
        self._cpus = cpus
        self._gpus = gpus
        self._all: set[Worker] = set()
        self._idle: list[Worker] = []

    def take(self) -> Worker:
        """An idle worker, else a new one. Ray starts it once there is a place for it."""
        if self._idle:
            return self._idle.pop()
        trainable = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus)(TrialTrainable)
        worker = Worker(trainable.remote())
        self._all.add(worker)
        return worker

    def release(self, worker: Worker, expects_call: bool) -> None:
        """Keep a worker whose attempt has ended.

        Args:
            worker: which one.
            expects_call: whether it waits for another call of this attempt; it learns then that none will come.
        """
        if expects_call:
            worker.actor.stop.remote()
        self._idle.append(worker)

    def end(self, worker: Worker) -> None:
        """End a worker's process, whatever it does."""
        self._all.discard(worker)
        ray.kill(worker.actor)

    def trim(self, most: int) -> None:
        """End idle workers while there are more than ``most`` in all: others need their places."""
        while self._idle and len(self._all) > most:
            self.end(self._idle.pop())

    def poll(self) -> None:
        """Note which workers have started."""
        coming = {worker.ready: worker for worker in self._all if not worker.up}
        if coming:
            for ready in ray.wait(list(coming), num_returns=len(coming), timeout=0)[0]:
                coming[ready].up = True

    def close(self) -> None:
        """End all workers."""
        for worker in self._all:
            ray.kill(worker.actor)
        self._all.clear()
        self._idle.clear()
