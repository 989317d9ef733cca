"""The trials of the search: arms asked in turn, each from its own study, until trials or time are spent."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from trainables.report import Report
from trainables.space import Plan
from tuner.errors import SearchFailed, after_colon
from tuner.jobs.record import Record, Trial
from tuner.search.asha import EarlyStopper, JudgedEpochs, bracket, comparable_epochs, judged_epochs, rungs
from tuner.search.study import ArmStudy, Proposal, RecordedTrial
from tuner.search.trial_request import TrialOutcome, TrialRequest, search_key
from tuner.search.winners import epochs_are_spent
from tuner.spec.arms import Arm
from tuner.spec.search_spec import SearchSpec
from tuner.spec.trial_config import SearchSeeds, schedule_of, trial_config
from tuner.storage.events import Stage, State

HOPELESS = 5
"""If this many trials are the first to end and all of them raised, the rest would too."""


class SearchSource:
    """Gives the trials of the search. The numbers of started trials of two arms never differ by more than one.

    Args:
        spec: the job's spec.
        arms: the job's arms, the baseline first.
        plan: planned length of a trial.
        record: what the job's journal says; an interrupted search continues from there.
        search: which of the arms' searches it is, from 1; 0 in a job with one search per arm.
        concurrent: trials that run at once.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        spec: SearchSpec,
        arms: Sequence[Arm],
        plan: Plan,
        record: Record,
        *,
        search: int = 0,
        concurrent: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._plan = plan
        self._search = search
        self._seeds = SearchSeeds.of(spec, search)
        self._concurrent = concurrent
        self._clock = clock
        self._record = record
        self._started_at = clock() - record.active_s
        self._running: dict[str, float] = {}
        self._ended_s = 0.0
        self._errors: list[str] = []
        # Failures at the start of a later search come from a machine: the searches before were fine.
        self._fine = search > 1
        self._turns = tuple(arm.name for arm in arms)
        self._studies = {arm.name: self._study_of(arm) for arm in arms}
        self._unfinished = self._interrupted()

    def next(self) -> TrialRequest | None:
        """The next trial: an interrupted one, else a new one of the arm whose turn it is."""
        # If a journal has lost its end, one arm may have lost trials that another arm still has to continue.
        in_turn = self._unfinished and self._unfinished[0].number <= self._fewest()
        request = self._unfinished.popleft() if in_turn else self._ask()
        if request is not None:
            self._running[request.key] = self._clock()
        return request

    def ended(self, request: TrialRequest, outcome: TrialOutcome) -> None:
        """Tell the study how its setting ended.

        Raises:
            SearchFailed: the first trials all raised.
        """
        self._ended_s += self._clock() - self._running.pop(request.key)
        self._studies[request.arm].tell(request.number, outcome.state, self._reports(outcome.epochs))
        self._give_up_if_hopeless(outcome)

    def _ask(self) -> TrialRequest | None:
        open_studies = self._open()
        if not open_studies:
            return None
        done = self._fewest()
        behind = [study for study in open_studies if study.asked == done]
        # Only a whole round may begin, so that all arms end with the same number of started trials.
        whole = len(behind) == len(open_studies)
        if whole and (done == self._spec.budget.trials or self._no_time_for_another_round()):
            return None
        return self._request(behind[0].arm, behind[0].ask())

    def _open(self) -> list[ArmStudy]:
        """The studies that may ask for more: with a cap on epochs, those that have not reached it."""
        if self._spec.budget.epochs_per_search is None:
            return list(self._studies.values())
        return [
            study
            for arm, study in self._studies.items()
            if not epochs_are_spent(self._record, self._spec, arm, self._search)
        ]

    def _fewest(self) -> float:
        """The fewest trials of a study that may ask for more."""
        return min((study.asked for study in self._open()), default=math.inf)

    @property
    def _given(self) -> int:
        return sum(study.asked for study in self._studies.values())

    def _study_of(self, arm: Arm) -> ArmStudy:
        spec = self._spec
        return ArmStudy(
            arm,
            spec.sampler,
            self._seeds.sampler,
            spec.budget.trials,
            maximize=spec.metric.maximize,
            past=[recorded(trial, spec.metric.key) for trial in self._searched(arm.name)],
            earlier=_earlier(self._record, arm.name),
        )

    def _searched(self, arm: str) -> list[Trial]:
        return sorted(self._record.of(Stage.SEARCH, arm, search=self._search), key=lambda trial: trial.number)

    def _interrupted(self) -> deque[TrialRequest]:
        """The trials that are on record and have not ended, in the order of their rounds."""
        unfinished = []
        for arm, study in self._studies.items():
            for trial in self._searched(arm):
                if trial.state == State.RUNNING:
                    unfinished.append(self._request(study.arm, Proposal(trial.number, trial.knobs)))
                else:
                    self._ended_s += trial.seconds
                    self._fine = self._fine or trial.state != State.FAILED
        return deque(sorted(unfinished, key=lambda request: (request.number, self._turns.index(request.arm))))

    def _reports(self, epochs: Iterable[Report]) -> list[tuple[int, float]]:
        return [(epoch.epoch, epoch.metric(self._spec.metric.key)) for epoch in epochs]

    def _give_up_if_hopeless(self, outcome: TrialOutcome) -> None:
        if outcome.state != State.FAILED:
            self._fine = True
        elif not self._fine:
            self._errors.append(outcome.reason or "")
            if len(self._errors) == HOPELESS:
                first = after_colon(self._errors[0])
                raise SearchFailed(f"the first {HOPELESS} trials all failed; the first error was:{first}")

    def _no_time_for_another_round(self) -> bool:
        """Whether another round, with trials as long as those so far, would end beyond a cap."""
        # One of several searches is always ended: a shorter one would be no equal of the others.
        if self._given == 0 or self._search:
            return False
        now, arms, budget = self._clock(), len(self._turns), self._spec.budget
        if budget.max_hours is None and budget.max_gpu_hours is None:
            return False
        ages = [now - begun for begun in self._running.values()]
        ended = self._given - len(ages) - len(self._unfinished)
        # Running trials will get older: they raise the estimate, never lower it.
        trial_s = max(self._ended_s / max(1, ended), (self._ended_s + sum(ages)) / self._given)
        clock_s = now - self._started_at + trial_s * math.ceil(arms / self._concurrent)
        gpu_s = trial_s * (self._given + arms) * self._spec.resources.gpus
        return _over(clock_s, budget.max_hours) or _over(gpu_s, budget.max_gpu_hours)

    def _request(self, arm: Arm, proposal: Proposal) -> TrialRequest:
        setting, seeds = arm.setting(proposal.knobs), self._seeds
        request = TrialRequest(
            key=search_key(arm.name, self._search, proposal.number),
            stage=Stage.SEARCH,
            arm=arm.name,
            number=proposal.number,
            trial=trial_config(
                self._spec, arm.name, setting, seeds.training, seeds.split, contiguous=self._record.contiguous
            ),
            setting=setting,
            knobs=proposal.knobs,
            search=self._search,
        )
        return replace(request, judged=_judged(self._spec, self._plan, request))


