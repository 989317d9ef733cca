"""Checks of a cluster for ``tuner doctor``: every connection that a job uses, tested as its driver or a trial uses it.

The first checks run on the user's machine. The others run on the head and, through Ray, on every node for trials.
"""

import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.jobs import JobsApi
from tuner.errors import TunerError
from tuner.jobs.job_folder import STORAGE_VARIABLE, open_database
from tuner.jobs.workspace import Workspace
from tuner.storage.shared_files import VARIABLE, check_writable, shared_root

SKEW_S = 1.0
ANSWER_S = 5.0
PROBE_S = 60.0
"""Time for every node to import torch and decode the data, in seconds."""


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Args:
        name: what was checked, often as "from → to".
        ok: whether the check passed.
        detail: the finding.
        fix: what to do if the check failed.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""


def checks_from_here(api: JobsApi) -> Iterator[Check]:
    """Check the cluster from the user's machine."""
    from importlib.metadata import version

    yield Check("here → dashboard", True, f"{api.address} accepts our token")
    closed = api.auth_is_on()
    fix = "start every Ray node with RAY_AUTH_MODE=token; without it, anyone can run code through the dashboard"
    yield Check("dashboard asks for a token", closed, "yes" if closed else "no, anyone can use it", fix)
    ours = version("ray")
    fix = "install the same version of Ray on this machine and on the cluster"
    yield Check("Ray here and there", api.ray_version == ours, f"{ours} and {api.ray_version}", fix)
    workers = [node for node in api.nodes() if node.alive and (node.cpus or node.gpus)]
    resources = ", ".join(f"{node.ip} {node.cpus:g} CPUs {node.gpus:g} GPUs" for node in workers)
    yield Check("nodes for trials", bool(workers), resources or "none has joined", "read the logs of the workers")


def checks_on_cluster(workspace: Workspace, data: str | None) -> Iterator[Check]:
    """Check the stores from the head and from every node. Runs in a job of the cluster.

    Args:
        workspace: the head's workspace.
        data: folder of a data set that every node should have, or None.
    """
    yield _run_check("head → database", _database, f"set {STORAGE_VARIABLE} and PGPASSFILE on the head")
    yield _run_check("head → shared files", _shared, f"set {VARIABLE} on every node to the same folder or bucket")
    yield from _tracker()
    from cluster.on_nodes import declared_gpus, on_every_node
    from cluster.runtime import connected_ray

    with connected_ray():
        root, uri = shared_root(), os.environ.get("MLFLOW_TRACKING_URI")
        declared = declared_gpus()
        answers = on_every_node(probe, root, uri, str(workspace.cache), data, timeout_s=PROBE_S)
        reference = probe(None, None, str(workspace.cache), None)
        for node, answer in sorted(answers.items()):
            if answer.value is None:
                yield Check(f"node {node}", False, answer.error or "no answer", "read the logs of this node")
            else:
                yield from _node_checks(node, answer.value, reference, declared.get(node, 0))


def probe(root: str | None, tracker: str | None, cache: str, data: str | None) -> dict[str, str]:
    """Test a node's connections as a trial uses them.

    Returns:
        Per test ``ok …`` or the error; also the node's versions, its GPUs and its clock.
    """
    from tuner.jobs.provenance import versions

    found = {"versions": ", ".join(f"{name} {number}" for name, number in versions().items())}
    found |= _gpus()
    if root is not None:
        found["checkpoint"] = _outcome(_checkpoint, root)
        found["data"] = _outcome(_data, cache, data)
    if tracker is not None and tracker.startswith("http"):
        found["tracker"] = _outcome(_health, tracker)
    return found | {"clock": repr(time.time())}


