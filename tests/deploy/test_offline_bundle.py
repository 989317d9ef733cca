"""The parts of the bundle, and its real install script with a minimal bundle."""

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cluster.deploy.offline_bundle import pinned, platforms, wanted, write_sums
from tests.deploy.stack import ROOT

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
PROGRAM = "def main():\n    print('installed')\n"


def write_wheel(folder: Path, name: str, files: dict[str, str], metadata: str = "") -> None:
    """Write a wheel of pure Python that pip accepts."""
    info = f"{name}-1.0.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{file},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        for file, text in files.items()
    ]
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
        wheel.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with a minimal program named tuner and an empty package named torch."""
    folder = tmp_path / "bundle"
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    extras = "Provides-Extra: service\nProvides-Extra: cmaes\nRequires-Dist: torch\n"
    entry = {"tuner-1.0.dist-info/entry_points.txt": "[console_scripts]\ntuner = tuner_program:main\n"}
    write_wheel(wheels, "tuner", {"tuner_program.py": PROGRAM} | entry, extras)
    write_wheel(wheels, "torch", {"torch/__init__.py": ""})
    (folder / "constraints.txt").write_text("torch==1.0\n")
    (folder / "python-version").write_text(HERE + "\n")
    (folder / "install.sh").write_bytes((ROOT / "cluster" / "deploy" / "install.sh").read_bytes())
    write_sums(folder)
    return folder


def install(bundle: Path, target: Path, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(bundle / "install.sh"), str(target)],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHON": python, "HOME": str(target.parent)},
    )


def test_it_installs_without_a_network(bundle: Path, tmp_path: Path) -> None:
    installed = install(bundle, tmp_path / "venv")
    assert (installed.returncode, installed.stdout) == (0, "installed\n"), installed.stderr
    assert (tmp_path / "venv" / "bin" / "tuner").exists()


def test_an_existing_folder_stays_unchanged(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    assert install(bundle, tmp_path / "venv").returncode == 2
    assert list((tmp_path / "venv").iterdir()) == []


def test_a_damaged_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    wheel = next((bundle / "wheels").iterdir())
    content = bytearray(wheel.read_bytes())
    content[len(content) // 2] ^= 1
    wheel.write_bytes(content)
    assert install(bundle, tmp_path / "venv").returncode == 5
    assert not (tmp_path / "venv").exists()


def test_another_python_is_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / "python-version").write_text("2.7\n")
    write_sums(bundle)
    refused = install(bundle, tmp_path / "venv")
    assert refused.returncode == 2
    assert "Python 2.7" in refused.stderr


def names(lines: list[str]) -> set[str]:
    return {re.split(r"[=><\[]", line)[0] for line in lines}


def test_without_torch_the_bundle_has_neither_torch_nor_its_pins() -> None:
    assert names(wanted(without_torch=False)) - names(wanted(without_torch=True)) == {"torch", "torchvision"}
    left_out = names(pinned(without_torch=False)) - names(pinned(without_torch=True))
    assert {"torch", "torchvision", "triton", "nvidia-cudnn-cu13", "cuda-bindings"} <= left_out
    assert all(name.startswith(("torch", "triton", "nvidia-", "cuda-")) for name in left_out)


def test_without_torch_the_bundle_has_the_other_dependencies_of_torch_in_pinned_versions() -> None:
    needed = {"filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions"}
    assert needed <= names(wanted(without_torch=True))
    pins = {name.lower().replace("_", "-") for name in names(pinned(without_torch=True))}
    assert needed <= pins


def test_wheels_for_every_older_c_library_are_accepted() -> None:
    tags = platforms("aarch64")
    assert tags[0] == "manylinux_2_28_aarch64"
    assert {"manylinux_2_17_aarch64", "manylinux2014_aarch64"} <= set(tags)
    assert not any("2_29" in tag for tag in tags)
