"""Runs a user's Ray Tune trainable outside of Tune: a ``Trainable`` subclass, or a function that calls ``tune.report``.

Ray's own wrapper makes a ``Trainable`` of a function, and Ray's own ``save`` and ``restore`` know all the forms of a
checkpoint that Tune allows. It is the only file of this package that imports ray.
"""

import copy
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from ray import tune
from ray.train._internal.session import _TrainingResult, get_session, shutdown_session
from ray.train._internal.storage import StorageContext
from ray.tune import result as keys
from ray.tune.trainable.function_trainable import FunctionTrainable, wrap_function
from torch import Tensor

from trainables.catalog import load_object
from trainables.errors import CodeError, TrainableError
from trainables.foreign_text import raised
from trainables.own.trial import PASSED

RAYS = frozenset({*keys.AUTO_RESULT_KEYS, *keys.DEBUG_METRICS, keys.DONE, keys.SHOULD_CHECKPOINT, keys.TRIAL_ID})
"""Names that Ray adds to a report."""
LEAVE_S = 10.0
"""Longest wait for the thread of a function that was stopped."""
_COUNTERS = ("training_iteration", "time_total_s", "timesteps_total", "episodes_total")
"""What Ray's ``restore`` reads beside the checkpoint: a class may count its steps by ``self.iteration``."""

for _name in ("ray.train", "ray.tune"):
    # One line per checkpoint, in the driver's output.
    logging.getLogger(_name).setLevel(logging.WARNING)

Counters = dict[str, float]
_RESTORED = "restored-"
_MAKE_FULL = "RAY_AIR_FULL_TRACEBACKS"
"""With this variable, Ray raises the user's exception itself, not a copy, which some exceptions do not allow."""


@dataclass(frozen=True)
class Step:
    """One step of a trainable.

    Args:
        report: what it reported; None if it ended without another report.
        ended: whether no report will follow.
    """

    report: Mapping[str, Any] | None
    ended: bool


def trainable_class(name: str) -> type[tune.Trainable]:
    """The class with a dotted name, or Ray's wrapper of the function with this name.

    Raises:
        CodeError: the name cannot be imported; or it is neither a ``ray.tune.Trainable`` subclass nor a function of one
            argument, the config.
    """
    found = load_object(name)
    if isinstance(found, type):
        if not issubclass(found, tune.Trainable):
            raise CodeError(f"{name!r} is a class, but no subclass of ray.tune.Trainable")
        return found
    if not callable(found):
        raise CodeError(
            f"{name!r} must be a ray.tune.Trainable subclass, or a function that calls ray.tune.report, not "
            f"{type(found).__name__}"
        )
    try:
        wrapped: type[tune.Trainable] = wrap_function(found)
    except (TypeError, ValueError):
        raise CodeError(f"{name!r} must be callable with one argument, the config") from None
    return wrapped


