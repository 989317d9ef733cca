"""The nodes of the cluster that this process is connected to: what they declare, and one call on each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cluster.errors import first_line

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What a function gave on a node, or why it gave nothing: one line."""

    value: T | None
    error: str | None = None


def declared_gpus() -> Mapping[str, int]:
    """How many GPUs each node that is up says it has, by its address."""
    import ray

    return {node["NodeManagerAddress"]: int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]}


def on_every_node(
    function: Callable[..., T], *args: object, gpus: float = 0.0, timeout_s: float = 30.0
) -> Mapping[str, Answer[T]]:
    """Call a function in a worker on each node that is up and takes trials; needs no free CPU.

    Args:
        function: a module's, which the nodes can import.
        args: its arguments.
        gpus: only on nodes with GPUs, and with this share of one, once it is free.
        timeout_s: for all of them together.

    Returns:
        By the node's address, what it gave or why it did not.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    needed = "GPU" if gpus else "CPU"
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get(needed, 0) > 0]
    task: Any = ray.remote(num_cpus=0, num_gpus=gpus, max_retries=0)(_call)
    calls = {
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            name=f"{function.__module__}.{function.__name__}",
        ).remote(function, args): node["NodeManagerAddress"]
        for node in nodes
    }
    ready, late = ray.wait(list(calls), num_returns=len(calls), timeout=timeout_s) if calls else ([], [])
    for call in late:
        ray.cancel(call, force=True)
    answers = {calls[call]: _answer(call) for call in ready}
    return answers | {calls[call]: Answer(None, f"no answer within {timeout_s:g} s") for call in late}


def _call(function: Callable[..., T], args: tuple[object, ...]) -> T:
    """Ray takes no built-in functions."""
    return function(*args)


def _answer(call: Any) -> Answer[Any]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return Answer(ray.get(call))
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        return Answer(None, f"{type(cause).__name__}: {first_line(cause)}")
    except RayError as error:
        return Answer(None, first_line(error))
