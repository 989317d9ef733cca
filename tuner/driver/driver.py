"""The driver: it runs one job from where it stands to its verdict, in this process tree.

The journal says what was done. The driver reads it and does the rest. It may die at any moment: the next one continues.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tuner.driver.context import Context
from tuner.driver.job import Job
from tuner.driver.prepare import Prepared, prepare
from tuner.driver.session import held, session, study_writer
from tuner.errors import SearchFailed, after_colon
from tuner.jobs.record import Record, Trial
from tuner.jobs.warm_start import earlier_trials
from tuner.monitor.terminal import look_line
from tuner.search.confirm_trials import FixedSource, confirm_requests, selection_requests
from tuner.search.search_trials import SearchSource, early_stopper
from tuner.search.searches import SearchesSource
from tuner.search.study_database import StudyWriter
from tuner.search.winners import confirm_values, of_round, winners
from tuner.spec.settings import LEAST_SEARCHES
from tuner.spec.trial_config import round_seeds
from tuner.storage.events import LOST, EarlierTrials, Extended, JobStateChanged, RoundBegun, Stage
from tuner.verdict.method import active_arms, next_look, take_look
from tuner.verdict.ranking import build


@dataclass(frozen=True)
class NewRound:
    """A round of confirm runs to add, unless an earlier driver has added it: its number, and how many fresh seeds."""

    number: int
    seeds: int


@dataclass(frozen=True)
class Extension:
    """More searches before the last look, unless an earlier driver has begun them: its number, and hours for them.

    Without hours, no time ends the searches.
    """

    number: int
    hours: float | None


def drive(context: Context, data_path: str | None = None, more: NewRound | Extension | None = None) -> None:
    """Do what is left of a job: search, confirm, judge, export and report.

    Args:
        context: the job's folder, who watches it and who may stop it.
        data_path: where its data lies now, if it was moved.
        more: what to add to a job that has ended: a round of confirm runs, or searches.

    Raises:
        TrainableError: the data or the user's code is not right. If the job had not begun, its folder is removed.
        SearchFailed: the baseline, or every variant, has no winner; or the first trials all failed.
        Interrupted: a signal came.
        DriverLost: another driver must continue.
    """
    with held(context) as holding:
        record = holding.reading.record
        try:
            prepared, earlier, studies = _prepare(context, record, data_path)
        except Exception:
            if not record.begun and holding.replicator is None:
                context.folder.forget()
            raise
        with session(context, prepared, holding, studies) as job:
            if not record.begun:
                job.journal.append(job.description())
            for event in earlier:
                job.journal.append(event)
            job.journal.append(JobStateChanged("running"))
            if isinstance(more, Extension) and len(record.extensions) < more.number:
                _extend(job, more)
            with job.backend.up(), context.view.watching(prepared.spec, record, prepared.concurrent):
                if record.searching:
                    arms = _search_until_settled(job) if prepared.spec.searches else _search(job)
                    if record.rounds and record.extended_after_the_last_look:
                        # Nothing new was found, so the last round is still the evidence.
                        job.journal.append(record.rounds[-1])
                    else:
                        _begin_round(job, NewRound(len(record.rounds) + 1, prepared.spec.confirm.seeds), arms)
                elif isinstance(more, NewRound) and len(record.rounds) < more.number:
                    _begin_round(job, more, record.arms)
                _confirm(job, record.rounds[-1])


def _prepare(
    context: Context, record: Record, data_path: str | None
) -> tuple[Prepared, Sequence[EarlierTrials], StudyWriter | None]:
    prepared = prepare(context, record, data_path)
    folder = context.folder
    earlier = tuple(
        earlier_trials(
            context.workspace,
            folder.id,
            record,
            prepared.spec,
            prepared.arms,
            prepared.plan,
            prepared.fingerprint,
            simulated=prepared.simulated,
        )
    )
    for event in earlier:
        context.view.announce(f"the sampler of {event.arm} learns from {len(event.trials)} trials of job {event.job}")
    context.view.announce(f"job {folder.id}, {prepared.concurrent} trials at once, journal in {folder.path}")
    return prepared, earlier, study_writer(context, prepared, record.begun)


def _extend(job: Job, more: Extension) -> None:
    record = job.record
    until_s = None if more.hours is None else record.active_s + 3600 * more.hours
    job.journal.append(Extended(more.number, len(record.looks), until_s))


def _search(job: Job) -> Sequence[str]:
    """Search once, and return the arms to confirm: all of them."""
    prepared, record = job.prepared, job.record
    spec, plan = prepared.spec, prepared.plan
    source = SearchSource(spec, prepared.arms, plan, record, concurrent=prepared.concurrent, clock=job.backend.clock)
    job.execute(source, early_stopper(spec, plan, record))
    chosen = winners(record, spec)
    if spec.baseline not in chosen or len(chosen) < 2:
        raise SearchFailed(_why_no_winners(record, chosen))
    return record.arms


def _search_until_settled(job: Job) -> Sequence[str]:
    """Search again and again, with a verdict at every look, until all arms are settled or the searches are spent.

    Returns:
        The arm whose best setting is to be confirmed: the best of those that beat the baseline, else the baseline.
    """
    prepared, record, announce = job.prepared, job.record, job.context.view.announce
    spec, plan, concurrent = prepared.spec, prepared.plan, prepared.concurrent
    stopper = early_stopper(spec, plan, record)
    while (at := next_look(record, spec)) is not None:
        names = active_arms(record, spec)
        active = [arm for arm in prepared.arms if arm.name in names]
        source = SearchesSource(spec, active, plan, record, at, concurrent=concurrent, clock=job.backend.clock)
        job.execute(source, stopper)
        look = take_look(record, spec, at)
        if look is not None:
            job.journal.append(look)
            announce(look_line(look))
        if look is None or look.searches < at:
            break
    if not record.looks:
        raise SearchFailed(_why_no_look(record))
    if active_arms(record, spec) and record.looks[-1].searches < spec.looks[-1]:
        announce(
            f"the time is spent: the verdict rests on {record.looks[-1].searches} searches per arm; search further "
            f"with: tuner extend {record.name}"
        )
    # The winners of an earlier round may not be the best any more.
    return (build(replace(record, rounds=[]), spec).best(),)


def _begin_round(job: Job, new: NewRound, arms: Sequence[str]) -> None:
    spec, record = job.prepared.spec, job.record
    if requests := selection_requests(record, spec, arms):
        job.execute(FixedSource(requests, record))
    chosen = {arm: trial for arm, trial in winners(record, spec).items() if arm in arms}
    numbers = {arm: trial.number for arm, trial in chosen.items()}
    searches = {arm: trial.search for arm, trial in chosen.items()} if spec.searches else {}
    job.journal.append(RoundBegun(new.number, round_seeds(spec, new.number, new.seeds), numbers, searches))


def _confirm(job: Job, confirm_round: RoundBegun) -> None:
    spec, number = job.prepared.spec, confirm_round.round
    chosen = of_round(job.record, confirm_round)
    requests = confirm_requests(job.record, spec, chosen, confirm_round, job.context.folder.weights)
    job.execute(FixedSource(requests, job.record))
    tested = [arm for arm in chosen if confirm_values(job.record, arm, number)]
    # The verdict on a method rests on its searches, and has been given.
    if not spec.searches and (spec.baseline not in tested or len(tested) < 2):
        raise SearchFailed(_why_no_verdict(job.record, [arm for arm in chosen if arm not in tested], number))


def _why_no_winners(record: Record, chosen: Mapping[str, object]) -> str:
    missing = [arm for arm in record.arms if arm not in chosen]
    lost = [trial for trial in record.of(Stage.SEARCH) if trial.arm in missing]
    return f"no trial of {', '.join(missing)} trained to its end, so there is nothing to compare{_first_failure(lost)}"


def _why_no_look(record: Record) -> str:
    lost = record.of(Stage.SEARCH) + record.of(Stage.CONFIRM)
    return f"no arm has {LEAST_SEARCHES} searches to compare with the baseline's{_first_failure(lost)}"


def _why_no_verdict(record: Record, missing: Sequence[str], round_number: int) -> str:
    lost = [trial for trial in record.of(Stage.CONFIRM, round_number=round_number) if trial.arm in missing]
    return f"no confirm run of {', '.join(missing)} trained to its end, so there is no verdict{_first_failure(lost)}"


def _first_failure(trials: Sequence[Trial]) -> str:
    lost = [trial for trial in trials if trial.state in LOST]
    return f"; the first of {len(lost)} failures:{after_colon(lost[0].reason or 'no reason given')}" if lost else ""
