"""The worker of a user's own trainable: a Ray actor's class that runs one attempt after the other.

It is to a user's trainable what ``TrialTrainable`` is to the built-in training: the same calls, the same config, the
same fences.
"""

import gc
import json
import logging
import math
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.config import derive_seed
from trainables.errors import CodeError
from trainables.own.reported import Reported, judged_number, read_report
from trainables.own.scratch import Scratch
from trainables.own.trial import OwnTrial
from trainables.own.user_trainable import RAYS, Counters, UserTrainable, trainable_class
from trainables.report import HAUNTED, OwnReport, OwnResult, StepReport
from trainables.training import checkpoints, process
from trainables.training.trainer import device_name
from trainables.worker.watchdog import watchdog

MOST_SEED = 2**31
"""Seeds that are handed over are smaller: numpy, scikit-learn and XGBoost allow no larger ones."""

_log = logging.getLogger(__name__)


class OwnWorker:
    """Runs attempts at trials of users' trainables, one report per call.

    The process is reused for the next trial, but the trainable is built anew, so that nothing of it is left.

    Keys of an attempt's config:
        trial: ``OwnTrial.to_dict``.
        read_test: whether it is a confirm run, whose last report gives the judge metric.
        attempt: fencing number of this attempt of the trial, from 1; every report contains it.
        checkpoints: folder of the trial's checkpoints (a path or an S3 URL), shared by its attempts.
        accepted: (report, attempt) of the reports on record, newest first; only their checkpoints may be resumed from.
        checkpoint_s: shortest time between two checkpoints, in seconds; 0 saves one whenever there is one.
        lonely_s: time without a call after which the process ends itself, in seconds, unless the trial is done.
    """

    def __init__(self) -> None:
        self._scratch: Scratch | None = None
        self._settings: _Settings | None = None
        self._run: _Run | None = None
        self._folder = Path()
        self._left: threading.Thread | None = None

    def begin(self, config: dict[str, Any]) -> dict[str, Any]:
        """Start a trial, or resume it from its newest good checkpoint, and return its next report.

        If a function of the last trial does not stop, it would disturb this one. Nothing is started then, and the
        answer has only the key ``HAUNTED``: the process must be ended.

        Raises:
            CodeError: the user's code cannot be loaded, raised an exception, or reports what cannot be used.
            StoreError, DiskFull: a checkpoint cannot be read or written.
        """
        watchdog.called()
        self._leave()
        if self._is_haunted:
            return {HAUNTED: True}
        if self._scratch is None:
            self._scratch = Scratch()
            self._settings = _Settings()
        assert self._settings is not None
        self._settings.restore(config["trial"]["trainable"])
        self._folder = self._scratch.enter_trial()
        try:
            with _short_errors():
                self._run = _Run(config, self._folder, self._settings)
        except BaseException:
            self._scratch.leave_trial(self._folder)
            raise
        return self.train()

    def train(self) -> dict[str, Any]:
        """Train until the next report; write a checkpoint unless the trial is done.

        Returns:
            ``StepReport.to_dict``; with the key ``HAUNTED`` if the process must be ended after this trial.

        Raises:
            CodeError: the trial has ended, or as in ``begin``.
            StoreError, DiskFull: a checkpoint cannot be written.
        """
        watchdog.called()
        run = self._run
        if run is None:
            raise CodeError("the trial has ended: it can make no more reports")
        try:
            with _short_errors():
                report = run.advance()
        except BaseException:
            self._leave()
            raise
        if run.done:
            self._leave()
        else:
            watchdog.expect_call(run.lonely_s)
        return {**report.to_dict(), HAUNTED: True} if self._is_haunted else report.to_dict()

    @property
    def busy(self) -> bool:
        """Whether a trial runs that can make another report."""
        return self._run is not None

    def close(self) -> None:
        """End the trial, if one runs, and remove everything of the worker."""
        self.stop()
        if self._scratch is not None:
            self._scratch.remove()
            self._scratch = None
        gc.unfreeze()

    def stop(self) -> None:
        """End the trial, if one runs: no call is expected any more."""
        watchdog.called()
        self._leave()

    def _leave(self) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        try:
            self._left = run.trainable.close()
        except CodeError as error:
            # The trial has its result: what it does afterwards cannot change it.
            _log.warning("%s", error)
        finally:
            assert self._scratch is not None
            self._scratch.leave_trial(self._folder)
            # A trainable often refers to itself, and its memory on a GPU is needed for the next one.
            del run
            gc.collect()
            # It does nothing where CUDA is not in use.
            torch.cuda.empty_cache()

    @property
    def _is_haunted(self) -> bool:
        return self._left is not None and self._left.is_alive()


class _Now:
    """Settings of the whole process that a trial may change, as they are now."""

    def __init__(self) -> None:
        self._environment, self._path = dict(os.environ), list(sys.path)
        self._dtype, self._device, self._grad = (
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.is_grad_enabled(),
        )
        self._deterministic = torch.are_deterministic_algorithms_enabled()
        self._warns = torch.is_deterministic_algorithms_warn_only_enabled()

    def restore(self) -> None:
        """Set them as they were."""
        if dict(os.environ) != self._environment:
            os.environ.clear()
            os.environ.update(self._environment)
        # The list stays: other modules may hold it.
        sys.path[:] = self._path
        torch.set_default_dtype(self._dtype)
        # The processor by name would slow every call of torch.
        torch.set_default_device(None if self._device.type == "cpu" else self._device)
        torch.set_grad_enabled(self._grad)
        torch.use_deterministic_algorithms(self._deterministic, warn_only=self._warns)


