"""Packs a job for submission to a cluster: its id, and the files to send."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tuner.jobs.code_archive import CodeFiles, Imported, check_modules, code_files, pack
from tuner.jobs.request import beginning
from tuner.remote.receive import CODE, SPEC, START
from tuner.spec.messages import InvalidValue
from tuner.spec.search_spec import SearchSpec, fingerprint, load
from tuner.spec.user_code import code_folder, own_code

ID_DIGITS = 8


class PackedJob(NamedTuple):
    """A job ready for submission. The same spec, code and name give the same id.

    Attributes:
        job: its id.
        spec: the spec that was read.
        files: content by name; ``tuner work`` reads these files from its current folder.
        code: the user's own code among them; None if the spec names none.
    """

    job: str
    spec: SearchSpec
    files: dict[str, bytes]
    code: CodeFiles | None


TryCode = Callable[[SearchSpec, Path], Imported]
"""Imports the code in a folder that a spec names, where it can do no harm, and returns what was imported."""


def pack_job(
    spec: Path,
    data_path: str | None,
    try_code: TryCode,
    found: Callable[[CodeFiles], None] = lambda code: None,
) -> PackedJob:
    """Pack a spec, and the user's own code that it names.

    Args:
        spec: the spec file.
        data_path: folder of the data set on the nodes, instead of the spec's ``data.path``.
        try_code: called with the spec and the folder of the user's modules.
        found: called with the files of the user's own code, before they can be refused.

    Raises:
        SpecError: the spec is invalid or has a value that applies to this machine only, or a module that it needs does
            not travel.
        NotFound: there is no such file.
    """
    loaded = load(spec, data_path, here=False)
    place = code_folder(loaded, spec.parent)
    folder = own_code(loaded, place)
    imported = try_code(loaded, place)
    _check_portable(loaded)
    code = None if folder is None else code_files(folder)
    if code is not None:
        found(code)
        check_modules(code, imported)
    packed = None if code is None else pack(code)
    name, start = beginning(loaded, "", simulate=False)
    digest = hashlib.sha256(f"{fingerprint(loaded)} {loaded.data.path}".encode() + (packed or b"")).hexdigest()
    job = f"{name}-{digest[:ID_DIGITS]}"
    files = {
        SPEC: spec.read_text(encoding="utf-8-sig").encode(),
        START: json.dumps({"job": job, "ms": time.time_ns() // 1_000_000, **start}).encode(),
    }
    if packed is not None:
        files[CODE] = packed
    return PackedJob(job, loaded, files, code)


def _check_portable(spec: SearchSpec) -> None:
    """Refuse values that apply to this machine only."""
    if spec.data.path is not None and not os.path.isabs(spec.data.path):
        text = f"is {spec.data.path!r}; on a cluster it must be an absolute path that exists on all nodes"
        raise spec.origin.error(InvalidValue(text, "data", "path"))
    if spec.resources.auto:
        text = "auto measures the machine that it runs on; for a cluster, set the cpus and gpus of a trial"
        raise spec.origin.error(InvalidValue(text, "resources"))
    if spec.storage is not None and not spec.storage.startswith("postgresql"):
        text = (
            "must be Postgres on a cluster: an SQLite file is on one machine and cannot be locked over a network;"
            " remove this key to use the cluster's own database"
        )
        raise spec.origin.error(InvalidValue(text, "storage"))
