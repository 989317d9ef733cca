"""The search: arms asked in turn, each from its own study, until trials or time are spent."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from trainables.config import TrialConfig
from trainables.hyper import Hyper
from trainables.schedules import Schedule
from trainables.space import Plan
from tuner.errors import SearchFailed
from tuner.jobs.record import Record, Stage, State, Trial
from tuner.search.asha import EarlyStopper, JudgedEpochs, bracket, comparable_epochs, judged_epochs, rungs
from tuner.search.study import ArmStudy, Proposal, RecordedTrial
from tuner.search.trial_request import TrialOutcome, TrialRequest
from tuner.spec.search_spec import SearchSpec

HOPELESS = 5
"""If the first so many trials to end all raised, the rest would too."""


class SearchSource:
    """Gives the search's trials; started trials of any two arms never differ by more than one.

    Args:
        spec: the job's spec.
        plan: a trial's planned length.
        studies: one an arm.
        make_trial: hyperparameters and seed to a trial.
        concurrent: trials that run at once.
        record: what the job's journal says: a search that was interrupted goes on where it stood.
        clock: seconds, monotonic.

    Raises:
        ServiceError: the studies' database stays away.
    """

    def __init__(
        self,
        spec: SearchSpec,
        plan: Plan,
        studies: Sequence[ArmStudy],
        make_trial: Callable[[Hyper, int], TrialConfig],
        concurrent: int,
        record: Record,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._plan = plan
        self._studies = {study.arm.name: study for study in studies}
        self._turns = tuple(self._studies)
        self._make_trial = make_trial
        self._concurrent = concurrent
        self._clock = clock
        self._record = record
        self._started_at = clock() - record.active_s
        self._running: dict[str, float] = {}
        self._ended_s = 0.0
        self._errors: list[str] = []
        self._fine = False
        self._unfinished: deque[TrialRequest] = deque()
        self.rebuilt: list[str] = []
        """Arms whose studies did not agree with the record, and were made again from it."""
        self._take_up()

    def next(self) -> TrialRequest | None:
        """The next trial: one that was interrupted, else a new one from the arm whose turn it is."""
        # Where a journal has lost its end, an arm may have lost trials that others have still to go on with.
        in_turn = self._unfinished and self._unfinished[0].number <= self._fewest()
        request = self._unfinished.popleft() if in_turn else self._ask()
        if request is not None:
            self._running[request.key] = self._clock()
        return request

    def _ask(self) -> TrialRequest | None:
        done = self._fewest()
        behind = [study for study in self._studies.values() if study.asked == done]
        # Only a whole round may begin, so that every arm ends with as many started trials.
        whole = len(behind) == len(self._studies)
        if whole and (done == self._spec.budget.trials or self._no_time_for_another_round()):
            return None
        return self._request(behind[0], behind[0].ask())

    def _fewest(self) -> int:
        return min(study.asked for study in self._studies.values())

    @property
    def _given(self) -> int:
        return sum(study.asked for study in self._studies.values())

    def ended(self, request: TrialRequest, ended: TrialOutcome) -> None:
        """Tell the study what became of its setting.

        Raises:
            SearchFailed: the first trials all raised.
        """
        self._ended_s += self._clock() - self._running.pop(request.key)
        self._studies[request.arm].tell(request.number, ended.state, self._reports(ended.epochs))
        self._give_up_if_hopeless(ended)

    def _take_up(self) -> None:
        """Go on from where the journal and the studies stand; what a study lacks, the journal has."""
        unfinished = []
        for arm, study in self._studies.items():
            known = {trial.number: trial for trial in self._record.of(Stage.SEARCH, arm)}
            if study.restore([self._past(known[number]) for number in range(len(known))]):
                self.rebuilt.append(arm)
            unfinished += [self._request(study, asked) for asked in study.unfinished()]
            for trial in known.values():
                if trial.state != State.RUNNING:
                    self._ended_s += trial.seconds
                    self._fine = self._fine or trial.state != State.FAILED
        self._unfinished.extend(
            sorted(unfinished, key=lambda request: (request.number, self._turns.index(request.arm)))
        )

    def _past(self, trial: Trial) -> RecordedTrial:
        return RecordedTrial(trial.knobs, trial.state, self._reports(trial.epochs))

    def _reports(self, epochs: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
        return [(int(epoch["epoch"]), float(epoch[self._spec.metric.key])) for epoch in epochs]

    def _give_up_if_hopeless(self, ended: TrialOutcome) -> None:
        if ended.state != State.FAILED:
            self._fine = True
        elif not self._fine:
            self._errors.append(ended.reason or "")
            if len(self._errors) == HOPELESS:
                raise SearchFailed(f"the first {HOPELESS} trials all failed; the first error was:\n{self._errors[0]}")

    def _no_time_for_another_round(self) -> bool:
        """Whether a round of trials as long as those so far would end beyond a cap."""
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

    def _request(self, study: ArmStudy, asked: Proposal) -> TrialRequest:
        arm, number, hyper = study.arm.name, asked.number, study.arm.hyper(asked.knobs)
        return TrialRequest(
            key=f"{Stage.SEARCH}/{arm}/{number}",
            stage=Stage.SEARCH,
            arm=arm,
            number=number,
            trial=self._make_trial(hyper, self._spec.seed),
            knobs=asked.knobs,
            judged=_judged(self._spec, self._plan, arm, number, hyper),
        )


def early_stopper(spec: SearchSpec, plan: Plan, record: Record) -> EarlyStopper | None:
    """The judge of a search's trials, who has heard all that is on record; None if the spec has no scheduler."""
    if spec.scheduler.name == "none":
        return None
    stopper = EarlyStopper(spec.metric.goal == "maximize", spec.scheduler.reduction_factor)
    for trial in record.of(Stage.SEARCH):
        judged = _judged(spec, plan, trial.arm, trial.number, Hyper(**trial.hyper))
        for epoch in trial.epochs:
            stopper.stops(judged, epoch["epoch"], epoch[spec.metric.key])
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
