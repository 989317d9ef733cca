"""The nodes of a Ray cluster, as its dashboard lists them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.dashboard_api import Dashboard


@dataclass(frozen=True)
class Node:
    """One node of the cluster: the CPUs and GPUs that trials may use, and the free ones.

    The free CPUs and GPUs are some seconds old. They are None if the cluster does not report them.
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
    """The nodes of the cluster, the head first. For a while, the list still holds nodes that have left."""
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
