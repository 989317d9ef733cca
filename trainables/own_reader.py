"""A user's own reader of a data set: which files its answer is made of, the call, and the check of its answer.

A reader is a function that takes ``data.path`` (or None) and returns ``Raw``. Its module may have a function
``sources``, with the same argument, that returns the files which the reader reads.

Legend: B images, H W pixels, C channels, K classes.
"""

import hashlib
import importlib
import inspect
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path

import numpy as np

from trainables.catalog import load_object, recorded
from trainables.data.splits import Arrays, Raw
from trainables.errors import CodeError, DataError, TrainableError
from trainables.foreign_text import is_users, raised, with_article

SOURCES = "sources"
"""Name of the function of a reader's module that returns the files which are read."""
NOT_CODE = ("__pycache__", "node_modules", "site-packages", "tuner-runs")
"""Folders below the code folder without modules of the user's."""
MOST_CHANNELS = 4
"""Grey, grey and alpha, RGB, RGBA: more channels are rare, so such a shape is compared with channels first."""
ENVIRONMENT = ("pyvenv.cfg", "conda-meta")
"""A folder with one of these is a virtual environment."""
_SYSTEM = tuple(map(Path, ("/proc", "/sys", "/dev", "/etc", "/usr/lib", "/usr/share", "/lib")))
_MEMORY = Path("/dev/shm")
"""A folder in memory, where people put data."""


@dataclass(frozen=True)
class OwnReader:
    """A reader with its module.

    Args:
        name: ``module:callable``.
        function: the reader.
        source: its argument, ``data.path``.
    """

    name: str
    function: Callable[..., object]
    source: Path | None

    @classmethod
    def of(cls, name: str, source: Path | None) -> "OwnReader":
        """The reader with a dotted name.

        Raises:
            CodeError: the name cannot be imported, or is no function.
        """
        found = load_object(name)
        if not inspect.isfunction(found):
            raise CodeError(f"{name!r} must be a function that takes a path and returns Raw, not {found!r}")
        return cls(name, found, source)

    @property
    def _module(self) -> str:
        return self.name.partition(":")[0]

    @property
    def is_cached(self) -> bool:
        """Whether we know which files the answer is made of: there is a path, or the module declares its sources."""
        return self.source is not None or self._declares() is not None

    def code_digest(self) -> str:
        """The sha256 of the names and contents of all modules in the folder that the reader is imported from.

        An import inside a function can bring in any of them, so all count. Of an installed package, only its own.
        """
        top, files = self._code()
        digest = hashlib.sha256()
        for file in files:
            try:
                content = file.read_bytes()
            except OSError:
                continue  # Python cannot import it either.
            digest.update(f"{file.relative_to(top)}\0{len(content)}\0".encode(errors="surrogateescape"))
            digest.update(content)
        return digest.hexdigest()

    def files(self) -> list[Path]:
        """The files of the data: those at ``data.path``, and those that the module declares.

        Raises:
            DataError: a path does not exist.
            CodeError: the module's ``sources`` fails, or returns something else than absolute paths.
        """
        if self.source is not None and not self.source.exists():
            raise DataError(f"{self.source}: no such file or folder")
        named = [*([] if self.source is None else [self.source]), *self._declared()]
        found = {file for path in named for file in ([path] if path.is_file() else path.rglob("*"))}
        return sorted(file for file in found if file.is_file())

    def read(self) -> tuple[Raw, tuple[Path, ...]]:
        """Call the reader.

        ``random``, ``numpy.random`` and a loaded torch draw from a fixed seed meanwhile, so a reader that draws from
        them returns the same images each time.

        Returns:
            The checked answer, and the files that this process opened for it, now or before, although neither
            ``data.path`` nor ``sources`` names them. Files that a library opens outside Python are not seen.

        Raises:
            CodeError: the reader raised an exception, or its answer is not what ``Raw`` describes.
        """
        with _fixed_streams(), recorded(self._module) as opened:
            try:
                answer = self.function(self.source)
            except TrainableError:
                raise
            except (Exception, SystemExit) as error:
                raise CodeError(raised(repr(self.name), error)) from error
        return checked(self.name, answer), self._unnamed(opened.copy())

    def _unnamed(self, opened: set[str]) -> tuple[Path, ...]:
        known = {file.resolve() for file in (*self.files(), *self._code()[1])}
        paths = {Path(name).resolve() for name in opened}
        return tuple(sorted(path for path in paths - known if path.is_file() and _can_hold_data(path)))

    def _declares(self) -> Callable[..., object] | None:
        found = getattr(importlib.import_module(self._module), SOURCES, None)
        return found if callable(found) else None

    def _declared(self) -> list[Path]:
        declares = self._declares()
        if declares is None:
            return []
        name = f"{self._module}:{SOURCES}"
        try:
            with recorded(self._module):
                found = declares(self.source)
            named = [Path(item) for item in found] if isinstance(found, list | tuple | set) else None
        except Exception as error:
            raise CodeError(raised(repr(name), error)) from error
        if named is None:
            raise CodeError(f"{name!r} must return a list of paths, not {type(found).__name__}")
        for path in named:
            if not path.is_absolute():
                raise CodeError(f"{name!r} returned {str(path)!r}; every path must be absolute: workers run elsewhere")
            if not path.exists():
                raise DataError(f"{path}: no such file or folder; {name!r} returned it")
        return named

    def _code(self) -> tuple[Path, list[Path]]:
        """The folder that the reader's module is imported from, and the modules below it."""
        parts = self._module.split(".")
        file = inspect.getsourcefile(self.function)
        module_file = importlib.import_module(".".join(parts)).__file__ or file
        if module_file is None:
            return Path("/"), []
        path = Path(module_file).absolute()
        top = path.parents[len(parts) - (path.stem != "__init__")]
        if not is_users(module_file):
            top = top / parts[0]
        modules = sorted(_modules(top)) if top.is_dir() else [path]
        return (top if top.is_dir() else path.parent), modules


