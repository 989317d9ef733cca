"""A spec that is to become a job: from a file, a mapping or a ``Spec``, with some of its values replaced."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainables.foreign_text import with_article
from tuner.errors import SpecError
from tuner.spec.messages import Origin
from tuner.spec.search_spec import SearchSpec, data_path_of, from_dict, from_document, to_dict
from tuner.spec.strict_yaml import Document, key_text, read, read_text

SHORTHANDS = ("sampler", "scheduler")
"""Keys whose value may be a name instead of a mapping with that name."""
IN_PYTHON = "spec"
"""Name of a spec without a file, in messages."""
_INDEX = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class Draft:
    """A spec that was read and is valid in itself, and what a new job keeps of it.

    Args:
        spec: the spec.
        text: the spec as the job keeps it: as the user wrote it, or as JSON, which is YAML too.
        folder: the folder of the spec file, or the current folder. The spec's ``code`` is relative to it.
    """

    spec: SearchSpec
    text: str
    folder: Path


def draft(
    given: str | Path | Mapping[str, Any] | SearchSpec,
    changes: Mapping[str, Any] | None = None,
    data_path: str | None = None,
) -> Draft:
    """Read a spec.

    Args:
        given: the path of a YAML file, a mapping of the same keys, or a spec that was loaded. Paths in a mapping are
            relative to the current folder.
        changes: values that replace those of the spec, as ``changed`` takes them.
        data_path: replaces ``data.path``; by default ``TUNER_DATA`` does.

    Raises:
        NotFound: there is no such file.
        SpecError: the first mistake; or it is nothing of the kind.
    """
    if isinstance(given, SearchSpec):
        origin = given.origin
        folder = Path(origin.name).absolute().parent if origin.lines else Path.cwd()
        values = changed(to_dict(given), changes or {})
        spec = from_dict(values, _without_lines(origin, changes or {}))
        return Draft(spec, _text(values), folder)
    if isinstance(given, Mapping):
        document, folder = _of_mapping(given), Path.cwd()
        text = ""
    elif not isinstance(given, str | Path):
        raise SpecError(f"give the path of a spec, a mapping or a tuner.Spec, not {with_article(type(given).__name__)}")
    else:
        path = Path(given)
        document, folder = read(path), path.absolute().parent
        text = path.read_text(encoding="utf-8-sig")
    if changes or not text:
        values = changed(document.value, changes or {})
        lines = {place: line for place, line in document.lines.items() if not _is_changed(place, changes or {})}
        document, text = Document(document.name, values, lines), _text(values)
    spec = from_document(document, data_path)
    if data_path_of(spec.data.name, data_path) is None:
        spec = spec.from_origin(replace(spec.origin, data_folder=folder))
    return Draft(spec, text, folder)


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a spec after some changes. The argument is left as it is.

    Args:
        values: the values of the spec.
        changes: key -> new value. A key may be the dotted place of a value, such as ``budget.trials`` or
            ``arms.1.fixed``; an item of a list has its number, from 0, or its ``name``. A mapping changes only the keys
            that it names, and any other value replaces the old one: ``budget={"trials": 2}`` keeps ``budget.epochs``.

    Raises:
        SpecError: a place leads through a value that is neither a mapping nor a list, or to no item of a list.
    """
    result: dict[str, Any] = json.loads(_text(values))
    for key, value in changes.items():
        parts = key.split(".")
        if not all(parts):
            raise SpecError(f"{key!r} is not the place of a value of a spec; write one like budget.trials")
        _put(result, parts, key, json.loads(_text(value)))
    return result


def setting_of(text: str) -> tuple[str, Any]:
    """The key and the value of ``KEY=VALUE`` on a command line. The value is YAML.

    Raises:
        SpecError: it has another form.
    """
    key, equals, value = text.partition("=")
    if not (equals and key):
        raise SpecError(f"{text!r} is not KEY=VALUE, such as budget.trials=2")
    return key, read_text(f"value: {value}", "--set").value["value"]


def _put(values: Any, parts: list[str], key: str, new: Any) -> None:
    for depth, part in enumerate(parts[:-1]):
        place = _place(values, part, key)
        inner = values[place] if isinstance(place, int) else values.setdefault(place, {})
        if isinstance(inner, str) and part in SHORTHANDS and depth == 0:
            inner = values[place] = {"name": inner}
        if not isinstance(inner, dict | list):
            shown = json.dumps(inner)
            raise SpecError(f"{key}: {part} is {shown}, which has no keys; give {part} a whole new value")
        values = inner
    place = _place(values, parts[-1], key)
    old = values[place] if isinstance(place, int) else values.get(place)
    values[place] = {**old, **new} if isinstance(old, dict) and isinstance(new, dict) else new


def _place(values: dict[str, Any] | list[Any], part: str, key: str) -> str | int:
    """The key, or the number of the item, that a part of a dotted place names."""
    if isinstance(values, dict):
        return part
    names = [item.get("name") or item.get("variant") if isinstance(item, dict) else item for item in values]
    if part in names:
        return names.index(part)
    if _INDEX.fullmatch(part) and int(part) < len(values):
        return int(part)
    raise SpecError(f"{key}: there is no item {part!r}; there are: {', '.join(map(str, names))}")


def _text(values: Any) -> str:
    try:
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
    except (TypeError, ValueError) as error:
        raise SpecError(f"spec: {error}; use plain values: text, numbers, true, false, null, lists, mappings") from None


def _plain(value: Any) -> Any:
    """Numbers of numpy and paths as plain values; raises ``TypeError`` for anything else."""
    if isinstance(value, Path):
        return str(value)
    if callable(item := getattr(value, "item", None)):
        return item()
    raise TypeError(f"{value!r} is {with_article(type(value).__name__)}")


def _of_mapping(given: Mapping[str, Any]) -> Document:
    # Through the reader of files, so that a mapping must keep the same rules.
    return Document(IN_PYTHON, read_text(_text(given), IN_PYTHON).value, {})


def _is_changed(place: tuple[str | int, ...], changes: Mapping[str, Any]) -> bool:
    text = key_text(place).replace("[", ".").replace("]", "")
    return any(text == key or text.startswith(f"{key}.") for key in changes)


def _without_lines(origin: Origin, changes: Mapping[str, Any]) -> Origin:
    lines = {place: line for place, line in origin.lines.items() if not _is_changed(place, changes)}
    return replace(origin, lines=lines)
