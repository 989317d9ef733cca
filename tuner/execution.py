"""Runs a stream of trials on Ray Tune and writes what they report to the journal; it decides nothing itself."""

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from trainables.trainable import TrialTrainable
from tuner.journal import Journal
from tuner.limits import ResourcesSpec
from tuner.record import Stage, State
from tuner.work import Ended, Source, Stop, Work

T = TypeVar("T")

# A trial's error is journaled, and told once; Tune would print each with its traceback, several times.
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

REPORTED = ("epoch", "train_loss", "train_acc", "val_loss", "val_acc", "lr", "weight_decay", "seconds")
RESULT = ("test_acc", "test_loss", "weights_sha256", "device")


class _Stopped(Exception):
    """Raised inside Tune's loop to leave it."""


@dataclass
class _Running:
    work: Work
    epochs: list[Mapping[str, Any]] = field(default_factory=list)


def execute(
    source: Source,
    *,
    journal: Journal,
    resources: ResourcesSpec,
    concurrent: int,
    cache_dir: Path,
    stop: Stop,
    scheduler: FIFOScheduler | None = None,
) -> None:
    """Run all of ``source``'s trials; returns when they have ended, or soon after ``stop`` is set.

    Raises whatever ``source`` raised. Tune's own files go to a folder that is removed: the truth is elsewhere.
    """
    loop = _Loop(source, journal, cache_dir, stop)
    with tempfile.TemporaryDirectory(prefix="tuner-tune-") as scratch:
        experiment = tune.Tuner(
            tune.with_resources(TrialTrainable, {"cpu": resources.cpus, "gpu": resources.gpus}),
            tune_config=tune.TuneConfig(
                search_alg=_Feed(loop),
                scheduler=scheduler or FIFOScheduler(),
                num_samples=-1,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                callbacks=[_Watch(loop)],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=resources.retries),
            ),
        )
        try:
            experiment.fit()
        except Exception:
            # Tune wraps what a callback raises; the loop kept the original.
            if loop.failure is None and not stop:
                raise
    if loop.failure is not None:
        raise loop.failure


class _Loop:
    """The state shared by the searcher (asks) and the callback (hears) of one Tune run."""

    def __init__(self, source: Source, journal: Journal, cache_dir: Path, stop: Stop) -> None:
        self.failure: Exception | None = None
        self._source = source
        self._journal = journal
        self._cache_dir = cache_dir
        self._stop = stop
        self._running: dict[str, _Running] = {}

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        # Tune saves what it is given so that it can restore a run; ours continue from the studies and the journal.
        return object, ()

    def check(self) -> None:
        if self._stop or self.failure is not None:
            raise _Stopped

    def start(self, trial_id: str) -> dict[str, Any] | None:
        work = self._guarded(self._source.next)
        if work is None:
            return None
        self._running[trial_id] = _Running(work)
        self._journal.append(
            "trial",
            trial=work.key,
            stage=work.stage,
            arm=work.arm,
            number=work.number,
            seed=work.trial.seed,
            round=work.round,
            hyper=work.trial.to_dict()["hyper"],
        )
        return {
            "trial": work.trial.to_dict(),
            "cache_dir": str(self._cache_dir),
            "read_test": work.stage == Stage.CONFIRM,
            "weights_path": None if work.weights_path is None else str(work.weights_path),
            "place": {"arm": work.arm, "bracket": work.bracket, "judged": work.judged, "comparable": work.comparable},
        }

    def report(self, trial_id: str, result: Mapping[str, Any]) -> None:
        running = self._running[trial_id]
        # A retried attempt trains its first epochs again, to the same bits: they are already on record.
        if result["epoch"] > len(running.epochs):
            report = {key: result[key] for key in REPORTED}
            running.epochs.append(report)
            self._journal.append("epoch", trial=running.work.key, **report)

    def end(self, trial_id: str, result: Mapping[str, Any]) -> None:
        work = self._running[trial_id].work
        if result["diverged"]:
            self._end(trial_id, State.DIVERGED, result["diverged"])
        elif result["epoch"] == work.trial.epochs:
            self._end(trial_id, State.COMPLETE, None, {key: result[key] for key in RESULT if key in result})
        else:
            self._end(trial_id, State.PRUNED, None)

    def fail(self, trial_id: str, error: str) -> None:
        self._end(trial_id, State.FAILED, error)

    def _end(self, trial_id: str, state: State, reason: str | None, result: Mapping[str, Any] | None = None) -> None:
        running = self._running.pop(trial_id)
        self._journal.append("end", trial=running.work.key, state=state, reason=reason, result=result or {})
        ended = Ended(state, tuple(running.epochs), reason)
        self._guarded(lambda: self._source.ended(running.work, ended))

    def _guarded(self, call: Callable[[], T]) -> T | None:
        # Tune turns an exception in a hook into a failed trial; it is ours, so keep it and leave the loop.
        try:
            return call()
        except Exception as error:
            self.failure = self.failure or error
            return None


class _Feed(Searcher):
    def __init__(self, loop: _Loop) -> None:
        super().__init__()
        self._loop = loop

    # FINISHED is a string, which Searcher's own annotation forgets.
    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]
        return self._loop.start(trial_id) or Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Heard by the callback, which is also told the error."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the studies and the journal are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a fresh Tune run continues from the studies and the journal."""


class _Watch(tune.Callback):
    def __init__(self, loop: _Loop) -> None:
        self._loop = loop

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        self._loop.check()

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        self._loop.report(trial.trial_id, result)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._loop.end(trial.trial_id, trial.last_result)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._loop.fail(trial.trial_id, _error_text(trial))


def _error_text(trial: TuneTrial) -> str:
    if trial.error_file and os.path.exists(trial.error_file):
        return Path(trial.error_file).read_text()
    return "the worker died without a word"
