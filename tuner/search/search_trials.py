"""The trials of the search: arms asked in turn, each from its own study, until trials or time are spent."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from trainables.hyper import Hyper
from trainables.report import EpochReport
from trainables.schedules import Schedule
from trainables.space import Plan
from tuner.errors import SearchFailed
from tuner.jobs.record import Record, Trial
from tuner.search.asha import EarlyStopper, JudgedEpochs, bracket, comparable_epochs, judged_epochs, rungs
from tuner.search.study import ArmStudy, Proposal, RecordedTrial
from tuner.search.trial_request import TrialOutcome, TrialRequest
from tuner.spec.arms import Arm
from tuner.spec.search_spec import SearchSpec
from tuner.spec.trial_config import trial_config
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
        concurrent: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._plan = plan
        self._concurrent = concurrent
        self._clock = clock
        self._record = record
        self._started_at = clock() - record.active_s
        self._running: dict[str, float] = {}
        self._ended_s = 0.0
        self._errors: list[str] = []
        self._fine = False
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
        done = self._fewest()
        behind = [study for study in self._studies.values() if study.asked == done]
        # Only a whole round may begin, so that all arms end with the same number of started trials.
        whole = len(behind) == len(self._studies)
        if whole and (done == self._spec.budget.trials or self._no_time_for_another_round()):
            return None
        return self._request(behind[0].arm, behind[0].ask())

    def _fewest(self) -> int:
        return min(study.asked for study in self._studies.values())

    @property
    def _given(self) -> int:
        return sum(study.asked for study in self._studies.values())

    def _study_of(self, arm: Arm) -> ArmStudy:
        spec = self._spec
        past = [recorded(trial, spec.metric.key) for trial in self._searched(arm.name)]
        maximize = spec.metric.goal == "maximize"
        return ArmStudy(arm, spec.sampler, spec.seed, spec.budget.trials, maximize=maximize, past=past)

    def _searched(self, arm: str) -> list[Trial]:
        return sorted(self._record.of(Stage.SEARCH, arm), key=lambda trial: trial.number)

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

    def _reports(self, epochs: Iterable[EpochReport]) -> list[tuple[int, float]]:
        return [(epoch.epoch, epoch.metric(self._spec.metric.key)) for epoch in epochs]

    def _give_up_if_hopeless(self, outcome: TrialOutcome) -> None:
        if outcome.state != State.FAILED:
            self._fine = True
        elif not self._fine:
            self._errors.append(outcome.reason or "")
            if len(self._errors) == HOPELESS:
                raise SearchFailed(f"the first {HOPELESS} trials all failed; the first error was:\n{self._errors[0]}")

    def _no_time_for_another_round(self) -> bool:
        """Whether another round, with trials as long as those so far, would end beyond a cap."""
        if self._given == 0:
            return False
        now, arms, budget = self._clock(), len(self._turns), self._spec.budget
        ages = [now - begun for begun in self._running.values()]
        ended = self._given - len(ages) - len(self._unfinished)
        # Running trials will get older: they raise the estimate, never lower it.
        trial_s = max(self._ended_s / max(1, ended), (self._ended_s + sum(ages)) / self._given)
        clock_s = now - self._started_at + trial_s * math.ceil(arms / self._concurrent)
        gpu_s = trial_s * (self._given + arms) * self._spec.resources.gpus
        return _over(clock_s, budget.max_hours) or _over(gpu_s, budget.max_gpu_hours)

    def _request(self, arm: Arm, proposal: Proposal) -> TrialRequest:
        number, hyper = proposal.number, arm.hyper(proposal.knobs)
        return TrialRequest(
            key=f"{Stage.SEARCH}/{arm.name}/{number}",
            stage=Stage.SEARCH,
            arm=arm.name,
            number=number,
            trial=trial_config(self._spec, hyper, self._spec.seed),
            knobs=proposal.knobs,
            judged=_judged(self._spec, self._plan, arm.name, number, hyper),
        )


def recorded(trial: Trial, metric: str) -> RecordedTrial:
    """A trial on record as its study sees it; ``metric`` names the objective's field in an epoch's report."""
    reports = [(epoch.epoch, epoch.metric(metric)) for epoch in trial.epochs]
    return RecordedTrial(trial.knobs, trial.state, reports, trial.begun_n, trial.ended_n)


def early_stopper(spec: SearchSpec, plan: Plan, record: Record) -> EarlyStopper | None:
    """The early stopper of a search, which knows all reports on record; None if the spec has no scheduler."""
    if spec.scheduler.name == "none":
        return None
    stopper = EarlyStopper(spec.metric.key, spec.metric.goal == "maximize", spec.scheduler.reduction_factor)
    for trial in record.of(Stage.SEARCH):
        judged = _judged(spec, plan, trial.arm, trial.number, Hyper.of(trial.hyper))
        for epoch in trial.epochs:
            stopper.stops(judged, epoch.epoch, epoch.metric(stopper.metric))
    return stopper


def _judged(spec: SearchSpec, plan: Plan, arm: str, number: int, hyper: Hyper) -> JudgedEpochs:
    scheduler, schedule = spec.scheduler, Schedule(hyper, plan)
    at = () if scheduler.name == "none" else rungs(spec.first_rung, scheduler.reduction_factor, plan.epochs)
    in_bracket = bracket(number, scheduler.reduction_factor, len(at)) if scheduler.name == "hyperband" else 0
    return JudgedEpochs(
        key=f"{Stage.SEARCH}/{arm}/{number}",
        arm=arm,
        bracket=in_bracket,
        at=judged_epochs(schedule, at[in_bracket:]),
        comparable=comparable_epochs(schedule, at[in_bracket:]),
    )


def _over(seconds: float, cap_hours: float | None) -> bool:
    return cap_hours is not None and seconds > 3600 * cap_hours
