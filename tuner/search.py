"""The search: arms asked in turn, each from its own study, until trials or time are spent."""

import math
import time
from collections.abc import Callable, Sequence

from trainables.config import TrialConfig
from trainables.hyper import Hyper
from trainables.schedules import Schedule
from trainables.space import Plan
from tuner.errors import SearchFailed
from tuner.record import Stage, State
from tuner.scheduling import bracket, comparable_epochs, judged_epochs, rungs
from tuner.spec import SearchSpec
from tuner.study import ArmStudy
from tuner.work import Ended, Work

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
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        spec: SearchSpec,
        plan: Plan,
        studies: Sequence[ArmStudy],
        make_trial: Callable[[Hyper, int], TrialConfig],
        concurrent: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._plan = plan
        self._studies = {study.arm.name: study for study in studies}
        self._turns = tuple(self._studies)
        self._make_trial = make_trial
        self._concurrent = concurrent
        self._clock = clock
        self._started_at = clock()
        self._given = 0
        self._running: dict[str, float] = {}
        self._ended_s = 0.0
        self._errors: list[str] = []
        self._fine = False

    def next(self) -> Work | None:
        """The next trial, from the arm whose turn it is."""
        done, turn = divmod(self._given, len(self._turns))
        # Only a whole round may begin, so that every arm ends with as many started trials.
        if turn == 0 and (done == self._spec.budget.trials or self._no_time_for_another_round()):
            return None
        study = self._studies[self._turns[turn]]
        asked = study.ask()
        hyper = study.arm.hyper(asked.knobs)
        self._given += 1
        work = self._work(study.arm.name, asked.number, hyper)
        self._running[work.key] = self._clock()
        return work

    def ended(self, work: Work, ended: Ended) -> None:
        """Tell the study what became of its setting.

        Raises:
            SearchFailed: the first trials all raised.
        """
        self._ended_s += self._clock() - self._running.pop(work.key)
        study = self._studies[work.arm]
        metric = self._spec.metric.key
        reports = [(int(epoch["epoch"]), float(epoch[metric])) for epoch in ended.epochs]
        match ended.state:
            case State.COMPLETE:
                study.tell_complete(work.number, reports)
            case State.PRUNED:
                study.tell_pruned(work.number, reports)
            case _:
                study.tell_failed(work.number)
        self._give_up_if_hopeless(ended)

    def _give_up_if_hopeless(self, ended: Ended) -> None:
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
        ended = self._given - len(ages)
        # Running trials will get older: they raise the estimate, never lower it.
        trial_s = max(self._ended_s / max(1, ended), (self._ended_s + sum(ages)) / self._given)
        clock_s = now - self._started_at + trial_s * math.ceil(arms / self._concurrent)
        gpu_s = trial_s * (self._given + arms) * self._spec.resources.gpus
        return _over(clock_s, budget.max_hours) or _over(gpu_s, budget.max_gpu_hours)

    def _work(self, arm: str, number: int, hyper: Hyper) -> Work:
        scheduler = self._spec.scheduler
        at: tuple[int, ...] = ()
        if scheduler.name != "none":
            at = rungs(self._spec.first_rung, scheduler.reduction_factor, self._plan.epochs)
        of_bracket = bracket(number, scheduler.reduction_factor, len(at)) if scheduler.name == "hyperband" else 0
        schedule = Schedule(hyper, self._plan)
        return Work(
            key=f"{Stage.SEARCH}/{arm}/{number}",
            stage=Stage.SEARCH,
            arm=arm,
            number=number,
            trial=self._make_trial(hyper, self._spec.seed),
            bracket=of_bracket,
            judged=judged_epochs(schedule, at[of_bracket:]),
            comparable=comparable_epochs(schedule, at[of_bracket:]),
        )


def _over(seconds: float, cap_hours: float | None) -> bool:
    return cap_hours is not None and seconds > 3600 * cap_hours
