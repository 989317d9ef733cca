"""The user's own code: modules that can be imported, here and in the workers."""

import sys
from pathlib import Path

from trainables.catalog import is_dotted
from tuner.spec.messages import InvalidValue
from tuner.spec.search_spec import SearchSpec


def code_folder(spec: SearchSpec, spec_folder: Path) -> Path:
    """Where the user's own modules are: the spec's ``code``, else the folder that the spec lies in.

    Raises:
        SpecError: there is no such folder.
    """
    folder = (spec_folder.absolute() / (spec.code or "")).resolve()
    if not folder.is_dir():
        raise spec.origin.error(InvalidValue(f"{folder}: no such folder", "code"))
    return folder


def own_code(spec: SearchSpec, folder: Path) -> Path | None:
    """``folder``, made importable, if the spec names code by dotted path; else None.

    Raises:
        SpecError: the spec names a folder, and no code in it.
    """
    if not names_code(spec):
        if spec.code is not None:
            text = "neither data nor model name code of your own (module:callable); leave it out"
            raise spec.origin.error(InvalidValue(text, "code"))
        return None
    import_from(folder)
    return folder


def names_code(spec: SearchSpec) -> bool:
    """Whether the spec names the user's own data or model."""
    return any(is_dotted(name) for name in (spec.model.name, spec.data.name))


def import_from(folder: Path) -> None:
    """Let modules in ``folder`` be imported, after all others: none of them shadows an installed one."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
