"""The user's own code: its folder, and making its modules importable in this process and in the workers."""

import sys
from pathlib import Path

from trainables.catalog import is_dotted
from tuner.spec.messages import InvalidValue
from tuner.spec.search_spec import SearchSpec


def code_folder(spec: SearchSpec, spec_folder: Path) -> Path:
    """The folder of the user's own modules: the spec's ``code``, else the folder of the spec file.

    Args:
        spec: the spec.
        spec_folder: the folder of the spec file.

    Raises:
        SpecError: the folder does not exist.
    """
    folder = (spec_folder.absolute() / (spec.code or "")).resolve()
    if not folder.is_dir():
        raise spec.origin.error(InvalidValue(f"{folder}: no such folder", "code"))
    return folder


def own_code(spec: SearchSpec, folder: Path) -> Path | None:
    """Make ``folder`` importable if the spec names the user's own code.

    Returns:
        The folder, or None if the spec names no code.

    Raises:
        SpecError: the spec sets ``code`` but names no code.
    """
    if not names_code(spec):
        if spec.code is not None:
            text = "neither data nor model is your own code (module:callable); remove this key"
            raise spec.origin.error(InvalidValue(text, "code"))
        return None
    import_from(folder)
    return folder


def names_code(spec: SearchSpec) -> bool:
    """Whether the data set or the model of the spec is the user's own code."""
    return any(is_dotted(name) for name in (spec.model.name, spec.data.name))


def import_from(folder: Path) -> None:
    """Make the modules in ``folder`` importable, after all others, so that none hides an installed module."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
