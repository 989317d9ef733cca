"""Runs a dispatcher's attempts on Ray Tune: one Tune trial an attempt. It decides nothing itself."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from trainables.files import files_at, inside, split
from trainables.trainable import TrialTrainable
from tuner.dispatch import Attempt, Dispatcher
from tuner.errors import DriverLost, ServiceError
from tuner.home import JobFolder
from tuner.lease import Lease
from tuner.limits import ResourcesSpec
from tuner.record import Stage
from tuner.room import Room
from tuner.scheduling import Judge
from tuner.shared import explained
from tuner.work import Stop

# A trial's error is journaled, and told once; Tune would print each with its traceback, several times.
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

# Tune hands these secrets to its workers on their command line, where all of the machine can read them, and in a log.
# Workers have the environment that Ray was started with.
class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}

LONELY_S = 60.0
"""A worker that is not called for so long stops itself: its node is cut off, or its driver is gone."""
_NOWHERE_TO_WRITE = re.compile(r"^(?:trainables\.errors\.)?(?:DiskFull|StoreError): (.+)$", re.MULTILINE)
"""Errors that are the job's, not the trial's: every other one would meet them too."""
_KILLED = re.compile(r"Actor\(([0-9a-f]+)\).*?memory used=([\d.]+)GB")
_OOM = ("OutOfMemoryError", "out of memory")


class _Stopped(Exception):
    """Raised inside Tune's loop to leave it."""


