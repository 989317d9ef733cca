"""The nodes of a Ray cluster, as its dashboard tells of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.dashboard_api import Dashboard


@dataclass(frozen=True)
class Node:
    """One node of the cluster: what trials may ask of it, and what of that is free.

    Free CPUs and GPUs are some seconds old; None where the cluster does not tell.
    """

    id: str
    ip: str
    alive: bool
    is_head: bool
    cpus: float
    gpus: float
    free_cpus: float | None
    free_gpus: float | None


def read_nodes(dashboard: Dashboard) -> tuple[Node, ...]:
    """The cluster's nodes, the head first; nodes that are gone are among them for a while."""
    found = dashboard.get("/api/v0/nodes?detail=1&limit=10000")
    status = dashboard.get("/api/cluster_status")
    usage = _at(status, "data", "clusterStatus", "loadMetricsReport", "usageByNode") or {}
    nodes = [_node(one, usage.get(one["node_id"])) for one in _at(found, "data", "result", "result") or []]
    return tuple(sorted(nodes, key=lambda node: (not node.is_head, node.ip)))


def _node(found: Mapping[str, Any], usage: Mapping[str, tuple[float, float]] | None) -> Node:
    total = found["resources_total"] or {}

    def free(resource: str) -> float | None:
        if usage is None:
            return None
        used, of = usage.get(resource, (0.0, 0.0))
        return of - used

    return Node(
        id=found["node_id"],
        ip=found["node_ip"],
        alive=found["state"] == "ALIVE",
        is_head=bool(found["is_head_node"]),
        cpus=total.get("CPU", 0.0),
        gpus=total.get("GPU", 0.0),
        free_cpus=free("CPU"),
        free_gpus=free("GPU"),
    )


def _at(found: Any, *path: str) -> Any:
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found