def _node_checks(node: str, found: Mapping[str, str], head: Mapping[str, str], gpus: int) -> Iterator[Check]:
    same = found["versions"] == head["versions"]
    differ = set(found["versions"].split(", ")) ^ set(head["versions"].split(", "))
    detail = "same as on the head" if same else "; ".join(sorted(differ))
    yield Check(f"node {node}: versions", same, detail, "run the same image on every node")
    # The head reads its clock after the nodes, up to PROBE_S later. Only a larger lag is an error.
    skew = float(head["clock"]) - float(found["clock"])
    fine = -SKEW_S < skew < PROBE_S
    detail = "agrees with the head" if fine else f"{-skew:+.0f} s"
    yield Check(f"node {node}: clock", fine, detail, "synchronize every node's clock with NTP")
    for target, fix in (
        ("checkpoint", f"mount the folder of {VARIABLE} on this node, writable for the user that Ray runs as"),
        ("data", "put the data set, or TUNER_CACHE, where this node can read it"),
        ("tracker", "let this node reach MLflow under the name that the head uses"),
    ):
        if target in found:
            ok = found[target].startswith("ok")
            yield Check(f"node {node} → {target}", ok, found[target].removeprefix("ok "), fix)
    present, usable = int(found["gpus"]), int(found["cuda"])
    detail = f"{gpus} declared to Ray, {present} present, {usable} usable by torch"
    fix = "install the driver for torch's CUDA, give the container its GPUs, or start Ray with a lower --num-gpus"
    yield Check(f"node {node}: GPUs", usable >= max(gpus, present), detail, fix)


def _run_check(name: str, call: Any, fix: str) -> Check:
    try:
        return Check(name, True, call(), fix)
    except TunerError as error:
        return Check(name, False, str(error), fix)


def _database() -> str:
    database = open_database(os.environ.get(STORAGE_VARIABLE))
    if database is None:
        raise TunerError(f"{STORAGE_VARIABLE} does not name a Postgres database")
    return f"{database.shown}, {len(database.jobs())} jobs"


def _shared() -> str:
    root = shared_root()
    if root is None:
        raise TunerError(f"{VARIABLE} is not set")
    check_writable(root)
    return root


def _tracker() -> Iterator[Check]:
    from tuner.tracking.server_check import check_tracker

    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        yield Check("head → MLflow", False, "MLFLOW_TRACKING_URI is not set", "set it on the head")
        return

    def answers() -> str:
        check_tracker(uri)
        return uri

    yield _run_check(
        "head → MLflow", answers, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD_FILE on the head"
    )
    if uri.startswith("http"):
        closed = _asks_for_password(uri)
        fix = "start the server with --app-name basic-auth"
        yield Check("MLflow asks for a password", closed, "yes" if closed else "no, anyone can use it", fix)


def _asks_for_password(uri: str) -> bool:
    import requests

    try:
        page = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/get?experiment_id=0"
        return requests.get(page, timeout=ANSWER_S).status_code in (401, 403)
    except requests.RequestException:
        return True


def _outcome(call: Any, *args: object) -> str:
    try:
        return f"ok {call(*args)}"
    except Exception as error:
        # Report every fault of a node instead of raising the first one.
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__


def _checkpoint(root: str) -> str:
    import torch

    from trainables.file_store import files_at
    from trainables.file_store import inside as below
    from trainables.training.checkpoints import newest, save

    folder = below(root, "doctor", f"{platform.node()}-{os.getpid()}")
    try:
        save(folder, {"weight": torch.ones(3)}, epoch=1, attempt=1)
        if not list(newest(folder, [(1, 1)])):
            raise OSError(f"{folder}: a file that was just written cannot be read")
    finally:
        files_at(folder).clear()
    return root


def _data(cache: str, path: str | None) -> str:
    from trainables.data.cache import load
    from trainables.data.request import DataRequest
    from trainables.training.ray_trainable import CACHE

    splits = load(DataRequest("digits"), Path(os.environ.get(CACHE) or cache))
    files = "" if path is None else f", {len(os.listdir(path))} files in {path}"
    return f"{len(splits.train)} images of digits decoded{files}"


def _health(tracker: str) -> str:
    import requests

    answer = requests.get(f"{tracker.rstrip('/')}/health", timeout=ANSWER_S)
    answer.raise_for_status()
    return tracker


def _gpus() -> dict[str, str]:
    import torch

    # Ray hides all GPUs from a task that requests none.
    hidden = os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        usable = torch.cuda.device_count()
    finally:
        if hidden is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = hidden
    present = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return {"gpus": str(max(present, usable)), "cuda": str(usable)}
