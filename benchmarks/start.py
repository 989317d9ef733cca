"""Commands that must answer at once. They import none of torch, ray, mlflow and optuna."""

import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.measuring import Figure, Goal, Result, seconds

SPEC = Path(__file__).parents[1] / "searches" / "quickstart.yaml"
COMMANDS = (
    ("tuner --help", ("--help",), Goal(0.2, "most")),
    ("tuner validate", ("validate", str(SPEC)), Goal(0.5, "most")),
)


def measure(pairs: int) -> Result:
    """Time each command in its own process, in turn."""
    took: dict[str, list[float]] = {title: [] for title, _, _ in COMMANDS}
    for counted in (False, *[True] * pairs):
        for title, args, _ in COMMANDS:
            took_s = seconds(partial(subprocess.run, _command(*args), check=True, capture_output=True))
            if counted:
                took[title].append(took_s)
    figures = tuple(Figure(title, "s", tuple(took[title]), goal) for title, _, goal in COMMANDS)
    return Result("Wall time of the whole process. `tuner validate` reads searches/quickstart.yaml.", figures=figures)


def _command(*args: str) -> list[str]:
    return [sys.executable, "-m", "tuner.cli", *args]
