"""Runs a dispatcher's attempts on Ray: one actor of the trainable an attempt. It decides nothing itself."""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError

from trainables.file_store import files_at, inside, split
from tuner.errors import DriverLost, ServiceError
from tuner.execution.capacity import Capacity
from tuner.execution.dispatcher import CHECKPOINT_S, Attempt, Dispatcher
from tuner.execution.ray_workers import Call, Worker, Workers
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.record import Stage
from tuner.jobs.stop import StopRequest
from tuner.search.asha import EarlyStopper
from tuner.storage.file_lock import FileLock
from tuner.storage.shared_files import store_errors

LONELY_S = 60.0
"""A worker that is not called for so long stops itself: its node is cut off, or its driver is gone."""
POLL_S = 0.1
"""How long a report is waited for before signals, orders and places are looked at again."""
_NOWHERE_TO_WRITE = re.compile(r"^(?:trainables\.errors\.)?(?:DiskFull|StoreError): (.+)$", re.MULTILINE)
"""Errors that are the job's, not the trial's: every other one would meet them too."""
_OOM = ("OutOfMemoryError", "out of memory")
_USED = re.compile(r"memory used=([\d.]+)GB")
_USERS = re.compile(r"^\d+\s+([\d.]+)\s+ray::TrialTrainable", re.MULTILINE)
"""Of the largest processes on a node, as Ray lists them: the memory of those that are trials."""


def execute(
    dispatcher: Dispatcher,
    workers: Workers,
    *,
    folder: JobFolder,
    cache: Path,
    room: Capacity,
    stop: StopRequest,
    lock: FileLock,
    early_stopper: EarlyStopper | None = None,
    metric: str = "",
) -> None:
    """Run all attempts; returns when every trial has ended, or soon after ``stop`` is set.

    Args:
        dispatcher: what runs.
        workers: what they run on; those that are idle in the end are kept.
        folder: the job's; checkpoints and weights go there.
        cache: decoded data.
        room: says how many may run at once.
        stop: asks it to stop.
        lock: is told that the driver lives.
        early_stopper: stops trials early, by their reported ``metric``.

    Raises:
        DriverLost: Ray died, and has to be started again; the trials that ran continue then.
        Exception: what the dispatcher's source or journal raised.
    """
    loop = _Loop(dispatcher, workers, folder, cache, early_stopper, metric)
    try:
        while not stop and dispatcher.failure is None:
            lock.beat()
            most = room.trials(dispatcher.running, dispatcher.more, dispatcher.waits)
            loop.start(most)
            workers.trim(most)
            if not dispatcher.running:
                break
            loop.end_the_overdue()
            loop.hear()
    except RayError as error:
        raise DriverLost(f"Ray died: {str(error).splitlines()[0]}") from error
    finally:
        loop.leave()
    if dispatcher.failure is not None:
        raise dispatcher.failure


@dataclass(frozen=True)
class _Run:
    """An attempt and the worker that makes it."""

    attempt_id: str
    attempt: Attempt
    worker: Worker