def execute(
    dispatcher: Dispatcher,
    *,
    folder: JobFolder,
    cache: Path,
    scratch: Path,
    resources: ResourcesSpec,
    room: Room,
    stop: Stop,
    lease: Lease,
    judge: Judge | None = None,
    metric: str = "",
) -> None:
    """Run all attempts; returns when every trial has ended, or soon after ``stop`` is set.

    Args:
        dispatcher: what runs.
        folder: the job's; checkpoints and weights go there.
        cache: decoded data.
        scratch: a folder for Tune's own files, which are worth nothing afterwards.
        resources: what each trial gets.
        room: says how many may run at once.
        stop: asks it to stop.
        lease: is told that the driver lives.
        judge: stops trials early, by their reported ``metric``.

    Raises:
        DriverLost: Tune died, and Ray with it has to be started again; the trials that ran continue then.
        Exception: what the dispatcher's source or journal raised.
    """
    watch = _Watch(dispatcher, folder, room, stop, lease)
    experiment = tune.Tuner(
        tune.with_resources(TrialTrainable, {"cpu": resources.cpus, "gpu": resources.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=_Feed(dispatcher, folder, cache, room),
            scheduler=FIFOScheduler() if judge is None else _Scheduler(dispatcher, judge, metric),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(scratch),
            callbacks=[watch],
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            # Another attempt is a trial of Tune's own: its number is in its config.
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    try:
        experiment.fit()
    except Exception as error:
        if dispatcher.failure is None and not stop:
            watch.blame(error)
            raise DriverLost(f"Ray Tune died: {str(error).splitlines()[0]}") from error
    if dispatcher.failure is not None:
        raise dispatcher.failure


class _Unsaved:
    """Tune saves what it is given so that it can restore a run; ours continue from the studies and the journal."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class _Feed(_Unsaved, Searcher):
    def __init__(self, dispatcher: Dispatcher, folder: JobFolder, cache: Path, room: Room) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self._room = room
        self._folder = folder
        self._cache = cache

    # FINISHED is a string, which Searcher's own annotation forgets.
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        if self._dispatcher.running >= _room(self._room, self._dispatcher):
            return None
        attempt = self._dispatcher.start(trial_id)
        if attempt is not None:
            return self._config(attempt)
        # While others run, one of them may have to be tried again: Tune asks later.
        return None if self._dispatcher.running else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Heard by the callback, which is also told the error."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the studies and the journal are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a fresh Tune run continues from the studies and the journal."""

    def _config(self, attempt: Attempt) -> dict[str, Any]:
        work = attempt.work
        weights = None if work.weights_path is None else _unfinished(work.weights_path, attempt)
        return {
            "trial": work.trial.to_dict(),
            "cache_dir": str(self._cache),
            "read_test": work.stage == Stage.CONFIRM,
            "weights_path": weights,
            "attempt": attempt.number,
            "checkpoints": self._folder.checkpoints(work.key),
            "accepted": attempt.accepted,
            "lonely_s": LONELY_S,
        }


class _Scheduler(_Unsaved, FIFOScheduler):
    def __init__(self, dispatcher: Dispatcher, judge: Judge, metric: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dispatcher = dispatcher
        self._judge = judge
        self._key = metric

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: Mapping[str, Any]) -> str:
        place = self._dispatcher.attempt(trial.trial_id).work.place
        stop = place is not None and self._judge.stops(place, result["epoch"], result[self._key])
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)


class _Watch(_Unsaved, tune.Callback):
    def __init__(self, dispatcher: Dispatcher, folder: JobFolder, room: Room, stop: Stop, lease: Lease) -> None:
        self._dispatcher = dispatcher
        self._folder = folder
        self._room = room
        self._stop = stop
        self._lease = lease
        self._actors: dict[str, str] = {}

    def blame(self, error: BaseException) -> None:
        """End the trial that Ray killed workers for: Tune does not survive it, and Ray says which only in words.

        Of several workers that were killed it is the one that used most; the others' trials continue.
        """
        if isinstance(error.__cause__, OutOfMemoryError):
            used = {actor: float(gb) for actor, gb in _KILLED.findall(str(error.__cause__))}
            killed = [trial_id for trial_id, actor in self._actors.items() if actor in used]
            if killed:
                guilty = max(killed, key=lambda trial_id: used[self._actors[trial_id]])
                gb = used[self._actors[guilty]]
                self._dispatcher.fail(guilty, f"killed for memory: its worker used {gb:g} GB", oom=True)

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        self._lease.beat()
        # Tune asks for no trial while one waits for a place, and what it waits for is to be told.
        _room(self._room, self._dispatcher)
        if self._stop or self._dispatcher.failure is not None:
            raise _Stopped
        overdue = set(self._dispatcher.overdue())
        for trial in trials:
            if trial.is_finished():
                continue
            self._dispatcher.placed(trial.trial_id, waits=trial.status == TuneTrial.PENDING)
            actor = trial.temporary_state.ray_actor
            if actor is not None:
                self._actors[trial.trial_id] = actor._actor_id.hex()
                if trial.trial_id in overdue:
                    ray.kill(actor)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        self._dispatcher.report(trial.trial_id, result)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        attempt = self._dispatcher.attempt(trial.trial_id)
        try:
            with explained():
                _keep_weights(attempt)
        except ServiceError as error:
            self._dispatcher.failure = error
            return
        self._dispatcher.end(trial.trial_id, trial.last_result)
        self._forget_checkpoints(attempt)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        error = _error_text(trial)
        if full := _NOWHERE_TO_WRITE.search(error):
            self._dispatcher.failure = ServiceError(full[1])
        attempt = self._dispatcher.attempt(trial.trial_id)
        if self._dispatcher.fail(trial.trial_id, error, oom=any(sign in error for sign in _OOM)):
            self._forget_checkpoints(attempt)

    def _forget_checkpoints(self, attempt: Attempt) -> None:
        self._folder.forget_checkpoints(attempt.work.key)


def _room(room: Room, dispatcher: Dispatcher) -> int:
    return room.trials(dispatcher.running, dispatcher.more, dispatcher.waits)


def _keep_weights(attempt: Attempt) -> None:
    """Give what a finished attempt left the name that its weights are looked for under."""
    weights = attempt.work.weights_path
    if weights is not None:
        (folder, name), (_, unfinished) = split(weights), split(_unfinished(weights, attempt))
        files_at(folder).rename(unfinished, name)


def _unfinished(weights: str, attempt: Attempt) -> str:
    """Where an attempt leaves its weights: one that was given up must not write over those of a later one."""
    folder, name = split(weights)
    return inside(folder, f".{name}.{attempt.number}")


def _error_text(trial: TuneTrial) -> str:
    if trial.error_file and os.path.exists(trial.error_file):
        return Path(trial.error_file).read_text()
    return "the worker died without a word"
