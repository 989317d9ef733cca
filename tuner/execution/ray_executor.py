"""Runs a dispatcher's attempts on Ray: one actor per attempt. It decides nothing itself."""

import itertools
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from trainables.errors import TrainableError
from trainables.file_store import files_at, inside, split
from trainables.report import HAUNTED, StepReport
from tuner.errors import DriverLost, ServiceError
from tuner.execution.capacity import Capacity
from tuner.execution.dispatcher import CHECKPOINT_S, Attempt, Dispatcher
from tuner.execution.ray_workers import Worker, Workers
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.stop import StopRequest
from tuner.storage.events import Stage
from tuner.storage.file_lock import FileLock
from tuner.storage.shared_files import store_errors

LONELY_S = 60.0
"""A worker without a call for this time ends itself: its node is cut off, or its driver is gone."""
POLL_S = 0.1
"""Longest wait for a report before signals, instructions and places are checked again."""
_NOWHERE_TO_WRITE = re.compile(r"^(?:trainables\.errors\.)?(?:DiskFull|StoreError): (.+)$", re.MULTILINE)
"""Errors that concern the job and not one trial: every other trial would meet them too."""
_OOM = ("OutOfMemoryError", "out of memory")
_USED = re.compile(r"memory used=([\d.]+)GB")
_USERS = re.compile(r"^\d+\s+([\d.]+)\s+ray::(?:TrialTrainable|OwnWorker)", re.MULTILINE)
"""Memory of each trial in Ray's list of the largest processes on a node."""


@dataclass(frozen=True)
class RayExecutor:
    """Runs attempts on the workers of one job.

    Args:
        workers: what the attempts run on; the idle ones are kept when a run ends.
        folder: the job's; checkpoints and weights go there.
        cache: folder of decoded data.
        capacity: how many trials may run at once.
        stop: asks the executor to stop.
        lock: the job's; a sign of life is written to it.
    """

    workers: Workers
    folder: JobFolder
    cache: Path
    capacity: Capacity
    stop: StopRequest
    lock: FileLock

    def run(self, dispatcher: Dispatcher) -> None:
        """Run all attempts; returns when every trial has ended, or soon after ``stop`` is set.

        Raises:
            DriverLost: Ray died and must be started again; the running trials continue then.
            Exception: an error of the dispatcher's source or journal.
        """
        loop = _Loop(dispatcher, self.workers, self.folder, self.cache)
        try:
            while not self.stop and dispatcher.failure is None:
                self.lock.beat()
                most = self.capacity.trials(dispatcher.running, dispatcher.more, dispatcher.waits)
                loop.start(most)
                self.workers.trim(most)
                if not dispatcher.running:
                    break
                loop.end_the_overdue()
                loop.poll()
        except RayError as error:
            raise DriverLost(f"Ray died: {str(error).splitlines()[0]}") from error
        finally:
            loop.leave()
        if dispatcher.failure is not None:
            raise dispatcher.failure


@dataclass(frozen=True)
class _Run:
    """An attempt on a worker, and the dispatcher's name for it."""

    attempt_id: str
    attempt: Attempt


