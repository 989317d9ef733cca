"""Which package may know which, where outside systems may be imported, and what the command line does not load."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("trainables", "cluster", "tuner")
HEAVY = ("torch", "ray", "mlflow", "optuna", "plotly")


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


def importers(package: str) -> set[str]:
    return {found.by for found in IMPORTS if found.name.split(".")[0] == package}


def test_the_imports_were_read() -> None:
    assert len(FILES) > 40
    assert Import("tuner.study", "optuna", True) in IMPORTS
    assert Import("cluster.runtime", "ray", False) in IMPORTS
    assert Import("tuner.cli", "tuner.cli.jobs", True) in IMPORTS
    assert Import("tuner.sender", "tuner.tracking", False) in IMPORTS


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
        ("optuna", {"tuner.study", "tuner.studies"}),
        ("optuna_dashboard", {"tuner.dashboard"}),
        ("mlflow", {"tuner.tracking"}),
        (
            "plotly",
            {f"tuner.report.{module}" for module in ("budgets", "curves", "drawing", "html", "searching", "verdicts")},
        ),
        (
            "ray",
            {
                "trainables.trainable",
                "tuner.execution",
                "tuner.workers",
                "cluster.runtime",
                "cluster.on_nodes",
                "cluster.jobs",
            },
        ),
        ("click", {module for module in FILES if module.startswith("tuner.cli")} | {"tuner.dashboard", "tuner.server"}),
    ],
)
def test_an_outside_library_is_imported_by_its_owners_only(library: str, owners: set[str]) -> None:
    assert importers(library) <= owners


def test_no_modules_import_each_other_in_a_circle() -> None:
    arrows: Mapping[str, set[str]] = {
        module: {found.name for found in IMPORTS if found.by == module and found.at_import and found.name in FILES}
        for module in FILES
    }
    while free := {module for module, needs in arrows.items() if not needs}:
        arrows = {module: needs - free for module, needs in arrows.items() if module not in free}
    assert arrows == {}


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
        "import tuner.publish",
    ],
    ids=["import", "validate", "plan", "schedule", "schema", "init", "list", "publish"],
)
def test_light_commands_load_nothing_heavy(code: str, tmp_path: Path) -> None:
    assert loaded_by(code, tmp_path) == []
