"""``docker-compose.yml`` for its tests."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
TEXT = FILE.read_text()

Service = Mapping[str, Any]

STACK: Mapping[str, Any] = YAML(typ="safe", pure=True).load(TEXT)
SERVICES: Mapping[str, Service] = STACK["services"]

PUBLISHED = {"head": 8265, "mlflow": 5000}
ONE_SHOT = {"cli", "s3-bucket"}
RAY = {"head", "worker", "gpu-worker", "keeper", "cli"}
RAY_NODES = {"head", "worker", "gpu-worker"}
HOLD_STORES = {"head", "keeper", "cli"}


def environment(service: Service) -> Mapping[str, str | None]:
    """The environment of a service. The value None means: from ``.env``, if it is set there."""
    found: Mapping[str, str | None] = service.get("environment", {})
    return found


def texts(value: Any) -> Iterator[str]:
    """Every string in a part of the file."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def variables() -> set[str]:
    """The variables that the file reads from ``.env``."""
    taken = set(re.findall(r"(?<!\$)\$\{(\w+)", TEXT))
    return taken | {name for each in SERVICES.values() for name, value in environment(each).items() if value is None}
