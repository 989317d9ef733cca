"""The processes that train: Ray actors, handed from one attempt to the next."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import ray
from ray.exceptions import RayError

_Actor = Any
_Call = Any
"""A call of a worker: a Ray ``ObjectRef`` of the report of one epoch."""


def start_actors(kind: type, cpus: int, gpus: float) -> Callable[[], _Actor]:
    """A function that starts a Ray actor.

    Args:
        kind: the actor's class: ``TrialTrainable``, or ``OwnWorker`` for the user's own trainables.
        cpus: CPUs of each actor.
        gpus: GPUs of each actor: 0, a share below 1, or a whole number.
    """
    start: Callable[[], _Actor] = ray.remote(num_cpus=cpus, num_gpus=gpus)(kind).remote
    return start


@dataclass(eq=False)
class Worker:
    """One process, and whether it has a place on the cluster and has started yet."""

    actor: _Actor
    up: bool = False

    def __post_init__(self) -> None:
        self.actor.__ray_ready__.remote().future().add_done_callback(self._is_up)

    def _is_up(self, done: "Future[Any]") -> None:
        self.up = True


class Workers:
    """Starts a worker if none is idle, and keeps it for the next attempt, because a process takes seconds to start.

    Ray says when a call ends, so a report costs the same however many workers there are.

    Args:
        start: starts an actor; see ``start_actors``.
    """

    def __init__(self, start: Callable[[], _Actor]) -> None:
        self._start = start
        self._all: set[Worker] = set()
        self._idle: list[Worker] = []
        self._calls: dict[Worker, _Call] = {}
        self._ended: SimpleQueue[tuple[Worker, Future[Any]]] = SimpleQueue()
        """Calls that have ended. Ray fills it in a thread of its own."""

    def take(self) -> Worker:
        """An idle worker, else a new one. Ray starts it once there is a place for it."""
        if self._idle:
            return self._idle.pop()
        worker = Worker(self._start())
        self._all.add(worker)
        return worker

    def begin(self, worker: Worker, config: dict[str, Any]) -> None:
        """Let a worker take an attempt and train its first epoch."""
        self._await(worker, worker.actor.begin.remote(config))

    def train(self, worker: Worker) -> None:
        """Let a worker train another epoch of its attempt."""
        self._await(worker, worker.actor.train.remote())

    def arrived(self, timeout_s: float) -> Iterator[tuple[Worker, Any | RayError]]:
        """Wait for the end of a call, and yield what has ended: workers and their reports, or the errors.

        Args:
            timeout_s: longest wait. Nothing is yielded after it.

        Raises:
            RayError: Ray died.
        """
        try:
            ended = [self._ended.get(timeout=timeout_s)]
        except Empty:
            # Without Ray no call would ever end. It raises here.
            ray.wait([*self._calls.values()][:1], timeout=0)
            return
        ended += [self._ended.get() for _ in range(self._ended.qsize())]
        for worker, done in ended:
            # The call of a worker that was ended fails too, and nobody waits for it.
            if self._calls.pop(worker, None) is not None:
                error = done.exception()
                if error is not None and not isinstance(error, RayError):
                    raise error
                yield worker, error or done.result()

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
        self._calls.pop(worker, None)
        ray.kill(worker.actor)

    def trim(self, most: int) -> None:
        """End idle workers while there are more than ``most`` in all: others need their places."""
        while self._idle and len(self._all) > most:
            self.end(self._idle.pop())

    def close(self) -> None:
        """End all workers."""
        for worker in self._all:
            ray.kill(worker.actor)
        self._all.clear()
        self._idle.clear()
        self._calls.clear()

    def _await(self, worker: Worker, call: _Call) -> None:
        self._calls[worker] = call
        call.future().add_done_callback(partial(self._note_end, worker))

    def _note_end(self, worker: Worker, done: "Future[Any]") -> None:
        self._ended.put((worker, done))
