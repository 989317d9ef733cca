"""The origin of a result: versions, machine and source revision."""

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("tuner", "torch", "torchvision", "ray", "mlflow", "optuna", "numpy")


def versions() -> Mapping[str, str]:
    """Versions of Python and of the packages that can change a result."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def machine() -> Mapping[str, str]:
    """Facts about this machine, in words."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": str(len(os.sched_getaffinity(0))),
        "memory_gb": str(round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)),
    }


def git_commit(folder: Path) -> str:
    """The commit that ``folder`` is at, with ``-dirty`` if files differ from it; ``none`` outside a repository."""
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "none"
    return found.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
