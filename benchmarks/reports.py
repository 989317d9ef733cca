"""What a report costs the driver: 1,000 made-up workers that report at once, and tiny actors on a real Ray.

The loop, the dispatcher, the record, the journal on the disk, the study and the lines of progress are the real ones.
Only the training is made up: every epoch ends at once.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from benchmarks.measuring import Figure, Goal, Result, say
from cluster.runtime import embedded_ray
from trainables.data.request import ImageCounts
from trainables.report import EpochReport, StepReport
from trainables.space import Plan
from tuner.execution.capacity import FixedCapacity
from tuner.execution.dispatcher import Dispatcher
from tuner.execution.ray_executor import RayExecutor
from tuner.execution.ray_workers import Workers
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.record import Record
from tuner.jobs.stop import StopRequest
from tuner.monitor.terminal import Lines
from tuner.search.search_trials import SearchSource
from tuner.spec.arms import Arm, arms
from tuner.spec.search_spec import SearchSpec, from_document, to_dict
from tuner.spec.strict_yaml import read_text
from tuner.storage.events import ArmDescription, Entry, EpochReported, JobDescribed
from tuner.storage.file_lock import locked
from tuner.storage.journal import Journal

SPEC = """\
name: reports
data: {{name: digits}}
model: {{name: elu_net}}
claim: setting
baseline: adam_l2
arms: [adam_l2, {{variant: adam_l2, name: again}}]
budget: {{trials: {trials}, epochs: {epochs}}}
sampler: random
scheduler: none
"""
MADE_UP, EPOCHS = 1000, 100
"""Made-up workers at once, and reports of each trial."""
ACTORS, TRIALS_OF_ACTORS = 16, 64
"""Actors of Ray at once, and their trials."""


def measure(pairs: int, made_up: int = MADE_UP, epochs: int = EPOCHS, actors: int = ACTORS) -> Result:
    """Measure both kinds of workers ``pairs`` times."""
    rates, wall, costs, with_ray = [], [], [], []
    for _ in range(pairs):
        spent = run_workers(made_up, 2 * made_up, epochs, MadeUpActor)
        rates.append(spent.reports / spent.cpu_s)
        wall.append(spent.reports / spent.wall_s)
        say(f"{made_up} made-up workers: {rates[-1]:.0f} reports/s of CPU, {wall[-1]:.0f} of wall time")
    with tempfile.TemporaryDirectory(prefix="tb", dir="/tmp") as scratch, embedded_ray(actors, 0, Path(scratch), ()):
        for _ in range(pairs):
            spent = run_workers(actors, TRIALS_OF_ACTORS, epochs, _start_tiny())
            costs.append(1e6 * spent.cpu_s / spent.reports)
            with_ray.append(1e6 * spent.process_s / spent.reports)
            say(f"{actors} actors: {costs[-1]:.0f} µs of the loop per report, {with_ray[-1]:.0f} with Ray's threads")
    how = (
        f"Two arms train {2 * made_up:,} trials of {epochs} reports with the random sampler. Each report follows the"
        f" one before at once. First, {made_up:,} made-up workers report at once, without Ray. Then, {actors} tiny"
        f" actors of a real Ray train {TRIALS_OF_ACTORS} trials. The figures are CPU times from the first report to the"
        " end, with the asks and the ends of the trials. The loop has one thread. The process also has Ray's own"
        " threads and the thread that syncs the journal."
    )
    return Result(
        how,
        figures=(
            Figure(
                f"Reports of {made_up:,} made-up workers, per second of CPU",
                "reports/s",
                tuple(rates),
                Goal(5000, "least"),
            ),
            Figure("The same, per second of wall time", "reports/s", tuple(wall)),
            Figure(f"CPU of the loop per report of {actors} actors", "µs", tuple(costs)),
            Figure("The same, with Ray's threads in the driver", "µs", tuple(with_ray)),
        ),
    )


@dataclass(frozen=True)
class Spent:
    """What some reports cost: CPU of the loop's thread, CPU of the process, and wall time, in seconds."""

    reports: int
    cpu_s: float
    process_s: float
    wall_s: float


