"""Where in the spec a mistake stands, and how it is told: ``FILE:LINE: KEY.PATH: what is wrong``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuner.errors import SpecError
from tuner.spec.strict_yaml import Document, KeyPath, key_text


class InvalidValue(ValueError):
    """A value that does not fit; ``path`` leads from the value being checked to the one that is wrong."""

    def __init__(self, text: str, *path: str | int) -> None:
        super().__init__(text)
        self.text = text
        self.path = path

    def under(self, *path: str | int) -> "InvalidValue":
        """The same mistake, seen from further up."""
        return InvalidValue(self.text, *path, *self.path)


@dataclass(frozen=True)
class Origin:
    """The file a spec came from. Nothing here is compared: equal specs from two files are equal."""

    name: str = field(default="spec", compare=False)
    lines: Mapping[KeyPath, int] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, document: Document) -> "Origin":
        """The origin of what this document holds."""
        return cls(document.name, document.lines)

    def line(self, path: KeyPath) -> int:
        """The line of the nearest key above or at ``path``; 1 for the top."""
        return next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 1)

    def tell(self, path: KeyPath, text: str) -> str:
        """One line: the place, the key, the text; without a line number where there is no file."""
        place = f"{self.name}:{self.line(path)}" if self.lines else self.name
        return f"{place}: {key_text(path)}: {text}" if path else f"{place}: {text}"

    def error(self, wrong: InvalidValue, more: int = 0) -> SpecError:
        """The error to raise for a mistake, with how many others there are."""
        rest = f" (and {more} more)" if more else ""
        return SpecError(self.tell(wrong.path, wrong.text) + rest)


def shown(value: Any) -> str:
    """A value as a person wrote it, on one line and cut short."""
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
