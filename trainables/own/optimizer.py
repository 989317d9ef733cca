"""A user's own optimizer: its class by dotted path, the names of its arguments, and the optimizer of a model."""

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainables.catalog import load_object
from trainables.config import OptimizerConfig
from trainables.errors import CodeError, did_you_mean
from trainables.foreign_text import raised

REQUIRED = inspect.Parameter.empty
"""The default of an argument that has none."""


def optimizer_class(path: str) -> type[torch.optim.Optimizer]:
    """The optimizer class at a dotted path.

    Args:
        path: for example ``torch.optim:SGD``, ``lion_pytorch:Lion``, or ``file:Class`` for a file beside the spec.

    Raises:
        CodeError: there is nothing to import, it is no optimizer class, or no update of a training can call it.
    """
    found = load_object(path)
    if isinstance(found, torch.optim.Optimizer):
        raise CodeError(f"{path} is an optimizer that is built already; name its class, {type(found).__name__}")
    if not isinstance(found, type):
        kind = "a function" if inspect.isroutine(found) else f"an object of type {type(found).__name__}"
        raise CodeError(f"{path} is {kind}; name a subclass of torch.optim.Optimizer, for example torch.optim:SGD")
    if not issubclass(found, torch.optim.Optimizer):
        raise CodeError(f"{path} is a class, but no subclass of torch.optim.Optimizer")
    if found.step is torch.optim.Optimizer.step:
        raise CodeError(f"{path} has no method `step` of its own; name an optimizer, for example torch.optim:SGD")
    closure = _signature(found.step).get("closure")
    if closure is not None and closure.default is REQUIRED:
        raise CodeError(
            f"{path} cannot be used: its step needs a closure, because it computes the loss several times per update"
        )
    if "lr" not in _signature(found) and not _takes_any(found):
        raise CodeError(f"{path} cannot be used: it has no argument `lr` for the learning rate")
    return found


def arguments_of(path: str) -> Mapping[str, object] | None:
    """The keyword arguments of an optimizer class, ``lr`` included, and their defaults; ``REQUIRED`` if there is none.

    The first argument, the parameters to train, is left out. None if the class takes arguments of any name.

    Raises:
        CodeError: as for ``optimizer_class``.
    """
    kind = optimizer_class(path)
    return None if _takes_any(kind) else {name: argument.default for name, argument in _signature(kind).items()}


def check_argument(path: str, name: str) -> None:
    """Check the name of one keyword argument of an optimizer class.

    Args:
        path: the class.
        name: the argument's name, or ``NAME.INDEX`` for one number of a tuple, for example ``betas.1``.

    Raises:
        CodeError: the class has no such argument; or as for ``optimizer_class``.
    """
    known = arguments_of(path)
    if known is None:
        return
    base, dot, index = name.partition(".")
    if base not in known:
        names = [*known, *(f"{key}.{at}" for key, value in known.items() if isinstance(value, tuple) for at in (0, 1))]
        # Adam's decay rates have one argument each elsewhere, and here a tuple.
        adam = {"beta1": "betas.0", "beta2": "betas.1"}.get(name)
        meant = f"; did you mean {adam!r}?" if adam in names else did_you_mean(name, names)
        raise CodeError(f"{path} has no argument {name!r}{meant} (there are: {', '.join(known)})")
    if dot:
        _element(path, name, known[base], index)


def build_own(config: OptimizerConfig, lr: float, model: nn.Module) -> torch.optim.Optimizer:
    """Build a user's own optimizer.

    All parameters that are trained form one group, so the class decays them by ``weight_decay`` as it defines it. A
    function of the user's can make other groups; a group may have its own ``lr``.

    Args:
        config: the optimizer.
        lr: the trial's peak learning rate.
        model: the model to train.

    Raises:
        CodeError: the class or the function of groups cannot be used, or refuses its arguments.
    """
    kind = optimizer_class(config.name)
    for name in config.arguments:
        check_argument(config.name, name)
    groups = _own_groups(config.groups, model) if config.groups else [p for p in model.parameters() if p.requires_grad]
    try:
        return kind(groups, lr=lr, **_arguments(config))  # type: ignore[call-arg]
    except CodeError:
        raise
    except Exception as error:
        raise CodeError(raised(config.name, error) + _hint(config, error)) from error


def _arguments(config: OptimizerConfig) -> dict[str, Any]:
    """The keyword arguments in Python's types: lists become tuples, and ``NAME.INDEX`` changes one element of them."""
    known = arguments_of(config.name) or {}
    given: dict[str, Any] = {}
    # A whole tuple comes first, so that its elements can replace parts of it in any order of the config.
    for name, value in sorted(config.arguments.items(), key=lambda item: "." in item[0]):
        base, dot, index = name.partition(".")
        if not dot:
            given[name] = tuple(value) if isinstance(value, list | tuple) else value
            continue
        before = given.get(base, known.get(base, REQUIRED))
        at = _element(config.name, name, before, index)
        given[base] = (*before[:at], value, *before[at + 1 :])
    return given


def _element(path: str, name: str, value: object, index: str) -> int:
    if not isinstance(value, tuple):
        raise CodeError(f"{path} has no argument {name!r}: the default of {name.partition('.')[0]!r} is no tuple")
    if not index.isdecimal() or int(index) >= len(value):
        raise CodeError(f"{path} has no argument {name!r}: its numbers are counted from 0 to {len(value) - 1}")
    return int(index)


def _own_groups(path: str, model: nn.Module) -> list[dict[str, Any]]:
    function = load_object(path)
    if not callable(function):
        raise CodeError(f"{path} is no function (model) -> list of parameter groups")
    try:
        found: object = function(model)
        groups = list(found) if isinstance(found, Iterable) else []
        groups = [{**group, "params": _listed(group["params"])} for group in groups]
    except Exception as error:
        raise CodeError(raised(f"{path}: making the parameter groups", error)) from error
    if not groups:
        returned = "an empty list" if found == [] else f"{found!r:.80}"
        raise CodeError(f"{path} returned {returned}, not a list of parameter groups such as [{{'params': [...]}}]")
    own = {id(parameter) for parameter in model.parameters()}
    if not all(id(parameter) in own for group in groups for parameter in group["params"]):
        raise CodeError(f"{path}: a parameter group holds something other than parameters of the model")
    return groups


def _listed(params: object) -> list[Tensor]:
    return [params] if isinstance(params, Tensor) else list(params)  # type: ignore[call-overload]


def _hint(config: OptimizerConfig, error: Exception) -> str:
    """What to do about an optimizer that takes matrices only, such as Muon."""
    if config.groups is None and re.search(r"\b2-?d\b", str(error), re.IGNORECASE):
        return (
            "; it trains matrices only: choose them with `groups`, a function (model) -> parameter groups, or write a "
            "class that trains the other parameters in another way"
        )
    return ""


def _takes_any(kind: type[torch.optim.Optimizer]) -> bool:
    try:
        arguments = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):  # a class that is not written in Python
        return True
    return any(argument.kind is argument.VAR_KEYWORD for argument in arguments)


def _signature(function: Any) -> Mapping[str, inspect.Parameter]:
    """The named arguments but the first, which is the parameters of a class, or the optimizer of a method."""
    try:
        _, *others = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {argument.name: argument for argument in others if argument.kind in kinds}