def run_workers(
    at_once: int,
    trials: int,
    epochs: int,
    start: Callable[[], Any],
    on_event: Callable[[Entry], None] = lambda entry: None,
) -> Spent:
    """Run a search on the real loop.

    Args:
        at_once: workers.
        trials: trials of both arms together.
        epochs: reports of each trial.
        start: starts a worker.
        on_event: called with every entry of the journal.

    Returns:
        The cost from the first report to the end.
    """
    spec = from_document(read_text(SPEC.format(trials=trials // 2, epochs=epochs), "reports.yaml"))
    plan, record, view = Plan(epochs, 10), Record(), _Silent()
    found = arms(spec, plan)
    record.add(Entry(0, 0, 0.0, described(spec, found, plan)))
    spent = _Stopwatch()

    def note(entry: Entry) -> None:
        record.add(entry)
        view.on_event(entry, record)
        if isinstance(entry.event, EpochReported):
            spent.count()
        on_event(entry)

    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = JobFolder(Path(name))
        source = SearchSource(spec, found, plan, record, concurrent=at_once)
        with (
            closing(Journal(folder.journal, note)) as journal,
            locked(folder.lock_file, folder.id) as lock,
            view.watching(spec, record, at_once),
        ):
            workers = Workers(start)
            executor = RayExecutor(workers, folder, Path(name), FixedCapacity(at_once), StopRequest(), lock)
            executor.run(Dispatcher(source, journal, record, spec.resources))
            found_cost = spent.cost()
            # Workers of a real Ray end; made-up ones only stop being used.
            if ray.is_initialized():
                workers.close()
    return found_cost


def described(spec: SearchSpec, found: Sequence[Arm], plan: Plan) -> JobDescribed:
    """The event with which a made-up job begins."""
    return JobDescribed(
        job="made-up",
        simulated=True,
        spec=to_dict(spec),
        spec_sha256="0" * 64,
        arms=tuple(ArmDescription(arm.name, arm.variant, {}, {}, arm.default) for arm in found),
        plan=plan,
        data_fingerprint="simulated",
        data_images=ImageCounts(100, 100, 100),
        concurrent=1,
        versions={},
        machine={},
        git_commit="none",
        folder=".",
    )


class _Silent(Lines):
    """Makes the lines of progress and prints none of them."""

    def announce(self, text: str) -> None:
        """Do nothing."""


class _Stopwatch:
    """Counts reports, and measures from the first one."""

    def __init__(self) -> None:
        self._reports = 0
        self._began = (0.0, 0.0, 0.0)

    def count(self) -> None:
        """Note a report."""
        if not self._reports:
            self._began = self._now()
        self._reports += 1

    def cost(self) -> Spent:
        """The cost since the first report."""
        return Spent(self._reports, *(now - began for now, began in zip(self._now(), self._began, strict=True)))

    def _now(self) -> tuple[float, float, float]:
        return time.thread_time(), time.process_time(), time.perf_counter()


class _Ended:
    """A call that has ended, with the part of Ray's ``ObjectRef`` that the loop uses."""

    def __init__(self, report: Any) -> None:
        self._report = report

    def future(self) -> "Future[Any]":
        """The report."""
        done: Future[Any] = Future()
        done.set_result(self._report)
        return done


class _Method:
    """A method of an actor: a call of ``remote`` ends at once."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def remote(self, *args: Any) -> _Ended:
        """Call it."""
        return _Ended(self._call(*args))


def made_up_report(epoch: int, attempt: int) -> dict[str, Any]:
    """The answer of a worker that trains nothing."""
    return StepReport(attempt, EpochReport(epoch, 1.0, 0.5, 1.0, 0.5, 1e-3, 0.0, 1.0)).to_dict()


class MadeUpActor:
    """A worker in this process that has trained each epoch as soon as it is asked to."""

    def __init__(self) -> None:
        self._epoch = self._attempt = 0
        self.__ray_ready__ = _Method(lambda: None)
        self.begin = _Method(self._begin)
        self.train = _Method(self._train)
        self.stop = _Method(lambda: None)

    def _begin(self, config: Mapping[str, Any]) -> dict[str, Any]:
        self._epoch, self._attempt = 0, config["attempt"]
        return self._train()

    def _train(self) -> dict[str, Any]:
        self._epoch += 1
        return made_up_report(self._epoch, self._attempt)


def _start_tiny() -> Callable[[], Any]:
    """Starts tiny actors of Ray. Their class goes to them as it is, so they import nothing of ours."""
    first = made_up_report(0, 0)

    class Tiny:
        def __init__(self) -> None:
            self.report = first

        def begin(self, config: Mapping[str, Any]) -> dict[str, Any]:
            self.report = {**self.report, "epoch": 0, "attempt": config["attempt"]}
            return self.train()

        def train(self) -> dict[str, Any]:
            self.report = {**self.report, "epoch": self.report["epoch"] + 1}
            return self.report

        def stop(self) -> None:
            pass

    actor = ray.remote(num_cpus=0)(Tiny)
    start: Callable[[], Any] = actor.remote
    return start
