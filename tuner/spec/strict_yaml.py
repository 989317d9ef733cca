"""Reads a strict YAML 1.2 document into plain values, and stores the line of every key.

ruamel.yaml parses the text into events. This module resolves plain scalars by the core schema of YAML 1.2. It refuses
anchors, aliases, tags, duplicate keys, keys that are not text, numbers that are not finite, and deep nesting. It
handles the events in a loop, without recursion, so no input can exhaust the stack.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from tuner.errors import NotFound, SpecError

KeyPath: TypeAlias = tuple[str | int, ...]
"""The place of a value: keys of mappings and indices of lists, from the top."""

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_VALUES = 10_000
_PLAIN_KEY = re.compile(r"[\w-]{1,64}", re.ASCII)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = dict.fromkeys(("", "~", "null", "Null", "NULL")) | {
    word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")
}


@dataclass(frozen=True)
class Document:
    """A document: its name for messages, its values, and the line of every key and item (the first line is 1)."""

    name: str
    value: dict[str, Any]
    lines: Mapping[KeyPath, int] = field(repr=False)


def read(path: Path) -> Document:
    """Read a document from a file.

    Raises:
        NotFound: there is no such file.
        SpecError: the file is not one well-formed mapping; the message begins with ``FILE:LINE:``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    except IsADirectoryError:
        raise SpecError(f"{path}: is a directory; a spec is one YAML file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"{path}: cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise SpecError(f"{path}:1: larger than {MAX_BYTES // 1024} KiB; a spec is a small file")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; save it as UTF-8") from None
    return read_text(text, str(path))


def read_text(text: str, name: str, max_values: int = MAX_VALUES) -> Document:
    """Read a document from ``text``; messages name it ``name``. Raises ``SpecError``."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if bad := _CONTROL.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        raise SpecError(f"{name}:{line}: control character U+{ord(bad[0]):04X}; only printable text is allowed")
    builder = _Builder(name, max_values)
    for event in _events(text, name):
        builder.take(event)
    return builder.document()


def _events(text: str, name: str) -> Iterator[Any]:
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as error:
        problem = " ".join(str(error.problem or error.context).split())
        # For something that never ends, the message gives the line where it begins.
        endless = error.context_mark if "end of stream" in problem or "<stream end>" in problem else None
        mark = endless or error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        hint = "; indent with spaces, not tabs" if "\\t" in problem else "; check the indentation and the quotes"
        raise SpecError(f"{name}{line}: not YAML: {problem}{hint}") from None
    except (YAMLError, ValueError, OverflowError, AssertionError) as error:
        raise SpecError(f"{name}:1: not YAML: {' '.join(str(error).split())}") from None


def scalar(text: str) -> bool | int | float | str | None:
    """The value of a plain scalar in YAML 1.2; raises ``ValueError`` for a number that is too large or not finite."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        if len(text) > 20:
            raise ValueError("is too large a number")
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)
    if _NOT_FINITE.fullmatch(text) or (_FLOAT.fullmatch(text) and not math.isfinite(float(text))):
        raise ValueError("is not a finite number; numbers must be finite")
    return float(text) if _FLOAT.fullmatch(text) else text


@dataclass
class _Open:
    """A mapping or list that has not ended: its place, its value so far, and the key whose value comes next."""

    path: KeyPath
    value: dict[str, Any] | list[Any]
    key: str | None = None


