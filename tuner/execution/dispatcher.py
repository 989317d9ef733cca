"""Decides which attempt at which trial runs next, and takes in its reports: the same on Ray and in a simulation.

A trial runs in numbered attempts. The number is a fence: a report of an older attempt is refused, and an attempt
continues only from checkpoints of epochs that are on record. The dispatcher keeps nothing of its own: the record, which
is the folded journal, says how every trial stands.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from trainables.own.trial import OwnTrial
from trainables.report import Report, StepReport
from tuner.jobs.record import Record
from tuner.search.asha import EarlyStopper
from tuner.search.trial_request import TrialOutcome, TrialRequest, TrialSource
from tuner.spec.settings import ResourcesSpec
from tuner.storage.events import AttemptBegun, EpochRepeated, EpochReported, State, TrialBegun, TrialEnded
from tuner.storage.journal import Journal

T = TypeVar("T")

CHECKPOINT_S = 1.0
"""Shortest time between two checkpoints. A new attempt repeats at most this much training."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a trial.

    Args:
        request: the trial.
        number: from 1; its fence.
        accepted: (epoch, attempt) of the reports on record that it may continue after, newest first.
    """

    request: TrialRequest
    number: int
    accepted: tuple[tuple[int, int], ...]

    def ends_with(self, report: StepReport) -> bool:
        """Whether the trial ends by itself: with its last epoch, because it diverged, or an own trainable says so."""
        epoch = report.epoch
        return report.ended or (
            epoch is not None and (bool(epoch.diverged) or epoch.epoch == self.request.trial.epochs)
        )


@dataclass
class _Running:
    attempt: Attempt
    heard_at: float
    waits: bool = False
    """Whether it waits for a free place on the cluster."""
    ending: str | None = None
    """Why its worker was ended; None while it may continue."""


class Dispatcher:
    """Hands out attempts, takes in their reports, and hands the outcome of each trial to the source.

    An executor calls ``start`` whenever it has capacity, and the other methods when a worker reports. It names attempts
    by ids of its own. An error of the source or the journal is kept in ``failure``; the executor must then stop.

    Args:
        source: where trials come from.
        journal: where everything is written first.
        record: what the journal says; it grows as the journal is written.
        limits: retries, and how long a trial may take and may be silent.
        early_stopper: stops trials early; None stops none.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        source: TrialSource,
        journal: Journal,
        record: Record,
        limits: ResourcesSpec,
        *,
        early_stopper: EarlyStopper | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failure: Exception | None = None
        self._source = source
        self._journal = journal
        self._record = record
        self._limits = limits
        self._early_stopper = early_stopper
        self._clock = clock
        self._more = True
        self._again: deque[TrialRequest] = deque()
        self._running: dict[str, _Running] = {}
        self._failures: Counter[tuple[str, int]] = Counter()
        self._asked_again: set[str] = set()
        """Trials that were stopped early, unless they ended by themselves with the same report."""

    @property
    def running(self) -> int:
        """How many attempts run; each may have to be repeated."""
        return len(self._running)

    @property
    def waits(self) -> bool:
        """Whether all running attempts wait for a free place."""
        return bool(self._running) and all(running.waits for running in self._running.values())

    @property
    def more(self) -> bool:
        """Whether more trials may come, as far as the last call of ``start`` tells."""
        return self._more

    def start(self, attempt_id: str) -> Attempt | None:
        """The next attempt to run, or None if there is none now; another may come only while some are ``running``."""
        return self._guarded(lambda: self._start(attempt_id))

    def report(self, attempt_id: str, report: StepReport) -> bool:
        """Take in the report of one more epoch; the report of an older attempt is refused.

        Returns:
            Whether the trial continues: it has epochs left, has not diverged and is not stopped early.
        """
        running = self._current(attempt_id, report)
        if running is None:
            return False
        running.heard_at = self._clock()
        request, epoch = running.attempt.request, report.epoch
        on_record = len(self._record.trials[request.key].epochs)
        if epoch is None or (report.ended and epoch.epoch == on_record):
            return False
        # An attempt that found no good checkpoint repeats epochs that are on record.
        is_new = epoch.epoch > on_record
        event = (
            EpochReported(request.key, report.attempt, epoch)
            if is_new
            else EpochRepeated(request.key, report.attempt, epoch.epoch)
        )
        self._guarded(lambda: self._journal.append(event))
        # The stopper knows every report that has not diverged, also the last one of a trial that ends by itself. One
        # that is rebuilt from the record knows them too.
        stopped = not epoch.diverged and self._is_stopped(request, epoch)
        if request.key in self._asked_again and epoch.epoch >= on_record:
            stopped = True
        return not running.attempt.ends_with(report) and not stopped

    def end(self, attempt_id: str, report: StepReport) -> None:
        """An attempt has ended well, with its last report: complete, diverged or stopped early."""
        running = self._current(attempt_id, report)
        if running is None:
            return
        request, epoch = self._running.pop(attempt_id).attempt.request, report.epoch
        if epoch is not None and epoch.diverged:
            self._end(TrialEnded(request.key, State.DIVERGED, epoch.diverged, None), request)
        elif running.attempt.ends_with(report):
            self._end(TrialEnded(request.key, State.COMPLETE, None, report.result), request)
        else:
            self._end(TrialEnded(request.key, State.PRUNED, None, None), request)

    def fail(self, attempt_id: str, error: str, oom: bool = False) -> bool:
        """An attempt has failed: its trial is retried, unless it failed too often without progress.

        Args:
            attempt_id: which attempt.
            error: what is known about the failure.
            oom: the attempt was killed for memory. It would be killed again, so the trial is not retried.

        Returns:
            Whether the trial has ended.
        """
        running = self._running.pop(attempt_id, None)
        if running is None:
            return False
        request = running.attempt.request
        progress = (request.key, len(self._record.trials[request.key].epochs))
        self._failures[progress] += 1
        if oom:
            self._end(TrialEnded(request.key, State.OOM, error, None), request)
        elif running.ending is not None:
            self._end(TrialEnded(request.key, State.FAILED, running.ending, None), request)
        elif self._failures[progress] > self._limits.retries:
            self._end(TrialEnded(request.key, State.FAILED, error, None), request)
        else:
            self._again.append(request)
            self._more = True
            return False
        return True

    def placed(self, attempt_id: str, waits: bool) -> None:
        """Note whether an attempt still waits for a free place; until it has one, it is not late."""
        running = self._running.get(attempt_id)
        if running is not None:
            if waits or running.waits:
                running.heard_at = self._clock()
            running.waits = waits

    def overdue(self) -> Iterator[str]:
        """Ids of attempts whose workers must be ended: they are silent for too long, or their trial takes too long."""
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
        request = self._next()
        self._more = request is not None
        if request is None:
            return None
        if request.key not in self._record.trials:
            self._journal.append(_begun(request))
        trial = self._record.trials[request.key]
        done = list(enumerate(trial.reporters, start=1))
        # The last epoch of a trial has no checkpoint: an attempt always has an epoch left to train.
        before_last = len(done) - 1 if request.key in self._asked_again else request.trial.epochs - 1
        accepted = tuple(reversed(done[:before_last]))
        attempt = Attempt(request, trial.attempts + 1, accepted)
        self._journal.append(AttemptBegun(request.key, attempt.number, len(done)))
        self._running[attempt_id] = _Running(attempt, self._clock())
        return attempt

    def _next(self) -> TrialRequest | None:
        while (request := self._again.popleft() if self._again else self._source.next()) is not None:
            if self._early_stopper is None or not self._early_stopper.has_stopped(request.key):
                return request
            # Its driver died between the report that stopped it and its end. An own trainable may have ended by itself
            # with this report, which the journal does not know. So it makes the report again.
            if isinstance(request.trial, OwnTrial):
                self._asked_again.add(request.key)
                return request
            self._write_end(TrialEnded(request.key, State.PRUNED, None, None), request)
        return None

    def _current(self, attempt_id: str, report: StepReport) -> _Running | None:
        running = self._running.get(attempt_id)
        return running if running is not None and report.attempt == running.attempt.number else None

    def _is_stopped(self, request: TrialRequest, epoch: Report) -> bool:
        stopper = self._early_stopper
        if stopper is None or request.judged is None:
            return False
        return stopper.stops(request.judged, epoch.epoch, epoch.metric(stopper.metric))

    def _end(self, event: TrialEnded, request: TrialRequest) -> None:
        self._guarded(lambda: self._write_end(event, request))

    def _write_end(self, event: TrialEnded, request: TrialRequest) -> None:
        self._journal.append(event)
        epochs = tuple(self._record.trials[request.key].epochs)
        self._source.ended(request, TrialOutcome(event.state, epochs, event.reason))

    def _guarded(self, call: Callable[[], T]) -> T | None:
        # The executor must not mistake this error for a failed trial: it concerns the whole job.
        if self.failure is not None:
            return None
        try:
            return call()
        except Exception as error:
            self.failure = error
            return None


def _begun(request: TrialRequest) -> TrialBegun:
    return TrialBegun(
        trial=request.key,
        stage=request.stage,
        arm=request.arm,
        number=request.number,
        seed=request.trial.seed,
        round=request.round,
        hyper=dict(request.setting),
        knobs=dict(request.knobs),
        search=request.search,
    )
