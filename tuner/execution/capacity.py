"""How many of a job's trials may run at once: all that fit on a machine of one's own, a fair share of a cluster."""

import time
from collections.abc import Mapping
from typing import Protocol

from cluster.runtime import cluster_id, slots
from tuner.jobs.replication import Replicator
from tuner.spec.settings import ResourcesSpec

POLL_S = 2.0


class Capacity(Protocol):
    """Says how many trials may run."""

    def trials(self, running: int, more: bool, waits: bool) -> int:
        """How many trials may run at once now.

        Args:
            running: how many were started and have not ended.
            more: whether there may be others to start.
            waits: whether all that run wait for a free place.
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
    """A share of the cluster's places, as large as that of every other job that wants as many.

    Args:
        job: the job's id.
        resources: what each trial gets, and the job's own cap.
        replicator: tells the other jobs what this one wants, and hears it of them.
    """

    def __init__(self, job: str, resources: ResourcesSpec, replicator: Replicator) -> None:
        self._job = job
        self._resources = resources
        self._replicator = replicator
        self._cluster = cluster_id()
        self._polled_at = -POLL_S
        self._slots = 0

    def trials(self, running: int, more: bool, waits: bool) -> int:
        """The share, which changes as other jobs come and go, and nodes."""
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
    """How many of a cluster's places a job gets: one after the other, the oldest first, as long as it wants more.

    Args:
        places: trials that fit on the cluster.
        wants: what every job could use, in the order of their age.
        job: one of them.

    Returns:
        At least 1: where there are more jobs than places, they queue at Ray.
    """
    shares = dict.fromkeys(wants, 0)
    while places > 0 and (hungry := [name for name in wants if shares[name] < wants[name]]):
        for name in hungry[:places]:
            shares[name] += 1
        places -= min(places, len(hungry))
    return max(1, shares[job])
