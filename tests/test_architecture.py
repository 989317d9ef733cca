"""Which package may know which, where outside systems may be imported, and what the command line does not load."""

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("trainables", "cluster", "tuner")
FLOORS: Sequence[tuple[str, ...]] = (
    ("errors",),
    ("spec", "storage"),
    ("jobs",),
    ("search", "tracking"),
    ("verdict", "execution", "remote"),
    ("export", "monitor"),
    ("report",),
    ("driver",),
    ("control",),
    ("api",),
    ("cli",),
    ("__main__",),
)
"""Packages of ``tuner`` from the ground up. Packages on one floor do not know each other."""
MOST_IMPORTS = 20
"""Most of our own modules that one module imports."""
MOST_FILES = 12
"""Most modules in one folder, beside ``__init__``."""
TOO_ALIKE = 0.83
"""Likeness of two file names from which a reader mixes them up; ``study`` and ``studies`` have 0.83."""
HEAVY = ("torch", "ray", "mlflow", "optuna", "plotly", "pandas")


class Import(NamedTuple):
    """One imported module: by which module, and whether importing that module is enough to import it."""

    by: str
    name: str
    at_import: bool


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def names(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """What is imported; ``from package import module`` is the module, as far as it is one of ours."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    assert node.level == 0, "imports are absolute"
    assert node.module is not None
    for alias in node.names:
        submodule = f"{node.module}.{alias.name}"
        yield submodule if submodule in FILES else node.module


def imports(by: str, node: ast.AST, at_import: bool = True) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield from (Import(by, name, at_import) for name in names(child))
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(child)
        yield from imports(by, child, at_import and not later)


IMPORTS = [found for module, file in FILES.items() for found in imports(module, ast.parse(file.read_text()))]


def package_of(module: str) -> str:
    """The package of ``tuner`` that a module belongs to; the module itself where it is none's."""
    return module.split(".")[1] if module.count(".") else module


def floor_of(module: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if package_of(module) in floor)


def importers(package: str) -> set[str]:
    return {found.by for found in IMPORTS if found.name.split(".")[0] == package}


def test_the_imports_were_read() -> None:
    assert len(FILES) > 100
    assert Import("tuner.search.study", "optuna", True) in IMPORTS
    assert Import("cluster.runtime", "ray", False) in IMPORTS
    assert Import("tuner.cli", "tuner.cli.jobs", True) in IMPORTS
    assert Import("tuner.tracking.background_sync", "tuner.tracking.writer", False) in IMPORTS


def test_every_package_stands_on_one_floor() -> None:
    packages = {package_of(module) for module in FILES if module.startswith("tuner.")}
    assert packages == {package for floor in FLOORS for package in floor}


def test_a_package_imports_from_lower_floors_only() -> None:
    """Imports inside functions and imports for types count too."""
    up = [
        found
        for found in IMPORTS
        if found.by.startswith("tuner.")
        and found.name in FILES
        and found.name.startswith("tuner.")
        and package_of(found.by) != package_of(found.name)
        and floor_of(found.name) >= floor_of(found.by)
    ]
    assert up == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions and imports for types count too."""
    arrows: Mapping[str, set[str]] = {
        module: {found.name for found in IMPORTS if found.by == module and found.name in FILES} for module in FILES
    }
    while free := {module for module, needs in arrows.items() if not needs}:
        arrows = {module: needs - free for module, needs in arrows.items() if module not in free}
    assert arrows == {}


def test_no_module_imports_more_than_a_reader_can_keep_in_mind() -> None:
    fan_out = {
        module: len({found.name for found in IMPORTS if found.by == module and found.name in FILES}) for module in FILES
    }
    assert {module: count for module, count in fan_out.items() if count > MOST_IMPORTS} == {}


@pytest.mark.parametrize(("leaf", "other"), [("trainables", "cluster"), ("cluster", "trainables")])
def test_the_leaves_know_neither_each_other_nor_the_top(leaf: str, other: str) -> None:
    known = {found.name.split(".")[0] for found in IMPORTS if found.by.split(".")[0] == leaf}
    assert not known & {other, "tuner", "tests"}


def test_a_study_uses_the_training_library_and_nothing_uses_a_study() -> None:
    studies = [
        found
        for file in sorted((ROOT / "studies").rglob("*.py"))
        for found in imports(module_name(file), ast.parse(file.read_text()))
    ]
    assert Import("studies.article.backward", "trainables.models.elu_net", True) in studies
    assert not {found.name.split(".")[0] for found in studies} & {"cluster", "tuner", "tests", "benchmarks"}
    assert not importers("studies")


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("optuna", {"tuner.search"}),
        ("optuna_dashboard", {"tuner.monitor"}),
        ("mlflow", {"tuner.tracking"}),
        ("plotly", {"tuner.report"}),
        (
            "ray",
            {"tuner.execution", "trainables.training.ray_trainable", "trainables.own.user_trainable", "cluster"},
        ),
        ("click", {"tuner.cli", "tuner.monitor"}),
    ],
)
def test_an_outside_library_is_imported_by_its_owners_only(library: str, owners: set[str]) -> None:
    strangers = {
        by for by in importers(library) if not any(by == owner or by.startswith(f"{owner}.") for owner in owners)
    }
    assert strangers == set()


def test_a_folder_holds_as_many_files_as_one_takes_in_at_a_glance() -> None:
    files: Counter[str] = Counter(
        str(file.parent.relative_to(ROOT)) for file in FILES.values() if file.stem != "__init__"
    )
    assert {folder: count for folder, count in files.items() if count > MOST_FILES} == {}


def test_the_init_file_of_a_package_is_one_docstring() -> None:
    for module, file in FILES.items():
        if file.stem == "__init__" and module not in ("tuner", "tuner.cli"):
            body = ast.parse(file.read_text()).body
            assert len(body) == 1, module
            assert ast.get_docstring(ast.parse(file.read_text())), module


def test_no_two_files_in_a_folder_differ_by_a_letter_or_less() -> None:
    for one, other in combinations(sorted(FILES.values()), 2):
        if one.parent == other.parent:
            assert SequenceMatcher(None, one.stem, other.stem).ratio() < TOO_ALIKE, (one, other)


def test_package_files_are_small() -> None:
    assert all(
        len(FILES[module].read_text().splitlines()) < 100 for module in FILES if FILES[module].stem == "__init__"
    )


def loaded_by(code: str, cwd: Path) -> list[str]:
    """Which heavy libraries are there after running ``code`` in a fresh interpreter."""
    script = f"import sys\n{code}\nprint('LOADED', *(name for name in {HEAVY} if name in sys.modules))"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.splitlines()[-1].split()[1:]


def command(*args: str) -> str:
    return f"from tuner.cli import cli\ncli.main({list(args)!r}, standalone_mode=False)"


def test_the_check_for_heavy_libraries_sees_one(tmp_path: Path) -> None:
    assert loaded_by("import optuna", tmp_path) == ["optuna"]


@pytest.mark.parametrize(
    "code",
    [
        "import tuner.cli",
        command("validate", str(ROOT / "searches" / "quickstart.yaml")),
        command("plan", "--no-measure", str(ROOT / "searches" / "quickstart.yaml")),
        command("schedule", "noam"),
        command("schema"),
        command("init", "search.yaml"),
        command("list", "--home", "none"),
        "import tuner",
        "import tuner.report.publish",
        "import tuner.api",
        "import tuner; tuner.run; tuner.open; tuner.connect; tuner.Spec; tuner.Job; tuner.load_config",
    ],
    ids=["import", "validate", "plan", "schedule", "schema", "init", "list", "tuner", "publish", "api", "names"],
)
def test_light_commands_load_nothing_heavy(code: str, tmp_path: Path) -> None:
    assert loaded_by(code, tmp_path) == []