class UserTrainable:
    """A user's trainable at work on one config.

    Args:
        name: the trainable's dotted name, for messages.
        made_of: its class; see ``trainable_class``.
        config: its config; it gets a copy.
        folder: an empty folder of its own; its ``work`` is the current folder.

    Raises:
        CodeError: its constructor or its ``setup`` raised an exception.
    """

    def __init__(self, name: str, made_of: type[tune.Trainable], config: Mapping[str, Any], folder: Path) -> None:
        self.name = name
        self._is_function = issubclass(made_of, FunctionTrainable)
        self._folder = folder
        self._has_new = False
        self._restored: Any = None
        os.environ[_MAKE_FULL] = "1"
        storage = _Storage(folder)
        self._known = frozenset(config)
        self._trainable: Any = self._call("", lambda: made_of(config=copy.deepcopy(dict(config)), storage=storage))
        if self._is_function and (session := get_session()) is not None:
            session.report = _checking(session.report)  # type: ignore[method-assign]

    @property
    def saves(self) -> bool:
        """Whether a class can save a checkpoint. A function tells only by its reports."""
        return not self._is_function and type(self._trainable).save_checkpoint is not tune.Trainable.save_checkpoint

    def step(self) -> Step:
        """Train until the next report.

        Raises:
            CodeError: the user's code raised an exception, or returned no dict.
        """
        report = self._call("", self._trainable.train)
        if keys.RESULT_DUPLICATE in report:
            return Step(None, ended=True)
        self._has_new = bool(report.get(keys.SHOULD_CHECKPOINT))
        if self._is_function and self._has_new:
            self._keep_only(Path(self._trainable.save_checkpoint().checkpoint.path))
        return Step(report, ended=bool(report.get(keys.DONE)))

    def save(self) -> tuple[dict[str, Tensor], Counters] | None:
        """The files of a checkpoint of the last step as bytes, by their path, and Ray's counters; None without one.

        Raises:
            CodeError: the user's code raised an exception.
        """
        if not (self._has_new if self._is_function else self.saves):
            return None
        try:
            result = self._call("saving a checkpoint", self._trainable.save)
        except CodeError as error:
            if isinstance(error.__cause__, NotImplementedError):
                return None
            raise
        path = Path(result.checkpoint.path)
        files = packed(path)
        if not self._is_function:
            shutil.rmtree(path)
        counters = {name: float(result.metrics[name]) for name in _COUNTERS if result.metrics.get(name) is not None}
        # A method that writes nothing is a way to say that there are no checkpoints.
        return (files, counters) if files else None

    def restore(self, files: Mapping[str, Tensor], counters: Counters, opened: Callable[[], None]) -> bool:
        """Continue from a checkpoint that ``save`` returned; to be called before the first step.

        Args:
            files, counters: what ``save`` returned.
            opened: called when the user's code asks for the checkpoint's files. A function may never do it.

        Returns:
            False if the class cannot load checkpoints.

        Raises:
            CodeError: the user's code raised an exception.
        """
        path = Path(tempfile.mkdtemp(prefix=_RESTORED, dir=self._folder))
        unpack(files, path)
        counted = {name: value if name == "time_total_s" else int(value) for name, value in counters.items()}
        checkpoint: Any = _Watched.from_directory(str(path))
        result = _TrainingResult(checkpoint, counted)
        try:
            self._call("loading a checkpoint", lambda: self._trainable.restore(result))
        except CodeError as error:
            if isinstance(error.__cause__, NotImplementedError):
                return False
            raise
        # Until here, Ray and ``load_checkpoint`` have asked.
        checkpoint.watch(opened)
        self._restored = checkpoint
        return True

    @property
    def starts_again(self) -> bool:
        """Whether a function has not opened the checkpoint that it was given, as many examples of Ray's do."""
        return self._is_function and self._restored is not None and not self._restored.opened

    def close(self) -> threading.Thread | None:
        """Stop the trainable. A function that is in ``tune.report`` leaves by ``SystemExit``.

        Returns:
            The thread of a function that still runs after ``LEAVE_S``, or None.

        Raises:
            CodeError: the user's ``cleanup`` raised an exception.
        """
        session = get_session() if self._is_function else None
        try:
            self._call("stopping it", self._trainable.stop)
        finally:
            shutdown_session()
        if session is None or not session.training_started:
            return None
        thread: threading.Thread = session.training_thread
        thread.join(LEAVE_S)
        return thread if thread.is_alive() else None

    def _keep_only(self, path: Path) -> None:
        """Remove the checkpoints before this one, which a function can get again with ``tune.get_checkpoint``."""
        for old in (*path.parent.iterdir(), *self._folder.glob(f"{_RESTORED}*")):
            if old != path:
                shutil.rmtree(old, ignore_errors=True)

    def _call(self, doing: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except TrainableError:
            raise
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            theirs = _theirs(error)
            text = raised(f"{self.name}: {doing}" if doing else self.name, theirs)
            raise CodeError(text + self._hint(theirs)) from theirs

    def _hint(self, error: BaseException) -> str:
        """What the user can do about a key that the config has only if the spec passes it."""
        key = error.args[0] if isinstance(error, KeyError) and error.args else None
        return "; list it under pass" if key in PASSED and key not in self._known else ""


class _Storage(StorageContext):
    """Ray's knowledge of where a trial's files lie; its own folders need a running Ray."""

    def __init__(self, folder: Path) -> None:
        self._work = str(folder / "work")
        super().__init__(str(folder), "ray", trial_dir_name="trial")

    @property
    def trial_working_directory(self) -> str:
        return self._work

    @property
    def trial_driver_staging_path(self) -> str:
        return self._work


class _Watched(tune.Checkpoint):
    """A checkpoint that knows whether anybody has asked where its files are."""

    opened = False
    _when_opened: Callable[[], None] | None = None

    def watch(self, opened: Callable[[], None]) -> None:
        self.opened, self._when_opened = False, opened

    @property
    def path(self) -> str:
        if self._when_opened is not None and not self.opened:
            self.opened = True
            self._when_opened()
        return self._path

    @path.setter
    def path(self, value: str) -> None:
        self._path = value


def packed(folder: Path) -> dict[str, Tensor]:
    """The bytes of all files below a folder, by their relative path."""
    return {
        file.relative_to(folder).as_posix(): torch.from_numpy(np.frombuffer(bytearray(file.read_bytes()), np.uint8))
        for file in sorted(_files(folder))
    }


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder. A link is followed, unless it leads back to a folder that it is in."""
    for here, folders, files in os.walk(folder, followlinks=True):
        above = {os.path.realpath(place) for place in (Path(here), *Path(here).parents)}
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(here, name)) not in above]
        yield from (file for name in files if (file := Path(here, name)).is_file())


def unpack(files: Mapping[str, Tensor], folder: Path) -> None:
    """Write packed files into a folder.

    Raises:
        ValueError: a path leads out of the folder.
    """
    for name, content in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{name!r} is outside the checkpoint")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content.numpy().tobytes())


def _checking(report: Callable[..., None]) -> Callable[..., None]:
    """Ray's function behind ``tune.report``, with a clear message for a report that is no dict."""

    def checked(metrics: Any, *args: Any, **options: Any) -> None:
        if not isinstance(metrics, Mapping):
            raise TypeError(f"reported {metrics!r}; a report is a dict of numbers")
        report(metrics, *args, **options)

    return checked


def _theirs(error: BaseException) -> BaseException:
    """The user's exception: Ray puts exceptions of its own around the one of a function."""
    while type(error).__name__.startswith("StartTraceback") and error.__cause__ is not None:
        error = error.__cause__
    return error
