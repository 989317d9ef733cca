"""A job that runs here: its journal, its record, and how it executes a stream of trials."""

from dataclasses import dataclass
from pathlib import Path

from trainables.catalog import is_dotted
from tuner.driver.backend import Backend
from tuner.driver.context import Context
from tuner.driver.prepare import Prepared
from tuner.errors import Interrupted
from tuner.execution.dispatcher import Dispatcher
from tuner.jobs.provenance import git_commit, machine, versions
from tuner.jobs.record import Record
from tuner.search.asha import EarlyStopper
from tuner.search.trial_request import TrialSource
from tuner.spec.search_spec import fingerprint, to_dict
from tuner.storage.events import ArmDescription, JobDescribed
from tuner.storage.journal import Journal


@dataclass(frozen=True)
class Job:
    """A job that runs here.

    Args:
        context: the driver's.
        prepared: what was checked before the job started.
        journal: open; everything is written to it first.
        record: what the journal says so far.
        backend: what the trials run on.
    """

    context: Context
    prepared: Prepared
    journal: Journal
    record: Record
    backend: Backend

    def execute(self, source: TrialSource, early_stopper: EarlyStopper | None = None) -> None:
        """Run a stream of trials.

        Raises:
            Interrupted: a signal came; everything done so far is in the journal.
            DriverLost: Ray died.
        """
        spec, stop, job_id = self.prepared.spec, self.context.stop, self.context.folder.id
        dispatcher = Dispatcher(
            source,
            self.journal,
            self.record,
            spec.resources,
            early_stopper=early_stopper,
            clock=self.backend.clock,
        )
        self.backend.run(dispatcher)
        if stop.failure is not None:
            raise stop.failure
        if stop.signal_number is not None:
            raise Interrupted(
                f"job {job_id} was interrupted; resume it with: tuner resume {job_id}", stop.signal_number
            )

    def description(self) -> JobDescribed:
        """The event with which the job begins."""
        prepared, folder = self.prepared, self.context.folder
        code = folder.started()["folder"]
        return JobDescribed(
            job=folder.id,
            simulated=prepared.simulated,
            spec=to_dict(prepared.spec),
            spec_sha256=fingerprint(prepared.spec),
            arms=tuple(
                ArmDescription(
                    name=arm.name,
                    variant=arm.variant,
                    space={knob: str(domain) for knob, domain in arm.space.items()},
                    fixed=dict(arm.fixed),
                    default=dict(arm.default),
                )
                for arm in prepared.arms
            ),
            plan=prepared.plan,
            data_fingerprint=prepared.fingerprint,
            data_images=prepared.images,
            concurrent=prepared.concurrent,
            versions=dict(versions()),
            machine=dict(machine()),
            git_commit=git_commit(Path(code)),
            folder=code,
            classes=prepared.classes,
            contiguous=is_dotted(prepared.spec.model.name),
        )
