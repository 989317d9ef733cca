"""Turns the validation errors of pydantic into our messages: what is wrong; what is allowed; did you mean."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from trainables.errors import did_you_mean
from tuner.spec.messages import InvalidValue, shown
from tuner.spec.strict_yaml import KeyPath

ALLOWED: Mapping[str, str] = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "model_type": "must be a mapping of keys",
    "dict_type": "must be a mapping of keys",
    "tuple_type": "must be a list",
    "finite_number": "must be finite",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must have at least {min_length}",
    "too_long": "must have at most {max_length}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
}
"""Type of a pydantic error -> text that says what is allowed, with the limits from the error's context."""


def from_pydantic(model: type[BaseModel], error: ValidationError) -> list[InvalidValue]:
    """Every mistake in a validation error of ``model``, in the order of the model's fields."""
    return [_refusal(model, detail) for detail in error.errors(include_url=False) if not _follows(detail)]


def _follows(detail: ErrorDetails) -> bool:
    """Whether pydantic calls a list too short only because some items are wrong. Those items have their own errors."""
    return detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]


def _refusal(model: type[BaseModel], detail: ErrorDetails) -> InvalidValue:
    path = detail["loc"]
    if path[-1:] == ("[key]",) and detail["type"] != "extra_forbidden":
        path = path[:-1]  # pydantic marks a wrong key of a mapping in this way
    context: Mapping[str, Any] = detail.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, InvalidValue):
        return cause.under(*path)
    if detail["type"] == "extra_forbidden":
        known = list(_fields(model, path[:-1]))
        return InvalidValue(f"unknown key; allowed keys: {', '.join(known)}{did_you_mean(str(path[-1]), known)}", *path)
    if detail["type"] == "missing":
        return InvalidValue(f"is missing; {_about(model, path)}", *path)
    allowed = ALLOWED.get(detail["type"], detail["msg"]).format(**context)
    return InvalidValue(f"{_found(detail)}; {allowed}{_near(detail, context)}", *path)


def _found(detail: ErrorDetails) -> str:
    value = detail["input"]
    if detail["type"] in ("too_short", "too_long"):
        return f"has {len(value)}"
    return f"is {shown(value)}"


def _near(detail: ErrorDetails, context: Mapping[str, Any]) -> str:
    if detail["type"] != "literal_error" or not isinstance(detail["input"], str):
        return ""
    return did_you_mean(detail["input"], re.findall(r"'([^']*)'", context["expected"]))


def _about(model: type[BaseModel], path: KeyPath) -> str:
    field = _fields(model, path[:-1]).get(str(path[-1]))
    about = field.description if field is not None else None
    keys = _fields(model, path)
    return about or f"a mapping with {', '.join(keys)}"


def _fields(model: type[BaseModel], path: KeyPath) -> dict[str, Any]:
    """The fields of the model at ``path`` below ``model``, by their key in YAML; empty if there is no model."""
    current: Any = model
    for part in path:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = _by_key(current).get(str(part))
            current = field.annotation if field else None
        else:
            current = get_args(current)[0 if isinstance(part, int) else -1] if get_args(current) else None
        current = next(_models(current), current)
    return _by_key(current) if isinstance(current, type) and issubclass(current, BaseModel) else {}


def _by_key(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The model in an annotation ``Model | None``."""
    for part in get_args(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel) and type(None) in get_args(annotation):
            yield part