class _Loop:
    def __init__(self, dispatcher: Dispatcher, workers: Workers, folder: JobFolder, cache: Path) -> None:
        self._dispatcher = dispatcher
        self._workers = workers
        self._folder = folder
        self._cache = cache
        self._runs: dict[Worker, _Run] = {}
        self._looked_at = -POLL_S
        self._ids = map(str, itertools.count())

    def start(self, most: int) -> None:
        """Start attempts while there are some and fewer than ``most`` run."""
        while self._dispatcher.running < most:
            attempt_id = next(self._ids)
            attempt = self._dispatcher.start(attempt_id)
            if attempt is None:
                return
            worker = self._workers.take()
            self._runs[worker] = _Run(attempt_id, attempt)
            self._workers.begin(worker, self._config(attempt))

    def end_the_overdue(self) -> None:
        """End the workers of attempts that take too long; their calls fail then. Looks once per ``POLL_S``."""
        if time.monotonic() - self._looked_at < POLL_S:
            return
        self._looked_at = time.monotonic()
        for worker, run in self._runs.items():
            self._dispatcher.placed(run.attempt_id, waits=not worker.up)
        overdue = set(self._dispatcher.overdue())
        for worker, run in self._runs.items():
            if run.attempt_id in overdue:
                ray.kill(worker.actor)

    def poll(self) -> None:
        """Wait a moment for reports, and act on those that have arrived."""
        for worker, answer in self._workers.arrived(POLL_S):
            if isinstance(answer, RayError):
                self._failed(worker, answer)
            elif answer.keys() == {HAUNTED}:
                self._moved(worker)
            else:
                self._reported(worker, StepReport.from_dict(answer), haunted=HAUNTED in answer)

    def leave(self) -> None:
        """End the workers of attempts that still run."""
        for worker in self._runs:
            self._workers.end(worker)

    def _moved(self, worker: Worker) -> None:
        """Start an attempt on another worker: this one still runs a function of the trial before, and began nothing."""
        run = self._runs.pop(worker)
        self._workers.end(worker)
        another = self._workers.take()
        self._runs[another] = run
        self._workers.begin(another, self._config(run.attempt))

    def _reported(self, worker: Worker, report: StepReport, haunted: bool) -> None:
        run = self._runs[worker]
        if self._dispatcher.report(run.attempt_id, report):
            self._workers.train(worker)
            return
        del self._runs[worker]
        if haunted:
            self._workers.end(worker)
        else:
            self._workers.release(worker, expects_call=not run.attempt.ends_with(report))
        try:
            with store_errors():
                _keep_weights(run.attempt)
        except ServiceError as error:
            self._dispatcher.failure = error
            return
        self._dispatcher.end(run.attempt_id, report)
        self._folder.forget_checkpoints(run.attempt.request.key)

    def _failed(self, worker: Worker, error: RayError) -> None:
        run = self._runs.pop(worker)
        self._workers.end(worker)
        text = str(error)
        if full := _NOWHERE_TO_WRITE.search(text):
            self._dispatcher.failure = ServiceError(full[1])
        oom = any(sign in text for sign in _OOM)
        if isinstance(error, OutOfMemoryError):
            oom = _guilty(text)
        if self._dispatcher.fail(run.attempt_id, reason_of(error), oom):
            self._folder.forget_checkpoints(run.attempt.request.key)

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


def reason_of(error: RayError) -> str:
    """Why an attempt failed. An error that is one clear line is that line, without Ray's traceback around it."""
    if isinstance(error, OutOfMemoryError):
        return _killed_for_memory(str(error))
    cause = error.cause if isinstance(error, RayTaskError) else None
    return str(cause if isinstance(cause, TrainableError) else error)


def _guilty(text: str) -> bool:
    """Whether the killed trial used the most memory; Ray may kill a small trial although another one is to blame."""
    return _used_gb(text) >= max(map(float, _USERS.findall(text)), default=0.0)


def _killed_for_memory(text: str) -> str:
    return f"killed for memory: its worker used {_used_gb(text):g} GB"


def _used_gb(text: str) -> float:
    found = _USED.search(text)
    return float(found[1]) if found else 0.0


def _keep_weights(attempt: Attempt) -> None:
    """Give the weights of a finished attempt their final name."""
    weights = attempt.request.weights_path
    if weights is not None:
        (folder, name), (_, unfinished) = split(weights), split(_unfinished(weights, attempt))
        files_at(folder).rename(unfinished, name)


def _unfinished(weights: str, attempt: Attempt) -> str:
    """Where an attempt writes its weights: an attempt that was given up must not overwrite those of a later one."""
    folder, name = split(weights)
    return inside(folder, f".{name}.{attempt.number}")
