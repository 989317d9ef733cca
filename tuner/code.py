"""The user's own code: modules beside the spec can be imported, here and in the workers."""

import sys
from pathlib import Path

from trainables.catalog import is_dotted
from tuner.spec import SearchSpec


def own_code(spec: SearchSpec, folder: Path) -> Path | None:
    """``folder``, made importable, if the spec names code by dotted path; else None."""
    if not any(is_dotted(name) for name in (spec.model.name, spec.data.name)):
        return None
    import_from(folder)
    return folder


def import_from(folder: Path) -> None:
    """Let modules in ``folder`` be imported, after all others: none of them shadows an installed one."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
