"""The tables of data sets and models, the import of an object by its dotted path, and the files that it opens.

To add a model, add a row. A user's own code needs no row: a name of the form ``module:attribute`` is imported.
"""

import importlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import FrameType, ModuleType

from trainables.errors import CodeError
from trainables.foreign_text import is_users, raised, user_place

DATASETS: Mapping[str, str] = {
    "digits": "trainables.data.digits",
    "cifar10": "trainables.data.cifar10",
    "parquet": "trainables.data.parquet",
    "image_folder": "trainables.data.image_folder",
}
"""Data set name -> the module with its functions ``read``, ``survey`` and ``sources``."""

MODELS: Mapping[str, str] = {
    "elu_net": "trainables.models.elu_net:build",
}
"""Model name -> the dotted path of the function that builds it."""


def is_dotted(name: str) -> bool:
    """Whether ``name`` is a dotted path (``module:attribute``) and not the name of a table row."""
    return ":" in name


def load_object(path: str) -> object:
    """Import the object at ``module:attribute``.

    Args:
        path: the dotted name of a module, a colon, and the name of an attribute in it, which may be dotted too.

    Raises:
        CodeError: the form is wrong, the module or attribute does not exist, or the import raised an exception.
    """
    module_name, _, attribute = path.partition(":")
    if not all(part.isidentifier() for name in (module_name, attribute) for part in name.split(".")):
        raise CodeError(f"{path!r} is not of the form 'package.module:name'")
    with recorded(module_name) as opened:
        found: object = _import(module_name, path)
    _at_import.update(opened)
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise CodeError(f"{path!r}: module {module_name!r} has no attribute {attribute!r}") from None
        except Exception as error:  # a module's own ``__getattr__`` can raise anything
            raise CodeError(raised(f"{path!r}: reading it", error)) from error
    return found


@contextmanager
def recorded(module: str) -> Iterator[set[str]]:
    """Record the files that Python opens for reading meanwhile, in this thread and in those that it starts.

    Files that the import of an installed package opens are left out, such as a library's own cache.

    Args:
        module: the user's module that is imported or called.

    Yields:
        The names of all files that were opened under the name of this module since the process began. A file that the
        module keeps in memory is opened only once, so no name is forgotten. Files that were opened while modules were
        imported before this one count too, because it may use these modules.
    """
    _hook()
    names = _opened.setdefault(module, set(_at_import))
    strangers = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
    recorder = _Recorder(module.partition(".")[0], names, strangers)
    _recorders.append(recorder)
    try:
        yield names
    finally:
        _recorders.remove(recorder)


@dataclass(frozen=True, eq=False)
class _Recorder:
    package: str
    names: set[str]
    strangers: set[int | None]
    """Threads that do something else."""


_recorders: list[_Recorder] = []
_opened: dict[str, set[str]] = {}
"""Module -> the files that were opened while it was imported or called."""
_at_import: set[str] = set()
"""The files that were opened while any module of the user's was imported."""
_is_users = cache(is_users)


@cache
def _hook() -> None:
    def note(event: str, args: tuple[object, ...]) -> None:
        if _recorders and event == "open":
            name, _mode, flags = args
            reads = not isinstance(flags, int) or flags & os.O_ACCMODE != os.O_WRONLY
            if reads and isinstance(name, str | bytes | os.PathLike):
                for recorder in tuple(_recorders):
                    if threading.get_ident() not in recorder.strangers and not _is_of_an_import(recorder.package):
                        recorder.names.add(os.path.abspath(os.fsdecode(name)))

    # Python cannot remove an audit hook. While nothing is recorded, it costs one look at an empty list.
    sys.addaudithook(note)


def _is_of_an_import(package: str) -> bool:
    """Whether the current call is part of an import, and no module of the user's makes it by itself."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith("<frozen importlib"):
            return True
        if _is_users(file) or str(frame.f_globals.get("__name__")).partition(".")[0] == package:
            return False
        frame = frame.f_back
    return False


def _import(module_name: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # The module may exist and import a missing one: the message names the missing module.
        place = user_place(error)
        text = f"{path!r}: there is no module {error.name!r} to import"
        raise CodeError(text + (place and f" ({place})")) from error
    except (Exception, SystemExit) as error:
        raise CodeError(raised(f"{path!r}: importing it", error)) from error
