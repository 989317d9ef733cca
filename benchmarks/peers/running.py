"""Runs ``tuner`` or a peer as its own program, from start to end. The next run finds the files of this one.

Both need some files that are created only once (decoded images, MLflow's tables). The first run creates them and is not
counted.
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
    """Run ``tuner run`` with the spec of the place.

    Raises:
        RuntimeError: the command failed.
    """
    ended = where.ended(where.start("run", "spec.yaml", "-q"), patience_s=HOURS_S)
    if ended.code:
        raise RuntimeError(ended.err)
    return done_by(where.home)


def installed(where: Place, requirements: Sequence[str]) -> Path:
    """Install these packages into their own folder, and return it. Other packages come from this environment."""
    folder = where.root / "packages"
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*pip, *requirements], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder


def run_peer(where: Place, name: str, task: Task, packages: Path | None = None) -> Done:
    """Run ``benchmarks.peers.NAME`` on a task.

    Args:
        where: the place whose folder and environment the peer uses.
        name: module of the peer.
        task: the trials to train.
        packages: a folder of packages for this peer only.

    Raises:
        RuntimeError: the peer failed, or did not train exactly the task.
    """
    folder = where.root / name
    folder.mkdir(exist_ok=True)
    task.write(folder / "task.json")
    # Ray puts its sockets into this folder, and the path of a socket must be short.
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
        raise RuntimeError(f"{name} ended with exit code {code}:\n{_tail(folder / 'err')}")
    done = Done.told((folder / "out").read_text())
    asked = (len(task.trials), sum(trial.epochs for trial in task.trials))
    if (done.trials, done.epochs) != asked:
        raise RuntimeError(f"{name} trained {done.trials} trials, {done.epochs} epochs, instead of {asked}")
    return done


def _tail(file: Path) -> str:
    return "\n".join(file.read_text().splitlines()[-20:])