def checked(name: str, answer: object) -> Raw:
    """The answer of a reader, with its arrays in one contiguous block each.

    Args:
        name: the reader's name.
        answer: what it returned.

    Raises:
        CodeError: a field has the wrong type, or images or labels are laid out otherwise than ``Raw`` says.
    """
    if not isinstance(answer, Raw):
        raise CodeError(f"{name!r} must return trainables.data.splits.Raw, not {type(answer).__name__}")
    try:
        classes = _classes(answer.classes)
        if not isinstance(answer.flips, bool):
            raise CodeError(f"flips must be True or False, not {_shown(answer.flips)}")
        parts = {"train": answer.train, "test": answer.test} | ({} if answer.val is None else {"val": answer.val})
        parts = {what: _arrays(what, part) for what, part in parts.items()}
        shapes = {what: part.images_BHWC.shape[1:] for what, part in parts.items()}
        if len(set(shapes.values())) > 1:
            sizes = ", ".join(f"{what} {_size(shape)}" for what, shape in shapes.items())
            raise CodeError(f"the images must have one height, width and number of channels, not {sizes}")
        _check_labels(parts, classes)
    except CodeError as error:
        raise CodeError(f"{name!r} returned a Raw that cannot be used: {error}") from None
    return Raw(parts["train"], parts["test"], classes, answer.flips, parts.get("val"))


def _classes(classes: object) -> tuple[str, ...]:
    if not isinstance(classes, tuple | list):
        raise CodeError(f"classes must be a tuple of names, one per class, not {_shown(classes)}")
    if not classes:
        raise CodeError("classes is empty; it must be a tuple of names, one per class")
    for index, item in enumerate(classes):
        if not isinstance(item, str):
            raise CodeError(f"classes must be a tuple of names, but classes[{index}] is {_shown(item)}; use str()")
    name, count = Counter(classes).most_common(1)[0]
    if count > 1:
        raise CodeError(f"classes names {name!r} {count} times")
    return tuple(map(str, classes))


def _arrays(what: str, part: object) -> Arrays:
    if not isinstance(part, Arrays):
        raise CodeError(f"{what} must be trainables.data.splits.Arrays(images, labels), not {_shown(part)}")
    images, labels = part.images_BHWC, part.labels_B
    for field, value in (("images", images), ("labels", labels)):
        if not isinstance(value, np.ndarray):
            raise CodeError(f"the {what} {field} must be a numpy array, not {_shown(value)}")
    if images.dtype != np.uint8:
        raise CodeError(f"the {what} images must be uint8, 0 to 255, not {images.dtype}")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise CodeError(
            f"the {what} images must have four axes, image, height, width and channel, not shape {images.shape}"
        )
    _, height, width, channels = images.shape
    if min(width, channels) > MOST_CHANNELS and (height <= MOST_CHANNELS or height < width == channels):
        raise CodeError(
            f"the {what} images have shape {images.shape}, which would be {_size(images.shape[1:])}; this looks like "
            f"channels first: use images.transpose(0, 2, 3, 1); if they really are {height} pixels high, swap height "
            "and width"
        )
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise CodeError(
            f"the {what} labels must be int64, one for each of the {len(images):,} images, not {labels.dtype} of shape "
            f"{labels.shape}"
        )
    return Arrays(np.ascontiguousarray(images), np.ascontiguousarray(labels))


def _check_labels(parts: dict[str, Arrays], classes: tuple[str, ...]) -> None:
    """Refuse labels that are not positions in ``classes``: identifiers, hidden labels, labels from 1."""
    hint = "a label is a position in classes, from 0; for example: names, labels = np.unique(ids, return_inverse=True)"
    for what, part in parts.items():
        labels = part.labels_B
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
            raise CodeError(
                f"the {what} labels are {labels.min()} to {labels.max()}, but there are {len(classes):,} classes; "
                f"{hint}"
            )
    used = np.unique(np.concatenate([part.labels_B for part in parts.values()]))
    if len(used) and 2 * len(used) < len(classes):
        raise CodeError(
            f"only {len(used):,} of {len(classes):,} classes have images, with labels {used[0]} to {used[-1]}; {hint}"
        )
    if len(used) and used[0] > 0:
        raise CodeError(f"the labels begin at {used[0]}, so the class {classes[0]!r} (label 0) has no image; {hint}")


def _size(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{height} x {width} pixels with {channels} channel{'' if channels == 1 else 's'}"


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return f"{text} ({kind})" if isinstance(value, int | float | str) and len(text) <= 40 else with_article(kind)


def _modules(top: Path) -> Iterator[Path]:
    suffixes = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)
    for here, folders, files in os.walk(top):
        folders[:] = [
            name
            for name in folders
            if name not in NOT_CODE
            and not name.startswith(".")
            and not any(os.path.exists(os.path.join(here, name, mark)) for mark in ENVIRONMENT)
        ]
        found = (os.path.join(here, name) for name in files if name.endswith(suffixes))
        yield from (Path(file) for file in found if os.path.isfile(file))


def _can_hold_data(path: Path) -> bool:
    """Whether a file that was opened can be data: it is neither compiled code, nor Python's, nor the system's."""
    is_systems = any(path.is_relative_to(top) for top in _SYSTEM) and not path.is_relative_to(_MEMORY)
    return path.suffix != ".pyc" and is_users(str(path)) and not is_systems


@contextmanager
def _fixed_streams() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    if torch is not None:
        torch.default_generator.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if torch is not None:
            torch.set_rng_state(before)
