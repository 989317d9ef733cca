"""Prints the requirements in ``pyproject.toml``, one per line: python requirements.py PYPROJECT [EXTRA ...].

The image and the bundle install the requirements separately, because our own code changes far more often.
"""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """The dependencies of the project, with those of ``extras``.

    Raises:
        KeyError: an extra does not exist.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    found: list[str] = list(project["dependencies"])
    for extra in extras:
        found += project["optional-dependencies"][extra]
    return found


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2:])))
