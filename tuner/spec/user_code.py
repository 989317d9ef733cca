"""The user's own code: its folder, and making its modules importable in this process and in the workers."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from trainables.catalog import is_dotted
from trainables.foreign_text import is_users
from tuner.spec.messages import InvalidValue
from tuner.spec.search_spec import SearchSpec
from tuner.spec.strict_yaml import KeyPath


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
            text = "neither data, model nor an arm is your own code (module:callable); remove this key"
            raise spec.origin.error(InvalidValue(text, "code"))
        return None
    import_from(folder)
    return folder


def names_code(spec: SearchSpec) -> bool:
    """Whether the spec names the user's own code: its data set or model, or code of an arm that no package has."""
    return any(place[0] != "arms" or not _is_installed(path) for place, path in dotted_paths(spec))


def dotted_paths(spec: SearchSpec) -> Iterator[tuple[KeyPath, str]]:
    """Every dotted path in a spec, with its place: the data set's, the model's, and those of ``arm_code``."""
    for section, name in (("data", spec.data.name), ("model", spec.model.name)):
        if is_dotted(name):
            yield (section, "name"), name
    yield from arm_code(spec)


def arm_code(spec: SearchSpec) -> Iterator[tuple[KeyPath, str]]:
    """The dotted paths in the arms of a spec, with their places: optimizers, trainables, groups and schedules."""
    for index, arm in enumerate(spec.arms):
        for key in ("optimizer", "trainable", "groups"):
            if (path := getattr(arm, key)) is not None:
                yield ("arms", index, key), path
        if arm.kind == "trainable":
            continue
        schedules = arm.parameters["schedule"].values or () if "schedule" in arm.parameters else ()
        for place, value in (("fixed", arm.fixed.get("schedule")), *(("parameters", value) for value in schedules)):
            if isinstance(value, str) and is_dotted(value):
                yield ("arms", index, place, "schedule"), value


def _is_installed(path: str) -> bool:
    """Whether the module of a dotted path belongs to an installed package; false if it is not found at all."""
    package = path.partition(":")[0].partition(".")[0]
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    return found is not None and not is_users(found.origin or next(iter(found.submodule_search_locations or ()), ""))


def import_from(folder: Path) -> None:
    """Make the modules in ``folder`` importable, after all others, so that none hides an installed module."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
