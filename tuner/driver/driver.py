"""The driver: it runs one job from where it stands to its verdict, in this process tree.

The journal says what was done. The driver reads it and does the rest. It may die at any moment: the next one continues.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuner.driver.context import Context
from tuner.driver.job import Job
from tuner.driver.prepare import Prepared, prepare
from tuner.driver.session import held, session, study_writer
from tuner.errors import SearchFailed
from tuner.jobs.record import Record, Round, Trial
from tuner.search.confirm_trials import FixedSource, confirm_requests, confirm_seeds, selection_requests
from tuner.search.search_trials import SearchSource, early_stopper
from tuner.search.study_database import StudyWriter
from tuner.search.winners import test_accuracies, winners
from tuner.storage.events import LOST, JobStateChanged, RoundBegun, Stage


@dataclass(frozen=True)
class NewRound:
    """A round of confirm runs to add, unless an earlier driver has added it: its number, and how many fresh seeds."""

    number: int
    seeds: int


def drive(context: Context, data_path: str | None = None, new_round: NewRound | None = None) -> None:
    """Do what is left of a job: search, confirm, judge, export and report.

    Args:
        context: the job's folder, who watches it and who may stop it.
        data_path: where its data lies now, if it was moved.
        new_round: a round of confirm runs to add.

    Raises:
        TrainableError: the data or the user's code is not right. If the job had not begun, its folder is removed.
        SearchFailed: the baseline, or every variant, has no winner; or the first trials all failed.
        Interrupted: a signal came.
        DriverLost: another driver must continue.
    """
    with held(context) as holding:
        record = holding.reading.record
        try:
            prepared, studies = _prepare(context, record, data_path)
        except Exception:
            if not record.begun and holding.replicator is None:
                context.folder.forget()
            raise
        with session(context, prepared, holding, studies) as job:
            if not record.begun:
                job.journal.append(job.description())
            job.journal.append(JobStateChanged("running"))
            with job.backend.up(), context.view.watching(prepared.spec, record, prepared.concurrent):
                if not record.rounds:
                    _search(job)
                    _begin_round(job, NewRound(1, prepared.spec.confirm.seeds))
                elif new_round is not None and len(record.rounds) < new_round.number:
                    _begin_round(job, new_round)
                _confirm(job, record.rounds[-1])


def _prepare(context: Context, record: Record, data_path: str | None) -> tuple[Prepared, StudyWriter | None]:
    prepared = prepare(context, record, data_path)
    folder = context.folder
    context.view.announce(f"job {folder.id}, {prepared.concurrent} trials at once, journal in {folder.path}")
    return prepared, study_writer(context, prepared, record.begun)


def _search(job: Job) -> None:
    prepared, record = job.prepared, job.record
    spec, plan = prepared.spec, prepared.plan
    source = SearchSource(spec, prepared.arms, plan, record, concurrent=prepared.concurrent, clock=job.backend.clock)
    job.execute(source, early_stopper(spec, plan, record))
    if requests := selection_requests(record, spec):
        job.execute(FixedSource(requests, record))
    chosen = winners(record, spec)
    if spec.baseline not in chosen or len(chosen) < 2:
        raise SearchFailed(_why_no_winners(record, chosen))


def _begin_round(job: Job, new: NewRound) -> None:
    spec = job.prepared.spec
    chosen = {arm: trial.number for arm, trial in winners(job.record, spec).items()}
    job.journal.append(RoundBegun(new.number, confirm_seeds(spec, new.number, new.seeds), chosen))


def _confirm(job: Job, confirm_round: Round) -> None:
    spec, number = job.prepared.spec, confirm_round.number
    chosen = winners(job.record, spec)
    requests = confirm_requests(spec, chosen, confirm_round, job.context.folder.weights)
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