class _Builder:
    """Builds the values from the events. It keeps open mappings and lists in a list, not on the call stack."""

    def __init__(self, name: str, max_values: int) -> None:
        self._name = name
        self._max_values = max_values
        self._open: list[_Open] = []
        self._root: Any = None
        self._lines: dict[KeyPath, int] = {}
        self._documents = 0
        self._values = 0

    def take(self, event: Any) -> None:
        if isinstance(event, DocumentStartEvent):
            self._start_document(event)
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            self._open.pop()
        elif isinstance(event, NodeEvent):
            self._refuse_extras(event)
            self._values += 1
            if self._values > self._max_values:
                self._refuse(event, f"more than {self._max_values} keys and values; a spec is a small file")
            if isinstance(event, ScalarEvent):
                self._take_scalar(event)
            elif isinstance(event, MappingStartEvent | SequenceStartEvent):
                self._start_collection(event)

    def document(self) -> Document:
        if self._root is None:
            raise SpecError(f"{self._name}:1: is empty; a spec is a mapping of keys to values")
        return Document(self._name, self._root, self._lines)

    def _start_document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            self._refuse(event, "a second document; a file must contain only one spec")
        if event.tags or tuple(event.version or (1, 2)) != (1, 2):
            self._refuse(event, "a directive; only %YAML 1.2 is allowed")

    def _refuse_extras(self, event: Any) -> None:
        if isinstance(event, AliasEvent):
            self._refuse(event, f"alias *{event.anchor}; aliases are not allowed, repeat the value instead")
        if event.anchor is not None:
            self._refuse(event, f"anchor &{event.anchor}; anchors are not allowed, repeat the value instead")
        if event.tag is not None:
            self._refuse(event, f"tag {event.tag}; tags are not allowed, write the plain value")

    def _take_scalar(self, event: Any) -> None:
        value: Any = event.value
        if event.style is None:
            try:
                value = scalar(event.value)
            except ValueError as error:
                self._refuse(event, f"{_short(event.value)} {error}")
        elif bad := _CONTROL.search(value):
            self._refuse(event, f"control character U+{ord(bad[0]):04X}; only printable text is allowed")
        top = self._open[-1] if self._open else None
        if top is None:
            if value is not None:
                self._refuse(event, "a single value at the top; a spec is a mapping of keys to values")
        elif isinstance(top.value, dict) and top.key is None:
            self._take_key(event, top, value)
        else:
            self._place(event, value)

    def _take_key(self, event: Any, top: _Open, key: Any) -> None:
        assert isinstance(top.value, dict)
        if not isinstance(key, str):
            self._refuse(event, f"key {_short(event.value)} is not text; put it in quotes")
        if key in top.value:
            first = self._lines[(*top.path, key)]
            self._refuse(event, f"key {_short(key)} occurs twice, first on line {first}; keep one of the two")
        self._lines[(*top.path, key)] = event.start_mark.line + 1
        top.key = key

    def _start_collection(self, event: Any) -> None:
        value: dict[str, Any] | list[Any] = {} if isinstance(event, MappingStartEvent) else []
        if len(self._open) >= MAX_DEPTH:
            raise self._error(event, f"nested deeper than {MAX_DEPTH} levels; a spec has only a few levels")
        if not self._open:
            if isinstance(value, list):
                self._refuse(event, "a list at the top; a spec is a mapping of keys to values")
            self._root = value
            self._open.append(_Open((), value))
            return
        top = self._open[-1]
        if isinstance(top.value, dict) and top.key is None:
            self._refuse(event, "a key is a mapping or list; keys must be text")
        self._open.append(_Open(self._place(event, value), value))

    def _place(self, event: Any, value: Any) -> KeyPath:
        """Put a value into the innermost open mapping or list; returns its path."""
        top = self._open[-1]
        if isinstance(top.value, list):
            path: KeyPath = (*top.path, len(top.value))
            self._lines[path] = event.start_mark.line + 1
            top.value.append(value)
        else:
            assert top.key is not None
            path = (*top.path, top.key)
            top.value[top.key] = value
            top.key = None
        return path

    def _refuse(self, event: Any, problem: str) -> NoReturn:
        path = key_text(self._here())
        raise self._error(event, f"{path}: {problem}" if path else problem)

    def _here(self) -> KeyPath:
        """The place of the next value. If a key comes next, the place of its mapping."""
        if not self._open:
            return ()
        top = self._open[-1]
        if isinstance(top.value, list):
            return (*top.path, len(top.value))
        return top.path if top.key is None else (*top.path, top.key)

    def _error(self, event: Any, problem: str) -> SpecError:
        return SpecError(f"{self._name}:{event.start_mark.line + 1}: {problem}")


def key_text(path: KeyPath) -> str:
    """A path as text, such as ``arms[1].parameters.lr``. A key that is not a plain word is quoted and shortened."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in path]
    return "".join(parts).removeprefix(".")


def _key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else _short(key)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
