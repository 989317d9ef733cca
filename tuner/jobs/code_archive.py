"""Packs the user's own code, to travel with a job: a zip of a folder. The same files give the same bytes.

Everything in the folder travels, except what its ignore files name, the folders of version control and caches, files
that are likely secrets, and what is not a file in this folder.
"""

import fnmatch
import io
import os
import re
import shutil
import stat
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathspec import GitIgnoreSpec

from trainables.foreign_text import is_users
from tuner.errors import SpecError
from tuner.jobs.workspace import Workspace

IGNORE_FILES = (".gitignore", ".rayignore")
NEVER = (
    *(".git", ".hg", ".svn", "__pycache__", ".venv", "tuner-runs", "node_modules", ".tox", ".nox"),
    *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".ipynb_checkpoints"),
)
SECRETS = (
    *(".env", ".env.*", ".env-*", ".env_*", "*.env", ".envrc", "secrets", "secrets.*", ".secrets", ".secrets.*"),
    *("credentials", "credentials.*"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk", "*.kdbx", "*.gpg"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".ssh", ".gnupg", ".config"),
    *(".aws", ".azure", ".gcloud", "gcloud", ".boto", ".s3cfg", "rclone.conf", ".databrickscfg"),
    *("kaggle.json", ".kaggle"),
    *("client_secret*.json", "*credentials*.json", "*service_account*.json", "*service-account*.json"),
    *(".kube", "kubeconfig*", "*.kubeconfig", ".docker", ".dockercfg", ".vault-token", "*.tfstate*", "*.tfvars"),
    *(".netrc", "_netrc", ".pgpass", ".pg_service.conf", ".my.cnf", ".pypirc", ".npmrc", ".git-credentials"),
    *(".htpasswd", "auth.json", "token", ".token", "*.token", "token.*", "*_token", "*_token.*", ".*_history"),
    *("password", "passwords", "password.*", "passwords.*", "*_password.*", "*api_key", "*api_key.*"),
)
"""Names of files and folders that hold keys, tokens and passwords, in lower case. No Python module is meant."""
PYTHON = (".py", ".pyi")
KEY_MARK, KEY_BYTES = b"PRIVATE KEY-----", 64 * 2**10
"""What a file with a private key contains, whatever its name is, and the largest size of such a file."""
MOST_BYTES = 50 * 2**20
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of all files in the zip, the earliest that a zip can hold. Real times would change the bytes."""
SHOWN = 20
_SECRET = re.compile("|".join(map(fnmatch.translate, SECRETS)))
_KINDS: Mapping[int, str] = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


@dataclass(frozen=True)
class CodeFiles:
    """The files of a folder that travel.

    Args:
        folder: which folder.
        files: path in the folder, and size in bytes.
        left_out: path of a file or folder that stays, and why. What an ignore file names is not listed.
    """

    folder: Path
    files: Mapping[str, int]
    left_out: Mapping[str, str]

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {"folder": str(self.folder), "files": dict(self.files), "left_out": dict(self.left_out)}

    def counts(self) -> dict[str, Any]:
        """Its folder, how many files travel and stay, and the bytes."""
        return {
            "folder": str(self.folder),
            "files": len(self.files),
            "bytes": self.bytes,
            "left_out": len(self.left_out),
        }

    def lines(self, most: int = SHOWN) -> Iterator[str]:
        """The files in words, the largest first, and what stays; at most so many of each."""
        yield f"code: {len(self.files)} files with {self.bytes:,} bytes travel from {shown_name(str(self.folder))}:"
        for name, size in sorted(self.files.items(), key=lambda file: -file[1])[:most]:
            yield f"  {size:>12,}  {shown_name(name)}"
        if len(self.files) > most:
            yield f"  and {len(self.files) - most} smaller files; tuner submit --dry-run shows all"
        if self.bytes > MOST_BYTES:
            yield f"code: this is too much: at most {MOST_BYTES:,} bytes can travel"
        for name, reason in [*self.left_out.items()][:most]:
            yield f"code: {shown_name(name)} stays here: {reason}"
        if len(self.left_out) > most:
            yield f"code: {len(self.left_out) - most} more stay here; tuner submit --dry-run shows all"


def shown_name(name: str) -> str:
    """A file's name that can be shown: other characters, as control codes, are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def code_files(folder: Path) -> CodeFiles:
    """What travels of a folder. A link is followed if it leads to a place in the folder.

    Raises:
        SpecError: an ignore file cannot be read.
    """
    found = _Folder(folder)
    files = {str(path.relative_to(folder)): size for path, size in sorted(found.files())}
    return CodeFiles(folder, files, dict(sorted(found.left_out.items())))


@dataclass(frozen=True)
class Imported:
    """The user's modules that were imported.

    Args:
        files: their files.
        named: dotted path in an arm of the spec, and the file of its module.
    """

    files: tuple[str, ...]
    named: Mapping[str, str]


def check_modules(code: CodeFiles, imported: Imported | None = None) -> None:
    """Refuse code that imports a module of its folder that does not travel: on a node it would not be found.

    Args:
        code: what travels.
        imported: the modules; None for those of this process.

    Raises:
        SpecError: a module that was imported would stay, or the module of an arm is in no folder that travels.
    """
    for path, place in [] if imported is None else imported.named.items():
        if not Path(place).is_relative_to(code.folder):
            raise SpecError(
                f"code: {path} is in {shown_name(place)}, outside of {shown_name(str(code.folder))}, and would not "
                "travel; set `code` to a folder that holds it, or install it as a package"
            )
    # An environment in the folder has installed modules and programs, and is not the user's code.
    prefixes = [prefix for prefix in map(Path, (sys.prefix, sys.base_prefix)) if prefix != code.folder]
    environments = [prefix for prefix in prefixes if prefix.is_relative_to(code.folder)]
    modules = {file for module in [*sys.modules.values()] if (file := getattr(module, "__file__", None))}
    if imported is not None:
        modules = {*imported.files}
    for file in map(Path, sorted(modules)):
        if not file.is_relative_to(code.folder) or not is_users(str(file)):
            continue
        name = file.relative_to(code.folder)
        if str(name) in code.files or not {*name.parts}.isdisjoint(NEVER):
            continue
        if any(file.is_relative_to(environment) for environment in environments):
            continue
        reasons = [code.left_out[str(place)] for place in (name, *name.parents) if str(place) in code.left_out]
        raise SpecError(
            f"code: {shown_name(str(file))} is imported and would not travel: "
            f"{reasons[0] if reasons else 'an ignore file names it'}"
        )


def pack(code: CodeFiles) -> bytes:
    """A zip of files.

    Raises:
        SpecError: they are larger than ``MOST_BYTES``, or cannot be read.
    """
    if code.bytes > MOST_BYTES:
        largest = max(code.files, key=lambda name: code.files[name])
        raise SpecError(
            f"code: {code.folder} holds {code.bytes:,} bytes (the largest file is {shown_name(largest)}), and at most"
            f" {MOST_BYTES:,} can travel; name a smaller folder, or list what is not needed in"
            f" {code.folder / IGNORE_FILES[1]}"
        )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in code.files:
            archive.writestr(zipfile.ZipInfo(name, EPOCH), _content(code.folder / name))
    return packed.getvalue()


def unpack(packed: bytes, folder: Path) -> None:
    """Write the files of ``pack`` into a new folder, whole or not at all. Only this user can read them.

    No file can land outside the folder.
    """
    unfinished = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700, parents=True)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        for member in archive.infolist():
            os.chmod(archive.extract(member, unfinished), 0o600)
    unfinished.rename(folder)