class _Settings:
    """Gives every trial the same settings of the process: those at the worker's start, or what its module sets."""

    def __init__(self) -> None:
        self._start = _Now()
        self._imported: dict[str, _Now] = {}

    def restore(self, trainable: str) -> None:
        """Set them as they were right after the import of a trainable's module, or at the start before it."""
        self._imported.get(_module_of(trainable), self._start).restore()

    def imported(self, trainable: str) -> None:
        """The module of a trainable is imported; only its first import can change anything."""
        if _module_of(trainable) not in self._imported:
            self._imported[_module_of(trainable)] = _Now()


def _module_of(trainable: str) -> str:
    return trainable.partition(":")[0]


class _Run:
    """One attempt at a trial."""

    def __init__(self, options: dict[str, Any], folder: Path, settings: _Settings) -> None:
        self.done = False
        self.lonely_s: float = options["lonely_s"]
        self._options = options
        self._trial = OwnTrial.from_dict(options["trial"])
        self._confirms: bool = options["read_test"]
        self._epoch = 0
        self._last: OwnReport | None = None
        """The last report of this attempt."""
        self._known: dict[str, float] = {}
        """The values of the last report, which an earlier attempt may have given."""
        self._judged: float | str | None = None
        self._saved_at = time.monotonic()
        process.set_up(self._trial.threads)
        seed_all(self._trial.seed)
        made_of = trainable_class(self._trial.trainable)
        settings.imported(self._trial.trainable)
        # What is there before the trial stays: with all modules, the collection after a trial takes half a second.
        gc.freeze()
        # Only the first trial of a process imports the module, which may draw random numbers.
        seed_all(self._trial.seed)
        self._made_of, self._folder = made_of, folder
        self.trainable = self._built()
        try:
            self._resume()
        except BaseException:
            with suppress(CodeError):
                self.trainable.close()
            raise

    def _built(self) -> UserTrainable:
        config = config_of(self._trial, self._confirms)
        return UserTrainable(self._trial.trainable, self._made_of, config, self._folder)

    def advance(self) -> StepReport:
        """The next report, with the confirm run's result if it is the last."""
        started = time.monotonic()
        step = self.trainable.step()
        if self._last is None and self.trainable.starts_again:
            self._epoch, self._judged, self._known = 0, None, {}
        if step.report is None:
            if self._epoch == 0:
                raise CodeError(f"{self._trial.trainable} ended without a report; call ray.tune.report(...)")
            self.done = True
            return self._answer(0.0, None, ended=True)
        reported = read_report(self._trial, step.report, confirms=self._confirms, not_theirs=RAYS)
        self._epoch += 1
        self._judged, self._known = reported.judged, dict(reported.values)
        self.done = step.ended or self._epoch >= self._trial.epochs or reported.diverged is not None
        if not self.done:
            self._save(reported)
        seconds = time.monotonic() - started
        self._last = OwnReport(self._epoch, reported.values, seconds, reported.diverged)
        return self._answer(seconds, reported.diverged, ended=step.ended)

    def _answer(self, seconds: float, diverged: str | None, ended: bool) -> StepReport:
        result = None
        if self.done and self._confirms and diverged is None:
            judged = judged_number(self._trial, self._judged, self._known)
            if math.isfinite(judged):
                device = device_name(torch.device("cuda" if self._trial.gpu and torch.cuda.is_available() else "cpu"))
                result = OwnResult({self._trial.judge: judged}, device)
            else:
                diverged = f"{self._trial.judge} is {judged}"
                # If it ended without another report, the report is one that was given before.
                self._last = OwnReport(self._epoch, self._known, seconds, diverged)
        return StepReport(self._options["attempt"], self._last, result, ended=ended)

    def _save(self, reported: Reported) -> None:
        now = time.monotonic()
        if now - self._saved_at < self._options["checkpoint_s"]:
            return
        saved = self.trainable.save()
        if saved is None:
            return
        files, counters = saved
        # The judge metric is in the note of confirm runs only: an attempt that resumes after the last report needs it.
        note = {"values": dict(reported.values), "judged": reported.judged, "counters": counters}
        attempt = self._options["attempt"]
        checkpoints.save(self._options["checkpoints"], files, self._epoch, attempt, json.dumps(note))
        self._saved_at = now

    def _resume(self) -> None:
        for found in checkpoints.read(self._options["checkpoints"], self._options["accepted"]):
            note = json.loads(found.note)
            counters: Counters = note["counters"]
            # Not the random numbers of the first reports again; ``load_checkpoint`` may set its own.
            seed = derive_seed(self._trial.seed, "resumed", found.epoch)
            seed_all(seed)
            if self.trainable.restore(found.state, counters, opened=partial(seed_all, seed)):
                self._epoch, self._judged, self._known = found.epoch, note["judged"], note["values"]
            else:
                # Ray has set the counters of the checkpoint already, and the method may have changed other things.
                with suppress(CodeError):
                    self.trainable.close()
                seed_all(self._trial.seed)
                self.trainable = self._built()
            if self._epoch == 0 or self.trainable.starts_again:
                # It has no checkpoint, or is a function, which may never open it.
                seed_all(self._trial.seed)
            return


@contextmanager
def _short_errors() -> Iterator[None]:
    """Raise errors of the user's code as one line; their traceback goes to the worker's output."""
    try:
        yield
    except CodeError as error:
        if error.__cause__ is None:
            raise
        traceback.print_exception(error.__cause__)
        raise CodeError(str(error)) from None


def config_of(trial: OwnTrial, confirms: bool) -> dict[str, Any]:
    """What the trainable gets: the knobs and fixed values, and the keys that the spec passes."""
    extra = {"seed": trial.seed % MOST_SEED, "read_test": confirms}
    return {**trial.config, **{key: extra[key] for key in trial.passed}}


def seed_all(seed: int) -> None:
    """Seed the random numbers of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**63)
