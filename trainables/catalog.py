"""The tables of data sets and models, and the import of an object by its dotted path.

To add a model, add a row. A user's own code needs no row: a name of the form ``module:attribute`` is imported.
"""

import importlib
from collections.abc import Mapping
from types import ModuleType

from trainables.errors import CodeError
from trainables.foreign_text import raised, user_place

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
    found: object = _import(module_name, path)
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise CodeError(f"{path!r}: module {module_name!r} has no attribute {attribute!r}") from None
        except Exception as error:  # a module's own ``__getattr__`` can raise anything
            raise CodeError(raised(f"{path!r}: reading it", error)) from error
    return found


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