class _Loop:
    def __init__(
        self,
        dispatcher: Dispatcher,
        workers: Workers,
        folder: JobFolder,
        cache: Path,
        early_stopper: EarlyStopper | None,
        metric: str,
    ) -> None:
        self._dispatcher = dispatcher
        self._workers = workers
        self._folder = folder
        self._cache = cache
        self._early_stopper = early_stopper
        self._metric = metric
        self._calls: dict[Call, _Run] = {}
        self._ids = map(str, itertools.count())

    def start(self, most: int) -> None:
        """Start attempts while there are some and fewer than ``most`` run."""
        while self._dispatcher.running < most:
            attempt_id = next(self._ids)
            attempt = self._dispatcher.start(attempt_id)
            if attempt is None:
                return
            run = _Run(attempt_id, attempt, self._workers.take())
            self._calls[run.worker.begin(self._config(attempt))] = run

    def end_the_overdue(self) -> None:
        """End the workers of attempts that take too long; what they were called for fails then."""
        self._workers.poll()
        for run in self._calls.values():
            self._dispatcher.placed(run.attempt_id, waits=not run.worker.up)
        overdue = set(self._dispatcher.overdue())
        for run in self._calls.values():
            if run.attempt_id in overdue:
                ray.kill(run.worker.actor)

    def hear(self) -> None:
        """Wait a moment for reports, and do what follows from those that have come."""
        come, still = ray.wait(list(self._calls), num_returns=1, timeout=POLL_S)
        if still:
            come += ray.wait(still, num_returns=len(still), timeout=0)[0]
        for call in come:
            run = self._calls.pop(call)
            try:
                result = ray.get(call)
            except RayError as error:
                self._failed(run, error)
            else:
                self._reported(run, result)

    def leave(self) -> None:
        """End the workers of attempts that still run."""
        for run in self._calls.values():
            self._workers.end(run.worker)

    def _reported(self, run: _Run, result: dict[str, Any]) -> None:
        self._dispatcher.report(run.attempt_id, result)
        if not result["done"] and not self._stops(run, result):
            self._calls[run.worker.go_on()] = run
            return
        self._workers.release(run.worker, result["done"])
        try:
            with store_errors():
                _keep_weights(run.attempt)
        except ServiceError as error:
            self._dispatcher.failure = error
            return
        self._dispatcher.end(run.attempt_id, result)
        self._folder.forget_checkpoints(run.attempt.request.key)

    def _failed(self, run: _Run, error: RayError) -> None:
        self._workers.end(run.worker)
        text = str(error)
        if full := _NOWHERE_TO_WRITE.search(text):
            self._dispatcher.failure = ServiceError(full[1])
        oom = any(sign in text for sign in _OOM)
        if isinstance(error, OutOfMemoryError):
            oom, text = _guilty(text), _killed_for_memory(text)
        if self._dispatcher.fail(run.attempt_id, text, oom):
            self._folder.forget_checkpoints(run.attempt.request.key)

    def _stops(self, run: _Run, result: dict[str, Any]) -> bool:
        judged = run.attempt.request.judged
        if self._early_stopper is None or judged is None:
            return False
        return self._early_stopper.stops(judged, result["epoch"], result[self._metric])

    def _config(self, attempt: Attempt) -> dict[str, Any]:
        request = attempt.request
        weights = None if request.weights_path is None else _unfinished(request.weights_path, attempt)
        return {
            "trial": request.trial.to_dict(),
            "cache_dir": str(self._cache),
            "read_test": request.stage == Stage.CONFIRM,
            "weights_path": weights,
            "attempt": attempt.number,
            "checkpoints": self._folder.checkpoints(request.key),
            "accepted": attempt.accepted,
            "checkpoint_s": CHECKPOINT_S,
            "lonely_s": LONELY_S,
        }


def _guilty(text: str) -> bool:
    """Whether Ray killed the trial that used most: it may as well kill one that stands in another's way."""
    return _used_gb(text) >= max(map(float, _USERS.findall(text)), default=0.0)


def _killed_for_memory(text: str) -> str:
    return f"killed for memory: its worker used {_used_gb(text):g} GB"


def _used_gb(text: str) -> float:
    found = _USED.search(text)
    return float(found[1]) if found else 0.0


def _keep_weights(attempt: Attempt) -> None:
    """Give what a finished attempt left the name that its weights are looked for under."""
    weights = attempt.request.weights_path
    if weights is not None:
        (folder, name), (_, unfinished) = split(weights), split(_unfinished(weights, attempt))
        files_at(folder).rename(unfinished, name)


def _unfinished(weights: str, attempt: Attempt) -> str:
    """Where an attempt leaves its weights: one that was given up must not write over those of a later one."""
    folder, name = split(weights)
    return inside(folder, f".{name}.{attempt.number}")
