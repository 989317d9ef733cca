"""The tables of data sets and models, and the one way to turn a dotted path into an object.

To add a model, add a row; users' own code needs none: a name of the form ``module:attribute`` is imported.
"""

import importlib
from collections.abc import Mapping
from types import ModuleType

from trainables.errors import CodeError

DATASETS: Mapping[str, str] = {
    "digits": "trainables.data.digits",
    "cifar10": "trainables.data.cifar10",
    "parquet": "trainables.data.parquet",
    "image_folder": "trainables.data.image_folder",
}
"""Data set name -> the module that holds its ``read``, ``count`` and ``sources``."""

MODELS: Mapping[str, str] = {
    "elu_net": "trainables.models.elu_net:build",
}
"""Model name -> the function that builds it."""


def is_dotted(name: str) -> bool:
    """Whether ``name`` asks for an import (``module:attribute``) and not for a row of a table."""
    return ":" in name


def load_object(path: str) -> object:
    """Import what ``module:attribute`` names.

    Args:
        path: a module's dotted name, a colon, and one name in it; the attribute may be dotted too.

    Raises:
        CodeError: the form is wrong, the module or attribute does not exist, or the import raised.
    """
    module_name, _, attribute = path.partition(":")
    if not all(part.isidentifier() for name in (module_name, attribute) for part in name.split(".")):
        raise CodeError(f"{path!r} is not of the form 'package.module:name'")
    found: object = _import(module_name, path)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise CodeError(f"{path!r}: module {module_name!r} has no attribute {attribute!r}")
        found = getattr(found, name)
    return found


def _import(module_name: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that exists but imports a missing one is another mistake: name the one that is missing.
        raise CodeError(f"{path!r}: there is no module {error.name!r} to import") from error
    except Exception as error:
        message = " ".join(str(error).split())
        raise CodeError(f"{path!r}: importing it raised {type(error).__name__}: {message}") from error
