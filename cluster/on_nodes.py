"""Work with the nodes of the connected cluster: read the GPUs they declare, and call one function on each node."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cluster.errors import first_line

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """The return value of a function on one node, or the reason of its failure in one line."""

    value: T | None
    error: str | None = None


def declared_gpus() -> Mapping[str, int]:
    """The number of GPUs that each live node declares to Ray, by the address of the node."""
    import ray

    return {node["NodeManagerAddress"]: int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]}


def on_every_node(
    function: Callable[..., T], *args: object, gpus: float = 0.0, timeout_s: float = 30.0
) -> Mapping[str, Answer[T]]:
    """Call a function in a worker on each live node that runs trials. The call needs no free CPU.

    Args:
        function: a function of a module that the nodes can import.
        args: its arguments.
        gpus: if not 0, call it only on nodes with GPUs, and wait until this share of one GPU is free.
        timeout_s: time limit for all calls together.

    Returns:
        The answer of each node, by the address of the node.
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
    """Calls ``function``. Ray accepts this function as a task, but no built-in function."""
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
