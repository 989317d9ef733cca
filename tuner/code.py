"""The user's own code: modules beside the spec can be imported, here and in the workers."""

import sys
from pathlib import Path


def import_from(spec: Path) -> Path:
    """Let ``module:callable`` in a spec name modules in the spec's folder; returns that folder."""
    return import_folder(spec.absolute().parent)


def import_folder(folder: Path) -> Path:
    """The same, given the folder."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return folder
