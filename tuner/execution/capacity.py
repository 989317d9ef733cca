"""How many trials of a job may run at once: all that fit on its own machine, or a fair share of a cluster."""

import time
from collections.abc import Mapping
from typing import Protocol

from cluster.runtime import cluster_id, slots
from tuner.jobs.replication import Replicator
from tuner.spec.settings import ResourcesSpec

POLL_S = 2.0


class Capacity(Protocol):
    """The number of trials that may run at once."""

    def trials(self, running: int, more: bool, waits: bool) -> int:
        """How many trials may run at once now.

        Args:
            running: trials that were started and have not ended.
            more: whether there may be more trials to start.
            waits: whether all running trials wait for a free place.
        """


class FixedCapacity:
    """A number that does not change.

    Args:
        most: trials at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most

    def trials(self, running: int, more: bool, waits: bool) -> int:
        """That number."""
        return self._most


class FairShare:
    """A share of the cluster's places: jobs that want equally many places get equal shares.

    Args:
        job: the job's id.
        resources: what each trial gets, and the job's own cap.
        replicator: announces to other jobs how many places this one wants, and receives their wishes.
    """

    def __init__(self, job: str, resources: ResourcesSpec, replicator: Replicator) -> None:
        self._job = job
        self._resources = resources
        self._replicator = replicator
        self._cluster = cluster_id()
        self._polled_at = -POLL_S
        self._slots = 0

    def trials(self, running: int, more: bool, waits: bool) -> int:
        """The share. It changes as other jobs and nodes come and go."""
        if time.monotonic() - self._polled_at >= POLL_S:
            self._polled_at = time.monotonic()
            self._slots = slots(self._resources.cpus, self._resources.gpus)
            self._replicator.announce(self._cluster, self._wants(running, more), self._waits() if waits else "")
        wants = {**self._replicator.instructions.wants, self._job: self._wants(running, more)}
        return fair_share(self._slots, wants, self._job)

    def _wants(self, running: int, more: bool) -> int:
        if not more:
            return running
        return self._resources.concurrent or self._slots

    def _waits(self) -> str:
        others = [job for job in self._replicator.instructions.wants if job != self._job]
        what = f"{self._resources.cpus} CPUs" + (f" and {self._resources.gpus:g} GPUs" if self._resources.gpus else "")
        if not self._slots:
            return f"no node that has joined has {what} for a trial"
        return f"for a node with {what} free" + (f"; also running: {', '.join(others)}" if others else "")


def fair_share(places: int, wants: Mapping[str, int], job: str) -> int:
    """How many of a cluster's places a job gets: places are dealt one by one to jobs that want more, the oldest first.

    Args:
        places: trials that fit on the cluster.
        wants: how many places each job could use, the oldest job first.
        job: one of them.

    Returns:
        At least 1. If there are more jobs than places, Ray queues their trials.
    """
    shares = dict.fromkeys(wants, 0)
    while places > 0 and (hungry := [name for name in wants if shares[name] < wants[name]]):
        for name in hungry[:places]:
            shares[name] += 1
        places -= min(places, len(hungry))
    return max(1, shares[job])
