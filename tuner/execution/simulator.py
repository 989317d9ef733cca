"""Runs a dispatcher's attempts on made-up learning curves, in made-up time: thousands of trials in seconds.

Everything but the training is the real thing: the same source of trials, judge, journal and studies as on Ray.
"""

import heapq
from collections.abc import Callable
from typing import Any, Protocol

from trainables.config import TrialConfig
from trainables.simulated import SimulatedTraining
from trainables.space import Plan
from tuner.execution.dispatcher import Attempt, Dispatcher
from tuner.jobs.record import Stage
from tuner.jobs.stop import StopRequest
from tuner.search.asha import EarlyStopper


class Clock:
    """Made-up seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time it is."""
        return self.now


class Training(Protocol):
    """What stands in for a training: as ``SimulatedTraining``."""

    def report(self, epoch: int) -> dict[str, Any]:
        """What a training epoch, from 1, reports."""

    def test(self) -> dict[str, Any]:
        """What evaluating on the test images after the last epoch gives."""


def no_fault(attempt: Attempt, epoch: int) -> str | None:
    """Nothing ever fails."""
    return None


def simulate(
    dispatcher: Dispatcher,
    *,
    plan: Plan,
    concurrent: int,
    clock: Clock,
    stop: StopRequest,
    early_stopper: EarlyStopper | None = None,
    metric: str = "",
    fault: Callable[[Attempt, int], str | None] = no_fault,
    training: Callable[[TrialConfig, Plan], Training] = SimulatedTraining,
) -> None:
    """Run all attempts; returns when every trial has ended, or once ``stop`` is set.

    Args:
        dispatcher: what runs.
        plan: a trial's length.
        concurrent: trials at once.
        clock: is set forward as epochs take their time.
        stop: asks it to stop.
        early_stopper: stops trials early, by their reported ``metric``.
        fault: asked before each epoch of an attempt; a text that it gives is the error that the attempt dies of.
        training: a trial and its length to its learning curve.

    Raises:
        Exception: what the dispatcher's source or journal raised.
    """
    workers = _Workers(dispatcher, plan, clock, early_stopper, metric, fault, training)
    while not stop and dispatcher.failure is None:
        while workers.running < concurrent and workers.start():
            pass
        if not workers.running:
            break
        workers.step()
    if dispatcher.failure is not None:
        raise dispatcher.failure


class _Workers:
    """Attempts that run, by when their next epoch ends."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        plan: Plan,
        clock: Clock,
        early_stopper: EarlyStopper | None,
        metric: str,
        fault: Callable[[Attempt, int], str | None],
        training: Callable[[TrialConfig, Plan], Training],
    ) -> None:
        self._dispatcher = dispatcher
        self._plan = plan
        self._clock = clock
        self._early_stopper = early_stopper
        self._metric = metric
        self._fault = fault
        self._training = training
        self._started = 0
        # A number of its own comes before the report, which cannot be compared.
        self._due: list[tuple[float, int, Attempt, dict[str, Any]]] = []

    @property
    def running(self) -> int:
        return len(self._due)

    def start(self) -> bool:
        attempt = self._dispatcher.start(str(self._started))
        if attempt is None:
            return False
        self._started += 1
        self._train(self._started - 1, attempt, attempt.accepted[0][0] + 1 if attempt.accepted else 1)
        return True

    def step(self) -> None:
        self._clock.now, number, attempt, result = heapq.heappop(self._due)
        if error := self._fault(attempt, result["epoch"]):
            self._dispatcher.fail(str(number), error)
            return
        stopped = self._is_stopped(attempt, result)
        self._dispatcher.report(str(number), result)
        if stopped or result["diverged"] or result["epoch"] == self._plan.epochs:
            self._dispatcher.end(str(number), result)
        else:
            self._train(number, attempt, result["epoch"] + 1)

    def _is_stopped(self, attempt: Attempt, result: dict[str, Any]) -> bool:
        judged = attempt.request.judged
        if self._early_stopper is None or judged is None:
            return False
        return self._early_stopper.stops(judged, result["epoch"], result[self._metric])

    def _train(self, number: int, attempt: Attempt, epoch: int) -> None:
        training = self._training(attempt.request.trial, self._plan)
        result = training.report(epoch) | {"attempt": attempt.number}
        if attempt.request.stage == Stage.CONFIRM and epoch == self._plan.epochs:
            result |= training.test()
        heapq.heappush(self._due, (self._clock.now + result["seconds"], number, attempt, result))