def recorded(trial: Trial, metric: str) -> RecordedTrial:
    """A trial on record as its study sees it; ``metric`` names the objective's field in an epoch's report."""
    reports = [(epoch.epoch, epoch.metric(metric)) for epoch in trial.epochs]
    return RecordedTrial(trial.knobs, trial.state, reports, trial.begun_n, trial.ended_n)


def _earlier(record: Record, arm: str) -> list[RecordedTrial]:
    """The trials of an earlier job from which the sampler of an arm learns, as its study sees them."""
    known = record.earlier.get(arm)
    return [
        RecordedTrial(
            trial.knobs,
            trial.state,
            [] if trial.value is None else [(trial.epoch, trial.value)],
            begun=number,
            ended=number,
        )
        for number, trial in enumerate(known.trials if known else ())
    ]


def early_stopper(spec: SearchSpec, plan: Plan, record: Record) -> EarlyStopper | None:
    """The early stopper of a search, which knows all reports on record; None if the spec has no scheduler."""
    if spec.scheduler.name == "none":
        return None
    stopper = EarlyStopper(spec.metric.key, spec.metric.maximize, spec.scheduler.reduction_factor)
    trials = [(_judged(spec, plan, trial), trial) for trial in record.of(Stage.SEARCH)]
    reports = [
        (n, judged, epoch)
        for judged, trial in trials
        for n, epoch in zip(trial.reported_n, _judged_reports(trial), strict=False)
    ]
    # In the order of the reports, every decision is the one that was taken, by this version.
    for _, judged, epoch in sorted(reports, key=lambda report: report[0]):
        stopper.stops(judged, epoch.epoch, epoch.metric(stopper.metric))
    return stopper


def _judged_reports(trial: Trial) -> Sequence[Report]:
    """The reports that the stopper was asked about: not the one with which a trial diverged, just before its end."""
    diverged = trial.state == State.DIVERGED and trial.ended_n is not None and trial.ended_n - 1 in trial.reported_n
    return trial.epochs[:-1] if diverged else trial.epochs


def _judged(spec: SearchSpec, plan: Plan, trial: Trial | TrialRequest) -> JudgedEpochs:
    setting = trial.setting if isinstance(trial, TrialRequest) else trial.hyper
    scheduler, schedule = spec.scheduler, schedule_of(spec, plan, trial.arm, setting)
    at = () if scheduler.name == "none" else rungs(spec.first_rung, scheduler.reduction_factor, plan.epochs)
    in_bracket = bracket(trial.number, scheduler.reduction_factor, len(at)) if scheduler.name == "hyperband" else 0
    return JudgedEpochs(
        key=trial.key,
        study=f"{trial.arm}/{trial.search}",
        bracket=in_bracket,
        at=judged_epochs(schedule, at[in_bracket:]) if schedule else at[in_bracket:],
        comparable=comparable_epochs(schedule, at[in_bracket:]) if schedule else at[in_bracket:],
    )


def _over(seconds: float, cap_hours: float | None) -> bool:
    return cap_hours is not None and seconds > 3600 * cap_hours
