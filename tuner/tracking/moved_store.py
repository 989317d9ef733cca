"""Lets the workspace's MLflow store follow the workspace when that is moved or copied.

MLflow keeps the places of artifacts as absolute URIs and has no call that changes them. With
the old URIs, MLflow would make the old folder again and write there. So they are changed in the store's file, before a
client opens it.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tuner.errors import ServiceError
from tuner.jobs.workspace import Workspace
from tuner.tracking import sync_state

PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow with a place of artifacts."""
PATIENCE_S = 10.0
"""How long to wait while another process writes to the store."""


def follow_move(workspace: Workspace) -> None:
    """Change the URIs of artifacts in the workspace's store, and in the jobs' notes, if the workspace was moved.

    Experiments whose artifacts are elsewhere, because somebody chose so, stay as they are.

    Raises:
        ServiceError: the store cannot be written, or is damaged.
    """
    if not workspace.tracking_store.exists():
        return
    here = workspace.artifacts.as_uri()
    try:
        with closing(sqlite3.connect(workspace.tracking_store, timeout=PATIENCE_S, isolation_level=None)) as store:
            moved = [root for root in _roots(store) if root != here and _was_moved(store, root, workspace)]
            for root in moved:
                # The notes go first: after a kill between the two, the next call does both again.
                _change_notes(workspace, _path(root).parent)
                _change(store, root, here)
    except (sqlite3.Error, OSError) as error:
        raise ServiceError(f"MLflow at {workspace.tracking_uri} cannot be written: {error}") from error


def _roots(store: sqlite3.Connection) -> list[str]:
    """The folders of artifacts of experiments that tuner made: MLflow's own end with the experiment's id."""
    if not store.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
        return []
    asked = "SELECT DISTINCT artifact_location FROM experiments WHERE artifact_location LIKE 'file:///%/artifacts'"
    return [root for (root,) in store.execute(asked)]


def _was_moved(store: sqlite3.Connection, root: str, workspace: Workspace) -> bool:
    """Whether ``root`` was the workspace's own folder of artifacts, and no artifact of its runs is only there.

    It was, if artifacts of its runs are in the workspace now, or if a job's note names the store beside ``root``. A
    folder that somebody chose, and that cannot be reached now, is neither.
    """
    here, there = workspace.artifacts, _path(root)
    if here.is_dir() and there.is_dir() and here.samefile(there):
        return False
    below = f"{root}/"
    asked = store.execute("SELECT artifact_uri FROM runs WHERE substr(artifact_uri, 1, ?) = ?", (len(below), below))
    runs = {uri.removeprefix(below).split("/")[0] for (uri,) in asked}
    found_here = runs & {*(os.listdir(here) if here.is_dir() else ())}
    if runs & {*(os.listdir(there) if there.is_dir() else ())} - found_here:
        return False
    before = Workspace(there.parent).tracking_uri
    return bool(found_here) or any(sync_state.load(job.tracked).tracker == before for job in workspace.folders())


def _change(store: sqlite3.Connection, root: str, here: str) -> None:
    tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master")}
    store.execute("BEGIN IMMEDIATE")
    for table, column in PLACES:
        if table in tables:
            store.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column} || '/', 1, ?) = ?",
                (here, len(root) + 1, len(root) + 1, f"{root}/"),
            )
    store.execute("COMMIT")


def _change_notes(workspace: Workspace, before: Path) -> None:
    """Let the notes of what was sent name the store by its present URL, so that nothing is sent again."""
    for folder in workspace.jobs():
        note = sync_state.load(folder.tracked)
        if note.tracker == Workspace(before).tracking_uri:
            note.tracker = workspace.tracking_uri
            sync_state.save(folder.tracked, note)


def _path(uri: str) -> Path:
    return Path(url2pathname(urlsplit(uri).path))
