"""Makes a folder that installs tuner without a network: python -m cluster.deploy.offline_bundle DIST [options].

The folder holds all wheels, our own among them, in the versions of constraints.txt; install.sh; the specs of
``searches``; checksums. A package without a wheel is built here. For pure Python packages, that works on any machine.
"""

import argparse
import hashlib
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.deploy.requirements import requirements

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("service", "cmaes")
TORCH = re.compile(r"torch|torchvision|triton|(nvidia|cuda)-.*")
"""Packages of several gigabytes, which GPU machines often have already, in their own versions."""
TORCH_NEEDS = ("filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions")
"""The other dependencies of torch: small packages. Constraints pin their versions, so the bundle must hold them."""
NEWEST_GLIBC = 28
"""Newest minor version of glibc that a wheel may need: Debian 10, RHEL 8 and all later systems have it."""


def wanted(without_torch: bool) -> list[str]:
    """The requirements that are installed beside our own wheel."""
    asked = requirements(ROOT / "pyproject.toml", list(EXTRAS))
    if not without_torch:
        return asked
    return [line for line in asked if not TORCH.fullmatch(_name(line))] + list(TORCH_NEEDS)


def pinned(without_torch: bool) -> list[str]:
    """The lines of constraints.txt, without those about torch if the target machine has its own torch."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not (without_torch and TORCH.fullmatch(_name(line)))]


def platforms(machine: str) -> list[str]:
    """The platform tags of wheels that a machine can install, newest first."""
    glibc = [f"manylinux_2_{minor}_{machine}" for minor in range(NEWEST_GLIBC, 4, -1)]
    return [*glibc, f"manylinux2014_{machine}", f"manylinux2010_{machine}", f"manylinux1_{machine}", f"linux_{machine}"]


def bundle(dist: Path, python_version: str, machine: str, without_torch: bool) -> Path:
    """Write the folder, replace an older one, and return its path."""
    from_here = (python_version, machine) == _here()
    name = f"tuner-{_version()}-py{python_version}-{machine}" + ("-without-torch" if without_torch else "")
    folder = dist / name
    shutil.rmtree(folder, ignore_errors=True)
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pinned(without_torch)) + "\n", encoding="utf-8")

    _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT))
    common = ["--constraint", str(constraints), *wanted(without_torch)]
    if from_here:
        _pip("wheel", "--wheel-dir", str(wheels), *common)
    else:
        target = ["--python-version", python_version, "--implementation", "cp", "--only-binary", ":all:"]
        target += [option for tag in platforms(machine) for option in ("--platform", tag)]
        _pip("download", "--dest", str(wheels), "--find-links", str(wheels), *target, *common)

    (folder / "python-version").write_text(python_version + "\n", encoding="utf-8")
    shutil.copy(ROOT / "cluster" / "deploy" / "install.sh", folder)
    shutil.copytree(ROOT / "searches", folder / "searches")
    write_sums(folder)
    return folder


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS, which sha256sum reads, for all files in the folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "SHA256SUMS")
    sums = "".join(f"{_sha256(file)}  {file.relative_to(folder)}\n" for file in files)
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"], check=True)


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()


def _version() -> str:
    import tomllib

    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return version


def _here() -> tuple[str, str]:
    return f"{sys.version_info.major}.{sys.version_info.minor}", platform.machine()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this file."""
    python_version, machine = _here()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dist", type=Path)
    parser.add_argument("--python-version", default=python_version, help="Python of the target machine [%(default)s]")
    parser.add_argument("--platform", dest="machine", default=machine, help="x86_64 or aarch64 [%(default)s]")
    parser.add_argument("--without-torch", action="store_true", help="the target machine has torch and torchvision")
    given = parser.parse_args(arguments)
    try:
        made = bundle(given.dist, given.python_version, given.machine, given.without_torch)
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: pip failed with exit code {error.returncode}; see its message above")
    print(made)


if __name__ == "__main__":
    main()
