"""A job that leaves for a cluster: its id, and the files that it travels in."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from tuner.jobs.code_archive import pack
from tuner.jobs.request import beginning
from tuner.remote.receive import CODE, SPEC, START
from tuner.spec.checks import check_code
from tuner.spec.messages import InvalidValue
from tuner.spec.search_spec import SearchSpec, fingerprint, load
from tuner.spec.user_code import code_folder, names_code, own_code

ID_DIGITS = 8


class PackedJob(NamedTuple):
    """A job on its way; the same spec, code and name have the same id.

    Attributes:
        job: its id.
        spec: what was read.
        files: what ``tuner work`` finds in its current folder, by name.
    """

    job: str
    spec: SearchSpec
    files: dict[str, bytes]


def pack_job(spec: Path, data_path: str | None = None) -> PackedJob:
    """Pack a spec, and the user's own code that it names.

    Args:
        spec: the file.
        data_path: where the data lies on the nodes, instead of what the spec says.

    Raises:
        SpecError: what is wrong with the spec.
        NotFound: there is no such file.
    """
    loaded = load(spec, data_path, here=False)
    code = own_code(loaded, code_folder(loaded, spec.parent))
    check_code(loaded)
    _check_travels(loaded)
    packed = pack(code) if code is not None and names_code(loaded) else None
    name, start = beginning(loaded, "", simulate=False)
    digest = hashlib.sha256(f"{fingerprint(loaded)} {loaded.data.path}".encode() + (packed or b"")).hexdigest()
    job = f"{name}-{digest[:ID_DIGITS]}"
    files = {
        SPEC: spec.read_text(encoding="utf-8-sig").encode(),
        START: json.dumps({"job": job, "ms": time.time_ns() // 1_000_000, **start}).encode(),
    }
    if packed is not None:
        files[CODE] = packed
    return PackedJob(job, loaded, files)


def _check_travels(spec: SearchSpec) -> None:
    """Refuse what means something on this machine only."""
    if spec.data.path is not None and not os.path.isabs(spec.data.path):
        text = f"is {spec.data.path!r}; on a cluster it must be an absolute path that all nodes have"
        raise spec.origin.error(InvalidValue(text, "data", "path"))
    if spec.resources.auto:
        text = "auto measures the machine that it runs on; for a cluster, say how many cpus and gpus a trial gets"
        raise spec.origin.error(InvalidValue(text, "resources"))
    if spec.storage is not None and not spec.storage.startswith("postgresql"):
        text = (
            "must be Postgres on a cluster: an SQLite file lies on one machine, and cannot be locked over a network;"
            " leave it out to take the cluster's own"
        )
        raise spec.origin.error(InvalidValue(text, "storage"))
