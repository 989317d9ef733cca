"""The state of any optimizer as tensors, one of which holds a text of JSON; nothing is pickled.

``state_dict`` of an optimizer is a nest of dicts, lists, tuples, tensors, numbers and texts. The text of JSON describes
the nest; where it has a tensor, the text has the tensor's number.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainables.errors import CodeError

LAYOUT = "layout"
"""The name of the tensor that holds the text."""

TYPES = frozenset(
    {
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    }
)
"""The types of tensors that a checkpoint can hold."""


def packed(state: object, what: str) -> dict[str, Tensor]:
    """The state as tensors; they are the state's own, not copies.

    Args:
        state: a nest of dicts, lists, tuples, tensors, numbers, texts and None.
        what: the optimizer's name, for the error.

    Raises:
        CodeError: the state contains something else.
    """
    tensors: list[Tensor] = []
    numbers: dict[int, int] = {}

    def described(value: object, name: str) -> object:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Tensor) and value.dtype in TYPES and value.layout is torch.strided:
            # One tensor that stands at two places is one tensor again when it is read.
            if id(value) not in numbers:
                numbers[id(value)] = len(tensors)
                tensors.append(value)
            strides = list(torch.empty_like(value, device="meta", requires_grad=False).stride())
            return {"tensor": numbers[id(value)], "strides": strides, "cpu": value.device.type == "cpu"}
        if isinstance(value, list | tuple):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [described(one, f"{name}[{at}]") for at, one in enumerate(value)]}
        if isinstance(value, Mapping):
            items = sorted(value.items(), key=lambda item: _order(item[0]))
            return {"dict": [[described(key, name), described(one, f"{name}.{key}")] for key, one in items]}
        kind = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"
        raise CodeError(
            f"{what}: its state has {name} {kind}; a checkpoint holds tensors, numbers, texts, lists and dicts"
        )

    text = json.dumps(described(state, "state_dict()")).encode()
    named = {str(number): value.detach() for number, value in enumerate(tensors)}
    return {LAYOUT: torch.frombuffer(bytearray(text), dtype=torch.uint8), **named}


def unpacked(tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """The inverse of ``packed``; all tensors are copies, in their former memory layout.

    Args:
        tensors: the result of ``packed``, on any device.
        device: the training's device; tensors that were on the CPU beside a GPU stay there.

    Raises:
        KeyError, RuntimeError: the tensors are not the result of ``packed``.
    """
    made: dict[int, Tensor] = {}

    def tensor(number: int, strides: list[int], cpu: bool) -> Tensor:
        if number not in made:
            value = tensors[str(number)]
            place = torch.device("cpu") if cpu else device
            made[number] = torch.empty_strided(value.shape, strides, dtype=value.dtype, device=place).copy_(value)
        return made[number]

    def built(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "tensor" in value:
            return tensor(value["tensor"], value["strides"], value["cpu"])
        ((kind, items),) = value.items()
        if kind == "dict":
            return {built(key): built(one) for key, one in items}
        return tuple(map(built, items)) if kind == "tuple" else list(map(built, items))

    try:
        return built(json.loads(tensors[LAYOUT].numpy().tobytes()))
    except ValueError as error:
        raise RuntimeError(f"this is no state of an optimizer: {error}") from error


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two packed states are equal bit for bit."""
    return first.keys() == second.keys() and all(
        one.dtype == second[name].dtype and one.shape == second[name].shape and _bits(one) == _bits(second[name])
        for name, one in first.items()
    )


def _order(key: object) -> tuple[str, Any]:
    """Keys in an order that does not depend on which of them came first: numbers by size, all others as texts."""
    return type(key).__name__, key if isinstance(key, int) else str(key)


def _bits(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if math.prod(tensor.shape) else b""
