"""Captures an update as a CUDA graph, and restores all tensors and random streams that the preparation changes."""

import logging
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from trainables.training.net import host_streams_restored

WARM_UPS = 3
"""Updates before the capture; in these, libraries create handles and choose kernels, and autograd makes its buffers."""

_log = logging.getLogger(__name__)


class NotCapturable(Exception):
    """The replay of this update would not do the same as running it."""


def captured(
    update: Callable[[], None],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    changed: Sequence[Tensor],
    device: torch.device,
) -> Callable[[], None]:
    """Return a function that runs the update: the replay of a CUDA graph, or ``update`` if it cannot be captured.

    A model cannot be captured if it waits for the device (``.item()``, ``.cpu()``, a mask as an index) or draws random
    numbers on the host. In that case one line is logged as a warning. Other decisions that Python makes in the forward
    pass, for example by a counter, are not detected: such a model needs ``cuda_graph: false``.

    Args:
        update: the update; its inputs and results are tensors that keep their place in memory.
        model: the model that the update changes.
        optimizer: the optimizer that changes the model.
        changed: the other tensors that the update changes.
        device: a CUDA device.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(stream), _syncs_refused():
            warm_up(update, model, optimizer, changed, device)
        with torch.cuda.graph(graph, stream=stream):
            update()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotCapturable) as error:
        reason = " ".join(str(error).split())[:200]
        _log.warning("warning: the model is trained without a CUDA graph, which is slower: %s", reason)
        # After a failed capture the device's generator still assumes a running capture; a new state resets it.
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(generator.clone_state())
        return update
    finally:
        torch.cuda.current_stream(device).wait_stream(stream)
    return graph.replay


def warm_up(
    update: Callable[[], None],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    changed: Sequence[Tensor],
    device: torch.device,
) -> None:
    """Run the update ``WARM_UPS`` times, then restore everything that it changed.

    The arguments are the same as for ``captured``.

    Raises:
        NotCapturable: the update draws random numbers on the host, and a replay would not draw them.
    """
    with _put_back(model, optimizer, changed, device):
        before = _host_streams()
        for _ in range(WARM_UPS):
            update()
        if _host_streams() != before:
            raise NotCapturable("its training draws random numbers on the host")


@contextmanager
def _put_back(
    model: nn.Module, optimizer: torch.optim.Optimizer, changed: Sequence[Tensor], device: torch.device
) -> Iterator[None]:
    """On exit, restore weights, buffers, moments and all global random streams, without moving any tensor in memory."""
    tensors = [*model.parameters(), *model.buffers(), *changed]
    before = [tensor.detach().clone() for tensor in tensors]
    moments = {p: {name: value.clone() for name, value in state.items()} for p, state in optimizer.state.items()}
    try:
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            host_streams_restored(),
        ):
            yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
            for parameter, state in optimizer.state.items():
                for name, tensor in state.items():
                    # A tensor that the optimizer has just created started as zeros.
                    kept = moments.get(parameter, {}).get(name)
                    tensor.zero_() if kept is None else tensor.copy_(kept)
        optimizer.zero_grad(set_to_none=True)


@contextmanager
def _syncs_refused() -> Iterator[None]:
    """Raise an error at every operation that waits for the device, before it can break a capture."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        # torch warns that the debug mode is a prototype, and that a capturable optimizer steps outside a capture.
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(mode)


def _host_streams() -> object:
    numpy = np.random.get_state(legacy=False)["state"]
    streams = [np.asarray(part).tobytes() for part in (*numpy.values(), torch.get_rng_state().numpy())]
    return random.getstate(), streams
