"""Runs ``tuner`` or a peer as a program of its own, from start to finish, in a place whose files are kept for the next.

What both leave there once (decoded images, MLflow's tables) the first run makes, which is not counted.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.task import Done, Task, done_by
from tests.tuner.whole_jobs import Place

HOURS_S = 4 * 3600.0


def run_tuner(where: Place) -> Done:
    """``tuner run`` of the place's spec.

    Raises:
        RuntimeError: it failed.
    """
    ended = where.ended(where.start("run", "spec.yaml", "-q"), patience_s=HOURS_S)
    if ended.code:
        raise RuntimeError(ended.err)
    return done_by(where.home)


def installed(where: Place, requirements: Sequence[str]) -> Path:
    """A folder with these packages alone, beside which the others of this environment are used."""
    folder = where.root / "packages"
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*pip, *requirements], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder


def run_peer(where: Place, name: str, task: Task, packages: Path | None = None) -> Done:
    """``benchmarks.peers.NAME`` on a task, with a folder of packages that only it sees.

    Raises:
        RuntimeError: it failed, or trained less or more than the task.
    """
    folder = where.root / name
    folder.mkdir(exist_ok=True)
    task.write(folder / "task.json")
    # Ray's sockets lie in it, and a socket's path is short.
    env = where.env() | {"RAY_TMPDIR": str(where.scratch), "RAY_USAGE_STATS_ENABLED": "0"}
    if packages is not None:
        env["PYTHONPATH"] += os.pathsep + str(packages)
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        code = subprocess.run(
            [sys.executable, "-m", f"benchmarks.peers.{name}", str(folder / "task.json"), str(folder)],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            timeout=HOURS_S,
            check=False,
        ).returncode
    if code:
        raise RuntimeError(f"{name} ended with {code}:\n{_tail(folder / 'err')}")
    done = Done.told((folder / "out").read_text())
    asked = (len(task.trials), sum(trial.epochs for trial in task.trials))
    if (done.trials, done.epochs) != asked:
        raise RuntimeError(f"{name} trained {done.trials} trials, {done.epochs} epochs, and not {asked}")
    return done


def _tail(file: Path) -> str:
    return "\n".join(file.read_text().splitlines()[-20:])
