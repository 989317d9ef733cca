"""Captures an update as a CUDA graph, without leaving a trace in what it updates."""

import logging
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

WARM_UPS = 3
"""Updates before the capture: libraries make their handles and choose their kernels, autograd its buffers."""

_log = logging.getLogger(__name__)


class NotCapturable(Exception):
    """An update of which a replay would not do what running it does."""


def captured(
    update: Callable[[], None],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    changed: Sequence[Tensor],
    device: torch.device,
) -> Callable[[], None]:
    """What does an update: the replay of a CUDA graph, or ``update`` where the model cannot be captured.

    The model cannot if it waits for the device (``.item()``, ``.cpu()``, a mask as an index) or draws random numbers
    on the host; one line of warning says so. That its forward decides by other means of Python, a counter say, is not
    noticed: such a model needs ``cuda_graph: false``.

    Args:
        update: the update; it takes and leaves everything in tensors that stay where they are.
        model: what it updates.
        optimizer: what it updates it with.
        changed: the other tensors that it changes.
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
        # A capture that broke off leaves the device's generator in the belief that it goes on.
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
    """Run the update a few times and put back all that it changed; the arguments are those of ``captured``.

    Raises:
        NotCapturable: it draws random numbers on the host, which a replay would not draw.
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
    """Weights, buffers, moments and torch's random streams are afterwards what they were, and where they were."""
    tensors = [*model.parameters(), *model.buffers(), *changed]
    before = [tensor.detach().clone() for tensor in tensors]
    moments = {p: {name: value.clone() for name, value in state.items()} for p, state in optimizer.state.items()}
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
            for parameter, state in optimizer.state.items():
                for name, tensor in state.items():
                    # What the optimizer made only now, it made of zeros.
                    kept = moments.get(parameter, {}).get(name)
                    tensor.zero_() if kept is None else tensor.copy_(kept)
        optimizer.zero_grad(set_to_none=True)


@contextmanager
def _syncs_refused() -> Iterator[None]:
    """Whatever waits for the device raises, before it can break a capture."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        # That the mode is a prototype, and that a capturable optimizer steps outside a capture.
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
