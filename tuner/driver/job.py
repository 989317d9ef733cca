"""A job that runs here: the parts it works with, and how it executes a stream of trials."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.runtime import connected_ray, embedded_ray, on_cluster, usable_gpus
from trainables.config import TrialConfig
from trainables.hyper import Hyper
from trainables.space import Plan
from tuner.driver.prepare import Prepared
from tuner.errors import Interrupted
from tuner.execution.capacity import Capacity, FairShare, FixedCapacity
from tuner.execution.dispatcher import Dispatcher
from tuner.execution.ray_executor import execute
from tuner.execution.ray_workers import Workers
from tuner.execution.simulator import Clock, simulate
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.provenance import git_commit, machine, versions
from tuner.jobs.record import Record
from tuner.jobs.replication import Replicator
from tuner.jobs.stop import StopRequest
from tuner.jobs.workspace import Workspace
from tuner.search.asha import EarlyStopper
from tuner.search.trial_request import TrialSource
from tuner.spec.search_spec import SearchSpec, fingerprint, to_dict
from tuner.spec.trial_config import trial_config
from tuner.storage.file_lock import FileLock
from tuner.storage.journal import Event, Journal


@dataclass
class Job:
    """A job that runs here: its spec, its folder, its journal and what the journal says so far."""

    spec: SearchSpec
    workspace: Workspace
    folder: JobFolder
    journal: Journal
    record: Record
    concurrent: int
    scratch: Path
    lock: FileLock
    stop: StopRequest
    replicator: Replicator | None
    plan: Plan
    simulated: Clock | None
    """The made-up time of a simulated job."""
    workers: Workers

    def make_trial(self, hyper: Hyper, seed: int) -> TrialConfig:
        """A trial of this job."""
        return trial_config(self.spec, hyper, seed)

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds of this job's time, monotonic."""
        return self.simulated or time.monotonic

    @contextmanager
    def ray(self, code: Path | None) -> Iterator[None]:
        """What the trials run on."""
        if self.simulated is not None:
            yield
            return
        resources = self.spec.resources
        gpus = usable_gpus() if resources.gpus else 0
        here = (code,) if code else ()
        with (
            connected_ray(code)
            if on_cluster()
            else embedded_ray(self.concurrent * resources.cpus, gpus, self.scratch, here)
        ):
            try:
                yield
            finally:
                self.workers.close()

    def room(self) -> Capacity:
        """How many trials may run at once."""
        if not on_cluster():
            return FixedCapacity(self.concurrent)
        assert self.replicator is not None, "a job of a cluster is in its database"
        return FairShare(self.folder.id, self.spec.resources, self.replicator)

    def execute(self, source: TrialSource, early_stopper: EarlyStopper | None = None) -> None:
        """Run a stream of trials.

        Raises:
            Interrupted: a signal came; everything done so far is in the journal.
            DriverLost: Ray died.
        """
        dispatcher = Dispatcher(source, self.journal, self.record, self.spec.resources, self.clock)
        if self.simulated is None:
            execute(
                dispatcher,
                self.workers,
                folder=self.folder,
                cache=self.workspace.cache,
                room=self.room(),
                stop=self.stop,
                lock=self.lock,
                early_stopper=early_stopper,
                metric=self.spec.metric.key,
            )
        else:
            simulate(
                dispatcher,
                plan=self.plan,
                concurrent=self.concurrent,
                clock=self.simulated,
                stop=self.stop,
                early_stopper=early_stopper,
                metric=self.spec.metric.key,
            )
        if self.stop.failure is not None:
            raise self.stop.failure
        if self.stop.signal_number is not None:
            raise Interrupted(
                f"job {self.folder.id} was interrupted; go on with: tuner resume {self.folder.id}",
                self.stop.signal_number,
            )


def job_event(job: Job, prepared: Prepared) -> Event:
    plan, images, folder = prepared.plan, prepared.images, job.folder.started()["folder"]
    return {
        "job": job.folder.id,
        "simulated": prepared.simulated,
        "spec": to_dict(job.spec),
        "spec_sha256": fingerprint(job.spec),
        "arms": [
            {
                "name": arm.name,
                "variant": arm.variant,
                "space": {knob: str(domain) for knob, domain in arm.space.items()},
                "fixed": dict(arm.fixed),
                "default": dict(arm.default),
            }
            for arm in prepared.arms
        ],
        "plan": {"epochs": plan.epochs, "steps_per_epoch": plan.steps_per_epoch},
        "data_fingerprint": prepared.fingerprint,
        "data_images": dataclasses.asdict(images),
        "concurrent": job.concurrent,
        "versions": dict(versions()),
        "machine": dict(machine()),
        "git_commit": git_commit(Path(folder)),
        "folder": folder,
    }
