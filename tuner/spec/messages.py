"""The place of a mistake in a spec, and the form of its message: ``FILE:LINE: KEY.PATH: what is wrong``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.errors import SpecError
from tuner.spec.strict_yaml import Document, KeyPath, key_text


class InvalidValue(ValueError):
    """A value of the spec is not allowed; ``path`` leads from the checked value to the wrong one."""

    def __init__(self, text: str, *path: str | int) -> None:
        super().__init__(text)
        self.text = text
        self.path = path

    def under(self, *path: str | int) -> "InvalidValue":
        """The same mistake, with a path that begins further up in the spec."""
        return InvalidValue(self.text, *path, *self.path)


@dataclass(frozen=True)
class Origin:
    """The file that a spec was read from. It is left out of comparisons: equal specs from two files are equal.

    Args:
        name: its name in messages.
        lines: the line of every key.
        data_folder: the folder that ``data.path`` is relative to; by default the current folder.
    """

    name: str = field(default="spec", compare=False)
    lines: Mapping[KeyPath, int] = field(default_factory=dict, compare=False, repr=False)
    data_folder: Path = field(default=Path(), compare=False)

    @classmethod
    def of(cls, document: Document) -> "Origin":
        """The origin of the values in this document."""
        return cls(document.name, document.lines)

    def line(self, path: KeyPath) -> int:
        """The line of the key at ``path``, or of the nearest key above it; 1 if there is none."""
        return next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 1)

    def tell(self, path: KeyPath, text: str) -> str:
        """One line of text: the place, the key and the message. A spec without a file has no line number."""
        place = f"{self.name}:{self.line(path)}" if self.lines else self.name
        return f"{place}: {key_text(path)}: {text}" if path else f"{place}: {text}"

    def error(self, wrong: InvalidValue, more: int = 0) -> SpecError:
        """The error for a mistake. Its message also gives ``more``, the number of further mistakes."""
        rest = f" (and {more} more)" if more else ""
        return SpecError(self.tell(wrong.path, wrong.text) + rest)


def shown(value: Any) -> str:
    """A value as the user wrote it, on one line and shortened."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    try:
        return json.dumps(value)
    except TypeError:
        return type(value).__name__
