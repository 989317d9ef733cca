"""Which attempt at which trial runs next, and what its reports come to: the same on Ray and in a simulation.

A trial is run in numbered attempts. The number is its fence: what an earlier attempt still reports is refused, and an
attempt continues only from checkpoints of epochs that are on record. Nothing here is kept but for speed: the journal,
folded into the record, and the source's studies say how every trial stands.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from tuner.jobs.record import Record, State
from tuner.search.trial_request import TrialOutcome, TrialRequest, TrialSource
from tuner.spec.settings import ResourcesSpec
from tuner.storage.journal import Journal

T = TypeVar("T")

REPORTED = ("epoch", "train_loss", "train_acc", "val_loss", "val_acc", "lr", "weight_decay", "seconds")
RESULT = ("test_acc", "test_loss", "weights_sha256", "device")
CHECKPOINT_S = 1.0
"""What a new attempt may have to train again: the seconds since a checkpoint, of which there is not one an epoch."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a trial.

    Args:
        request: the trial.
        number: from 1; its fence.
        accepted: epochs on record that it may continue after and the attempt that reported each, newest first.
    """

    request: TrialRequest
    number: int
    accepted: tuple[tuple[int, int], ...]


@dataclass
class _Running:
    attempt: Attempt
    heard_at: float
    waits: bool = False
    """For a free place on the cluster."""
    ending: str | None = None
    """Why it was told to end; None while it may go on."""


class Dispatcher:
    """Hands out attempts, hears their reports, and tells the source how each trial ended.

    An executor calls ``start`` whenever it has room and the others as an attempt's worker speaks; it names attempts by
    ids of its own. What ``source`` or the journal raises is kept in ``failure``: the executor then has to stop.

    Args:
        source: where trials come from.
        journal: where everything is written first.
        record: what the journal says; grows as it is written.
        limits: retries, and how long a trial may take and be silent.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        source: TrialSource,
        journal: Journal,
        record: Record,
        limits: ResourcesSpec,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failure: Exception | None = None
        self._source = source
        self._journal = journal
        self._record = record
        self._limits = limits
        self._clock = clock
        self._more = True
        self._again: deque[TrialRequest] = deque()
        self._running: dict[str, _Running] = {}
        self._failures: Counter[tuple[str, int]] = Counter()

    @property
    def running(self) -> int:
        """How many attempts run; each may have to be made again."""
        return len(self._running)

    @property
    def waits(self) -> bool:
        """Whether all attempts that run wait for a free place."""
        return bool(self._running) and all(running.waits for running in self._running.values())

    @property
    def more(self) -> bool:
        """Whether there may be others to start, as far as the last one that was asked for tells."""
        return self._more

    def start(self, attempt_id: str) -> Attempt | None:
        """The next attempt to run, or None if there is nothing to run now; there is later only if ``running``."""
        return self._guarded(lambda: self._start(attempt_id))

    def report(self, attempt_id: str, result: Mapping[str, Any]) -> None:
        """An attempt has trained one more epoch; a report of a fenced-off one is refused."""
        running = self._current(attempt_id, result)
        if running is None:
            return
        running.heard_at = self._clock()
        request = running.attempt.request
        # An attempt that found no good checkpoint trains epochs again that are on record.
        new = result["epoch"] > len(self._record.trials[request.key].epochs)
        kind, keys = ("epoch", REPORTED) if new else ("again", REPORTED[:1])
        report = {key: result[key] for key in keys}
        self._guarded(lambda: self._journal.append(kind, trial=request.key, attempt=running.attempt.number, **report))

    def end(self, attempt_id: str, result: Mapping[str, Any]) -> None:
        """An attempt has ended well, with its last result: complete, diverged or stopped by the scheduler."""
        running = self._current(attempt_id, result)
        if running is None:
            return
        request = self._running.pop(attempt_id).attempt.request
        if result["diverged"]:
            self._ended(request, State.DIVERGED, result["diverged"])
        elif result["epoch"] == request.trial.epochs:
            self._ended(request, State.COMPLETE, None, {key: result[key] for key in RESULT if key in result})
        else:
            self._ended(request, State.PRUNED, None)

    def fail(self, attempt_id: str, error: str, oom: bool = False) -> bool:
        """An attempt has ended badly: the trial is tried again, unless it failed too often without getting further.

        Args:
            attempt_id: which.
            error: what is known of it.
            oom: it was killed for memory, as it would be again.

        Returns:
            Whether that was the trial's end.
        """
        running = self._running.pop(attempt_id, None)
        if running is None:
            return False
        request = running.attempt.request
        progress = (request.key, len(self._record.trials[request.key].epochs))
        self._failures[progress] += 1
        if oom:
            self._ended(request, State.OOM, error)
        elif running.ending is not None:
            self._ended(request, State.FAILED, running.ending)
        elif self._failures[progress] > self._limits.retries:
            self._ended(request, State.FAILED, error)
        else:
            self._again.append(request)
            self._more = True
            return False
        return True

    def placed(self, attempt_id: str, waits: bool) -> None:
        """Whether an attempt still waits for a free place: until it has one, it is not late."""
        running = self._running.get(attempt_id)
        if running is not None:
            if waits or running.waits:
                running.heard_at = self._clock()
            running.waits = waits

    def overdue(self) -> Iterator[str]:
        """Ids of attempts whose workers have to be ended: silent for too long, or of a trial that takes too long."""
        now = self._clock()
        for attempt_id, running in self._running.items():
            if now - running.heard_at > 60 * self._limits.silent_minutes:
                yield attempt_id
            cap = self._limits.trial_hours
            trial = self._record.trials[running.attempt.request.key]
            if cap is not None and trial.seconds + now - running.heard_at > 3600 * cap:
                running.ending = f"took longer than resources.trial_hours ({cap:g} h)"
                yield attempt_id

    def _start(self, attempt_id: str) -> Attempt | None:
        request = self._again.popleft() if self._again else self._source.next()
        self._more = request is not None
        if request is None:
            return None
        if request.key not in self._record.trials:
            self._journal.append(
                "trial",
                trial=request.key,
                stage=request.stage,
                arm=request.arm,
                number=request.number,
                seed=request.trial.seed,
                round=request.round,
                hyper=request.trial.to_dict()["hyper"],
                knobs=dict(request.knobs),
            )
        trial = self._record.trials[request.key]
        done = list(enumerate(trial.reporters, start=1))
        # Of the last epoch there is no checkpoint: it is what an attempt leaves to be trained.
        accepted = tuple(reversed(done[: request.trial.epochs - 1]))
        attempt = Attempt(request, trial.attempts + 1, accepted)
        self._journal.append("attempt", trial=request.key, attempt=attempt.number, epoch=len(done))
        self._running[attempt_id] = _Running(attempt, self._clock())
        return attempt

    def _current(self, attempt_id: str, result: Mapping[str, Any]) -> _Running | None:
        running = self._running.get(attempt_id)
        return running if running is not None and result["attempt"] == running.attempt.number else None

    def _ended(
        self, request: TrialRequest, state: State, reason: str | None, result: Mapping[str, Any] | None = None
    ) -> None:
        def end() -> None:
            self._journal.append("end", trial=request.key, state=state, reason=reason, result=result or {})
            self._source.ended(request, TrialOutcome(state, tuple(self._record.trials[request.key].epochs), reason))

        self._guarded(end)

    def _guarded(self, call: Callable[[], T]) -> T | None:
        # The executor's own loop must not take it for a failed trial: it is the job's.
        if self.failure is not None:
            return None
        try:
            return call()
        except Exception as error:
            self.failure = error
            return None
