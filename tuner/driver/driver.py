"""The driver: one job from where it stands to its verdict, in this process tree.

What a job came to is in its journal and its studies. The driver reads both, does what is still to be done and may die
at any moment: the next one goes on from there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.driver.job import Job, job_event
from tuner.driver.prepare import Prepared, prepare
from tuner.driver.session import locked_job, open_job
from tuner.errors import SearchFailed
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.record import LOST, Record, Round, Stage, Trial, load_record
from tuner.jobs.stop import StopRequest
from tuner.jobs.workspace import Workspace
from tuner.monitor.terminal import View
from tuner.search.confirm_trials import FixedSource, confirm_requests, confirm_seeds, selection_requests
from tuner.search.search_trials import SearchSource, early_stopper
from tuner.search.winners import test_accuracies, winners
from tuner.storage.file_lock import locked


@dataclass(frozen=True)
class NewRound:
    """A round of confirm runs to add, unless a driver before this one has: its number, and how many fresh seeds."""

    number: int
    seeds: int


def drive(
    workspace: Workspace,
    folder: JobFolder,
    scratch: Path,
    view: View,
    stop: StopRequest,
    data_path: str | None = None,
    new_round: NewRound | None = None,
) -> None:
    """Do what is still to be done of a job: search, confirm, judge, export and report.

    Args:
        workspace: where its data, studies and runs are.
        folder: the job's.
        scratch: a folder for files that are worth nothing afterwards; sockets lie in it, so its name is short.
        view: where progress is shown.
        stop: set from a signal handler.
        data_path: where its data lies now, if not where it did.
        new_round: a round of confirm runs to add.

    Raises:
        TrainableError: the data or the user's code are not right; if the job had not begun, its folder is gone.
        SearchFailed: the baseline, or every variant, has no winner; or the first trials all failed.
        Interrupted: a signal came.
        DriverLost: another driver has to go on.
    """
    with locked(folder.lock_file, folder.id) as lock, locked_job(folder, stop, view) as replicator:
        begun = folder.journal.exists() and bool(load_record(folder.journal).job)
        try:
            prepared = prepare(workspace, folder, begun, data_path, stop, view)
        except Exception:
            if not begun and replicator is None:
                folder.forget()
            raise
        with open_job(prepared, workspace, folder, scratch, lock, replicator, stop, view) as job:
            if not job.record.job:
                job.journal.append("job", **job_event(job, prepared))
            job.journal.append("state", state="running")
            with job.ray(prepared.code), view.watching(job.spec, job.record, job.concurrent):
                if not job.record.rounds:
                    _search(job, prepared, view)
                    _begin_round(job, NewRound(1, job.spec.confirm.seeds))
                elif new_round is not None and len(job.record.rounds) < new_round.number:
                    _begin_round(job, new_round)
                _confirm(job, job.record.rounds[-1])


def _search(job: Job, prepared: Prepared, view: View) -> None:
    spec, plan = job.spec, prepared.plan
    source = SearchSource(spec, plan, prepared.studies, job.make_trial, job.concurrent, job.record, job.clock)
    # A simulated job's studies end with every driver.
    if source.rebuilt and not prepared.simulated:
        arms = ", ".join(source.rebuilt)
        view.announce(f"warning: the studies of {arms} did not agree with the journal; they are made again from it")
    job.execute(source, early_stopper(spec, plan, job.record))
    if requests := selection_requests(job.record, spec, job.make_trial):
        job.execute(FixedSource(requests, job.record))
    chosen = winners(job.record, spec)
    if spec.baseline not in chosen or len(chosen) < 2:
        raise SearchFailed(_why_no_winners(job.record, chosen))


def _begin_round(job: Job, new: NewRound) -> None:
    job.journal.append(
        "confirm",
        round=new.number,
        seeds=confirm_seeds(job.spec, new.number, new.seeds),
        winners={arm: trial.number for arm, trial in winners(job.record, job.spec).items()},
    )


def _confirm(job: Job, confirm_round: Round) -> None:
    spec, number = job.spec, confirm_round.number
    chosen = winners(job.record, spec)
    requests = confirm_requests(spec, chosen, confirm_round.seeds, number, job.make_trial, job.folder.weights)
    job.execute(FixedSource(requests, job.record))
    tested = [arm for arm in chosen if test_accuracies(job.record, arm, number)]
    if spec.baseline not in tested or len(tested) < 2:
        raise SearchFailed(_why_no_verdict(job.record, [arm for arm in chosen if arm not in tested], number))


def _why_no_winners(record: Record, chosen: Mapping[str, object]) -> str:
    missing = [arm for arm in record.arms if arm not in chosen]
    lost = [trial for trial in record.of(Stage.SEARCH) if trial.arm in missing]
    return f"no trial of {', '.join(missing)} trained to its end, so there is nothing to compare{_first_failure(lost)}"


def _why_no_verdict(record: Record, missing: Sequence[str], round_number: int) -> str:
    lost = [trial for trial in record.of(Stage.CONFIRM, round_number=round_number) if trial.arm in missing]
    return f"no confirm run of {', '.join(missing)} trained to its end, so there is no verdict{_first_failure(lost)}"


def _first_failure(trials: Sequence[Trial]) -> str:
    lost = [trial for trial in trials if trial.state in LOST]
    return f"; the first of {len(lost)} failures:\n{lost[0].reason}" if lost else ""
