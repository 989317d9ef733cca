"""Runs a dispatcher's attempts on made-up learning curves, in made-up time: thousands of trials in seconds.

Only the training is made up. The source of trials, the early stopper, the journal and the studies are the real ones.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from trainables.config import TrialConfig
from trainables.own.trial import OwnTrial
from trainables.report import Report, Result, StepReport
from trainables.simulated import simulated
from trainables.space import Plan
from tuner.execution.dispatcher import Attempt, Dispatcher
from tuner.jobs.stop import StopRequest
from tuner.storage.events import Stage


class Clock:
    """Made-up seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The made-up time."""
        return self.now


class Training(Protocol):
    """What replaces a training: as ``SimulatedTraining``."""

    def report(self, epoch: int) -> Report:
        """The report of an epoch, from 1."""

    def test(self) -> Result:
        """The result on the test images after the last epoch."""


def no_fault(attempt: Attempt, epoch: int) -> str | None:
    """Nothing ever fails."""
    return None


@dataclass(frozen=True)
class Simulation:
    """How trials are made up.

    Args:
        plan: length of a trial.
        concurrent: trials at once.
        clock: moves forward as epochs take their time.
        fault: called before each epoch of an attempt; the text it returns is the error that the attempt fails with.
        training: makes the learning curve of a trial from its config and its length.
    """

    plan: Plan
    concurrent: int
    clock: Clock
    fault: Callable[[Attempt, int], str | None] = no_fault
    training: Callable[[Any, Plan], Training] = simulated


def simulate(dispatcher: Dispatcher, simulation: Simulation, stop: StopRequest) -> None:
    """Run all attempts; returns when every trial has ended, or once ``stop`` is set.

    Raises:
        Exception: an error of the dispatcher's source or journal.
    """
    workers = _Workers(dispatcher, simulation)
    while not stop and dispatcher.failure is None:
        while workers.running < simulation.concurrent and workers.start():
            pass
        if not workers.running:
            break
        workers.step()
    if dispatcher.failure is not None:
        raise dispatcher.failure


def _plan(plan: Plan, trial: TrialConfig | OwnTrial) -> Plan:
    return plan.with_batch(trial.batch_size) if isinstance(trial, TrialConfig) else plan


class _Workers:
    """Running attempts, by the time when their next epoch ends."""

    def __init__(self, dispatcher: Dispatcher, simulation: Simulation) -> None:
        self._dispatcher = dispatcher
        self._simulation = simulation
        self._started = 0
        # The number is unique and comes before the report, which cannot be compared.
        self._due: list[tuple[float, int, Attempt, StepReport]] = []

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
        self._simulation.clock.now, number, attempt, report = heapq.heappop(self._due)
        assert report.epoch is not None, "a simulated trial reports every epoch"
        epoch = report.epoch.epoch
        if error := self._simulation.fault(attempt, epoch):
            self._dispatcher.fail(str(number), error)
        elif self._dispatcher.report(str(number), report):
            self._train(number, attempt, epoch + 1)
        else:
            self._dispatcher.end(str(number), report)

    def _train(self, number: int, attempt: Attempt, epoch: int) -> None:
        plan, clock = self._simulation.plan, self._simulation.clock
        trial = attempt.request.trial
        training = self._simulation.training(trial, _plan(plan, trial))
        report = training.report(epoch)
        confirms = attempt.request.stage == Stage.CONFIRM and epoch == plan.epochs
        step = StepReport(attempt.number, report, training.test() if confirms else None)
        heapq.heappush(self._due, (clock.now + report.seconds, number, attempt, step))
