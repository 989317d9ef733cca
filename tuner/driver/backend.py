"""What the trials of a job run on: Ray here, Ray on a cluster, or a simulation."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from cluster.runtime import connected_ray, embedded_ray, on_cluster, usable_gpus
from trainables.own.worker import OwnWorker
from trainables.simulated import simulated
from trainables.training.ray_trainable import TrialTrainable
from tuner.driver.context import Context
from tuner.driver.prepare import Prepared
from tuner.execution.capacity import Capacity, FairShare, FixedCapacity
from tuner.execution.dispatcher import Dispatcher
from tuner.execution.ray_executor import RayExecutor
from tuner.execution.ray_workers import Workers, start_actors
from tuner.execution.simulator import Clock, Simulation, simulate
from tuner.jobs.replication import Replicator
from tuner.storage.file_lock import FileLock


class Backend(ABC):
    """Runs the attempts that a dispatcher hands out."""

    @abstractmethod
    def clock(self) -> float:
        """Seconds of the job's time, monotonic."""

    @abstractmethod
    def up(self) -> AbstractContextManager[None]:
        """A context in which the backend is up."""

    @abstractmethod
    def run(self, dispatcher: Dispatcher) -> None:
        """Run all attempts; returns when every trial has ended, or soon after a request to stop."""


class RayBackend(Backend):
    """Ray in this process tree or, on a cluster, the Ray that is there."""

    def __init__(self, context: Context, prepared: Prepared, lock: FileLock, replicator: Replicator | None) -> None:
        resources = prepared.spec.resources
        self._context = context
        self._prepared = prepared
        self._replicator = replicator
        self._lock = lock
        kind = OwnWorker if prepared.spec.own_trainable else TrialTrainable
        self._workers = Workers(start_actors(kind, resources.cpus, resources.gpus))

    def clock(self) -> float:
        """Seconds of this machine."""
        return time.monotonic()

    @contextmanager
    def up(self) -> Iterator[None]:
        """Start Ray, or connect to it; end the workers afterwards."""
        code, resources = self._prepared.code, self._prepared.spec.resources
        gpus = usable_gpus() if resources.gpus else 0
        cpus = self._prepared.concurrent * resources.cpus
        here = (code,) if code else ()
        with connected_ray(code) if on_cluster() else embedded_ray(cpus, gpus, self._context.scratch, here):
            try:
                yield
            finally:
                self._workers.close()

    def run(self, dispatcher: Dispatcher) -> None:
        """Run all attempts on workers of Ray."""
        context = self._context
        executor = RayExecutor(
            workers=self._workers,
            folder=context.folder,
            cache=context.workspace.cache,
            capacity=self._capacity(),
            stop=context.stop,
            lock=self._lock,
        )
        executor.run(dispatcher)

    def _capacity(self) -> Capacity:
        if not on_cluster():
            return FixedCapacity(self._prepared.concurrent)
        assert self._replicator is not None, "a job of a cluster is in its database"
        return FairShare(self._context.folder.id, self._prepared.spec.resources, self._replicator)


class SimulatedBackend(Backend):
    """Made-up learning curves in made-up time."""

    def __init__(self, context: Context, prepared: Prepared) -> None:
        self._stop = context.stop
        training = partial(simulated, maximize=prepared.spec.metric.maximize)
        self._simulation = Simulation(prepared.plan, prepared.concurrent, Clock(), training=training)

    def clock(self) -> float:
        """Made-up seconds."""
        return self._simulation.clock()

    @contextmanager
    def up(self) -> Iterator[None]:
        """Nothing has to be started."""
        yield

    def run(self, dispatcher: Dispatcher) -> None:
        """Run all attempts on made-up learning curves."""
        simulate(dispatcher, self._simulation, self._stop)
