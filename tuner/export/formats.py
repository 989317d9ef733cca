"""The text formats of an export: YAML, JSON and Python."""

import json
import pprint
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tuner.spec.strict_yaml import scalar

_PLAIN = re.compile(r"[A-Za-z_][\w./+-]*( [\w./+-]+)*", re.ASCII)


def _yaml(values: Mapping[str, Any]) -> str:
    return "".join(f"{line}\n" for line in _block(values))


def _block(values: Mapping[str, Any]) -> Iterator[str]:
    """Lines of block YAML. Written here, so that a new version of a library cannot change an export's bytes."""
    for key, value in values.items():
        if value and isinstance(value, dict):
            yield f"{_scalar(key)}:"
            yield from (f"  {line}" for line in _block(value))
        elif value and isinstance(value, list) and all(item and isinstance(item, dict) for item in value):
            yield f"{_scalar(key)}:"
            for item in value:
                yield from (f"{'  ' if n else '- '}{line}" for n, line in enumerate(_block(item)))
        else:
            yield f"{_scalar(key)}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    """A value on one line: plain words unquoted, all other values as JSON, which is YAML too."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and scalar(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _json(values: Mapping[str, Any]) -> str:
    # The YAML reader reads this too, and YAML has no escapes for half a surrogate pair.
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _python(values: Mapping[str, Any]) -> str:
    body = pprint.pformat(dict(values), width=100, sort_dicts=False)
    kind, module = ("TrialConfig", "config") if values.get("metric") is None else ("OwnTrial", "own.trial")
    return (
        f'"""Settings of arm {values["arm"]}, job {values["job"]}."""\n\n'
        f"from trainables.{module} import {kind}\n\n"
        f"EXPORT = {body}\n\n"
        f'TRIAL = {kind}.from_dict(EXPORT["trial"])\n'
    )


RENDERERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    ".yaml": _yaml,
    ".yml": _yaml,
    ".json": _json,
    ".py": _python,
}
"""Text formats by suffix."""