class _Folder:
    """Walks through a folder, and notes what stays and why."""

    def __init__(self, top: Path) -> None:
        self.left_out: dict[str, str] = {}
        self._top = top
        self._real: dict[Path, Path] = {}
        """Real paths of the folders so far: a path without links."""
        self._rules: dict[Path, GitIgnoreSpec] = {}
        """An ignore file applies to its own folder and all folders below."""
        self._bytes = 0

    def files(self) -> Iterator[tuple[Path, int]]:
        """The files that travel, and their sizes in bytes."""
        for here, folders, files in os.walk(self._top, followlinks=True, onerror=self._unreadable):
            folder = Path(here)
            self._real[folder] = Path(os.path.realpath(folder))
            self._read_rules(folder)
            folders[:] = [name for name in folders if self._enters(folder / name)]
            for file in (folder / name for name in files):
                if (size := self._size(file)) is not None:
                    self._bytes += size
                    yield file, size

    def _enters(self, folder: Path) -> bool:
        if folder.name in NEVER or self._ignored(folder, "/"):
            return False
        reason = self._reason(folder)
        if reason is None and Workspace(folder).is_in_use:
            reason = "a workspace with jobs"
        if reason is None and self._real_path(folder) in [self._real.get(parent) for parent in folder.parents]:
            reason = "it leads back to a folder that it is in"
        return self._travels(folder, reason)

    def _unreadable(self, error: OSError) -> None:
        self._travels(Path(error.filename), "it cannot be read")

    def _real_path(self, path: Path) -> Path:
        return Path(os.path.realpath(path)) if path.is_symlink() else self._real[path.parent] / path.name

    def _size(self, file: Path) -> int | None:
        if self._ignored(file):
            return None
        reason, size = self._reason(file), 0
        if reason is None:
            try:
                about = file.stat()
            except OSError:
                reason = "a link to nothing" if file.is_symlink() else "it cannot be read"
            else:
                size = about.st_size
                reason = _kind(about.st_mode) or (None if os.access(file, os.R_OK) else "it cannot be read")
        # What is too much already is not read: ``pack`` refuses it.
        if reason is None and size <= KEY_BYTES and self._bytes <= MOST_BYTES and KEY_MARK in _content(file):
            reason = "it holds a private key"
        return size if self._travels(file, reason) else None

    def _reason(self, path: Path) -> str | None:
        """Why a file or folder stays, by its name and by the place that it leads to."""
        if not _is_utf8(path.name):
            return "its name is not UTF-8"
        if not path.is_symlink():
            places = (path.relative_to(self._top), self._real_path(path).relative_to(self._real[self._top]))
            return "it looks like a secret" if any(_is_secret(path, place) for place in places) else None
        real, top = self._real_path(path), self._real[self._top]
        if not real.is_relative_to(top):
            return f"a link out of the folder, to {shown_name(str(real))}"
        target = real.relative_to(top)
        if any(part in NEVER for part in target.parts) or self._stays(target):
            return "a link to what does not travel"
        secret = _is_secret(path, path.relative_to(self._top)) or any(
            _is_secret(top / place, place) for place in (target, *target.parents)[:-1]
        )
        return "a link to what looks like a secret" if secret else None

    def _stays(self, target: Path) -> bool:
        """Whether ignore files name the target of a link or a folder that it is in, or one of these is a workspace."""
        for place in reversed((target, *target.parents)[:-1]):
            path = self._top / place
            self._read_rules(path.parent)
            is_folder = path.is_dir()
            if self._ignored(path, "/" if is_folder else "") or (is_folder and Workspace(path).is_in_use):
                return True
        return False

    def _read_rules(self, folder: Path) -> None:
        if folder in self._rules:
            return
        lines = [line for name in IGNORE_FILES for line in _lines(folder / name)]
        if lines:
            self._rules[folder] = GitIgnoreSpec.from_lines(lines)

    def _travels(self, path: Path, reason: str | None) -> bool:
        """Whether a path travels. Notes the reason why not."""
        if reason is not None:
            self.left_out[str(path.relative_to(self._top))] = reason
        return reason is None

    def _ignored(self, path: Path, ending: str = "") -> bool:
        found = None
        for folder, rule in self._rules.items():
            if path.is_relative_to(folder):
                # As in git, the nearest ignore file with a rule for a path decides. The nearest one comes last.
                said = rule.check_file(f"{path.relative_to(folder)}{ending}").include
                found = found if said is None else said
        return bool(found)


def _is_secret(path: Path, place: Path) -> bool:
    """Whether a file or folder, at this place in the code folder, has the name of a secret or is in a folder with one.

    A Python module or package may be called credentials. Of such a package, only the modules are no secrets.
    """
    if path.is_dir():
        return _names_secret(path.name) and not (path / "__init__.py").exists()
    return path.suffix not in PYTHON and any(map(_names_secret, place.parts))


def _names_secret(name: str) -> bool:
    return bool(_SECRET.match(name.lower()))


def _kind(mode: int) -> str | None:
    """What stays by its kind; None for a file."""
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "a device")


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SpecError(f"code: {shown_name(str(file))}: cannot be read: {error.strerror}") from error


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        return []
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise SpecError(f"code: {file}: cannot be read: {error}") from error


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
