"""A job as Kubernetes manifests: checks the size of its files and renders ``kubernetes.yaml.j2``."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from cluster.errors import ClusterError

DATA = "/data"
"""Where the template mounts the volume with the data set."""
MAX_BYTES = 1_000_000
"""Largest size of the files of a job, a little below the limit of a ConfigMap."""
_BLOCK = re.compile(r"\S(.*\S)?\n", re.DOTALL)
"""Text without spaces or empty lines at its start and end, which would need extra marks in a YAML block."""


@dataclass(frozen=True)
class Workers:
    """The number of worker pods, and the resources of each."""

    count: int
    cpus: int
    memory_gb: float
    gpus: int = 0

    @property
    def resources(self) -> dict[str, str | int]:
        """The requests of a worker pod, which are also its limits."""
        amounts: dict[str, str | int] = {"cpu": str(self.cpus), "memory": f"{round(self.memory_gb * 1024)}Mi"}
        return amounts | ({"nvidia.com/gpu": self.gpus} if self.gpus else {})


@dataclass(frozen=True)
class Stores:
    """Where the results go, and the names of the Secrets that give access.

    ``secret`` has the keys ``pgpass`` (a libpq password file) and ``mlflow_password``; only the head reads it.
    ``shared`` is the name of the claim for a volume that all nodes mount, or an ``s3://`` URL. If the nodes have no
    role with access to that URL, ``shared_secret`` holds ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``.
    ``data_claim`` is the name of the claim for a volume with the data set.
    """

    storage: str
    tracking: str
    tracking_user: str
    secret: str
    shared: str
    shared_secret: str | None = None
    data_claim: str | None = None

    @property
    def shared_is_url(self) -> bool:
        """Whether the nodes share a bucket, not a volume."""
        return "://" in self.shared


@dataclass(frozen=True)
class Job:
    """What runs: a valid Kubernetes name, the files in the working folder of the command, the image, the command.

    Ray splits ``entrypoint`` into words; no shell reads it.
    """

    name: str
    namespace: str
    files: Mapping[str, bytes]
    image: str
    ray_version: str
    entrypoint: str
    retries: int


def manifests(job: Job, workers: Workers, stores: Stores) -> str:
    """The ConfigMap and the RayJob of a job, as two YAML documents.

    Kubernetes reads YAML 1.1; a reader of YAML 1.2 finds the same values.

    Raises:
        ClusterError: the files of the job are too large for a ConfigMap.
    """
    size = sum(len(content) for content in job.files.values()) * 4 // 3
    if size > MAX_BYTES:
        raise ClusterError(
            f"the files of the job take {size:,} bytes and a ConfigMap holds {MAX_BYTES:,}; put the code into the image"
        )
    texts, binaries = {}, {}
    for name, content in job.files.items():
        try:
            texts[name] = content.decode()
        except UnicodeDecodeError:
            binaries[name] = base64.b64encode(content).decode()
    template = (files("cluster.deploy") / "kubernetes.yaml.j2").read_text(encoding="utf-8")
    values = {"job": job, "workers": workers, "stores": stores, "texts": texts, "binaries": binaries}
    return _environment().from_string(template).render(values)


def dns_name(name: str) -> str:
    """A valid RayJob name made from ``name``: lower case, digits and dashes, 47 characters at most."""
    dashed = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return dashed[:47].strip("-") or "search"


def _environment() -> Environment:
    environment = Environment(
        undefined=StrictUndefined, finalize=_quoted, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["block"] = _block
    return environment


class _Yaml(str):
    """Text that is YAML already."""


def _quoted(value: Any) -> str:
    """A value as JSON, which a YAML parser reads back as the same value. Jinja calls this for every ``{{ value }}``.

    JSON writes a character such as an emoji as two escapes, and YAML would read them as two characters. So printable
    characters stay as they are, and each other character becomes one YAML escape.
    """
    if isinstance(value, _Yaml):
        return value
    text = json.dumps(value, ensure_ascii=False)
    return "".join(character if character.isprintable() else f"\\U{ord(character):08x}" for character in text)


def _block(text: str, indent: int) -> _Yaml:
    """A text of several lines as a YAML block, which is easy to read. Text that a block might change becomes JSON."""
    lines = text.split("\n")
    fits = _BLOCK.fullmatch(text) and all(line.isprintable() and not line.endswith(" ") for line in lines)
    if not fits:
        return _Yaml(_quoted(text))
    return _Yaml("|" + "".join(f"\n{' ' * indent}{line}" if line else "\n" for line in lines[:-1]))
