"""The arms' Optuna studies, which only this module and ``tuner.studies`` know.

A study is asked for settings and told the truth: COMPLETE, PRUNED with the step it reached, or FAIL. It is asked in
memory, and each setting and each end is in its database before it is given or forgotten. The database may go away for a
while, and this process at any moment: no trial comes twice. Where the database has lost or altered something, the study
is made again from what is on record of its trials.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from trainables.config import derive_seed
from trainables.space import Scalar
from tuner.jobs.record import State
from tuner.search.distributions import distributions, from_search, to_search
from tuner.search.samplers import SAMPLERS, Seeds
from tuner.search.study_database import StoredStudy
from tuner.search.trial_window import BEST, FORGETFUL, NEWEST, ShownStudy, TrialWindow, tpe_rank
from tuner.spec.arms import Arm
from tuner.spec.settings import SamplerSpec

TOLD: Mapping[State, TrialState] = {
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.DIVERGED: TrialState.FAIL,
    State.FAILED: TrialState.FAIL,
    State.OOM: TrialState.FAIL,
}
"""What Optuna is told of a trial's end."""


@dataclass(frozen=True)
class Proposal:
    """A setting to try: its number in the study and the searched knobs."""

    number: int
    knobs: Mapping[str, Scalar]


class RecordedTrial(NamedTuple):
    """What is on record of a setting: the searched knobs, where it stands, and the objective after each epoch."""

    knobs: Mapping[str, Scalar]
    state: State
    reports: Sequence[tuple[int, float]]


class ArmStudy:
    """One arm's Optuna study, made if it is not there yet, with the arm's default as its first trial.

    Args:
        storage: from ``open_storage``.
        job: the job's id; the study is named ``job/arm``.
        arm: the arm and its search space.
        sampler: which sampler.
        seed: the job's seed; every ask is seeded from (seed, arm, trial number).
        trials: planned trials, for the sampler's random start.
        maximize: whether larger objective values are better.
    """

    def __init__(
        self,
        storage: BaseStorage,
        job: str,
        arm: Arm,
        sampler: SamplerSpec,
        seed: int,
        trials: int,
        maximize: bool,
    ) -> None:
        self.arm = arm
        self._sampler = sampler
        self._seed = seed
        self._trials = trials
        self._name = study_name(job, arm.name)
        self._direction = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
        self._distributions = distributions(arm.space)
        self._stored = StoredStudy(storage, self._name, self._direction) if isinstance(storage, RDBStorage) else None
        self._memory = storage if self._stored is None else InMemoryStorage()
        self._study, self._history = self._make(), self._new_history()
        if self._stored is not None:
            self._load(self._stored)

    @property
    def asked(self) -> int:
        """How many settings were asked for."""
        return len(self._known())

    def ask(self) -> Proposal:
        """The next setting to try."""
        number = self.asked
        if number == 0:
            self._study.enqueue_trial(to_search(self.arm.space, self.arm.default))
        self._study.sampler = self._sampler_for(number)
        trial = optuna.trial.Trial(self._shown(), self._study.ask()._trial_id)
        for knob, distribution in self._distributions.items():
            trial._suggest(knob, distribution)
        self._put(number)
        return Proposal(number, from_search(self.arm.space, trial.params))

    def unfinished(self) -> list[Proposal]:
        """The settings that were asked for and not told of."""
        return [
            Proposal(trial.number, from_search(self.arm.space, trial.params))
            for trial in self._known()
            if trial.state == TrialState.RUNNING
        ]

    def restore(self, past: Sequence[RecordedTrial]) -> bool:
        """Make the study agree with what is on record of its settings: all of them, in order.

        One that ended and was not told of is told of. A study that has lost or altered anything, or knows of an end
        that is not on record, is made again.

        Returns:
            Whether it was made again.
        """
        agrees = self._agrees(past)
        if agrees:
            for number in [asked.number for asked in self.unfinished()]:
                if number < len(past) and past[number].state != State.RUNNING:
                    self.tell(number, past[number].state, past[number].reports)
        else:
            self._rebuild([self._trial(setting) for setting in past])
        return not agrees

    def tell(self, number: int, state: State, reports: Sequence[tuple[int, float]]) -> None:
        """What became of a setting: how it ended, and the objective after each epoch. Told again, it changes nothing.

        A COMPLETE trial's objective is the last report's; one that diverged or failed has none.
        """
        trial = self._known()[number]
        if trial.state.is_finished():
            return
        value, values = _objective(state, reports)
        for step, reported in values.items():
            self._memory.set_trial_intermediate_value(trial._trial_id, step, reported)
        # Of a PRUNED trial Optuna takes the last report itself.
        self._study.tell(number, value if state == State.COMPLETE else None, state=TOLD[state])
        self._put(number)

    def _known(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _put(self, number: int) -> None:
        if self._stored is not None:
            self._stored.put(self._known()[number])

    def _make(self) -> optuna.Study:
        return optuna.create_study(
            storage=self._memory, study_name=self._name, direction=self._direction, load_if_exists=True
        )

    def _load(self, stored: StoredStudy) -> None:
        there = stored.trials()
        whole = list(itertools.takewhile(self._is_whole, there))
        for trial in whole:
            self._memory.create_new_trial(self._study._study_id, trial)
        if len(whole) < len(there):
            stored.replace(self._known())

    def _is_whole(self, trial: FrozenTrial) -> bool:
        """Not so is one that has lost a part, or was written piece by piece, as Optuna does, and cut short."""
        return (
            trial.state != TrialState.WAITING
            and trial.distributions.keys() == self._distributions.keys()
            and (trial.state != TrialState.COMPLETE or trial.value is not None)
        )

    def _rebuild(self, trials: Sequence[FrozenTrial]) -> None:
        optuna.delete_study(study_name=self._name, storage=self._memory)
        self._study, self._history = self._make(), self._new_history()
        self._study.add_trials(trials)
        if self._stored is not None:
            self._stored.replace(self._known())

    def _trial(self, setting: RecordedTrial) -> FrozenTrial:
        value, values = _objective(setting.state, setting.reports)
        return create_trial(
            state=TOLD.get(setting.state, TrialState.RUNNING),
            value=value,
            params=to_search(self.arm.space, setting.knobs),
            distributions=self._distributions,
            intermediate_values=values,
        )

    def _agrees(self, past: Sequence[RecordedTrial]) -> bool:
        pairs = itertools.zip_longest(self._known(), past)
        return all(trial is not None and self._agrees_on(trial, setting) for trial, setting in pairs)

    def _agrees_on(self, trial: FrozenTrial, setting: RecordedTrial | None) -> bool:
        running = trial.state == TrialState.RUNNING
        if setting is None:
            return running
        if trial.distributions != self._distributions or from_search(self.arm.space, trial.params) != setting.knobs:
            return False
        told = trial.state, (trial.value, trial.intermediate_values)
        return running or told == (TOLD.get(setting.state), _objective(setting.state, setting.reports))

    def _shown(self) -> optuna.Study:
        """The study as its sampler sees it."""
        if self._sampler.name not in FORGETFUL:
            return self._study
        return ShownStudy(self._study, self._history.shown(self._study.get_trials(deepcopy=False)))

    def _new_history(self) -> TrialWindow[FrozenTrial]:
        sign = -1.0 if self._direction == StudyDirection.MAXIMIZE else 1.0
        return TrialWindow(BEST, NEWEST, lambda trial: trial.state.is_finished(), partial(tpe_rank, sign))

    def _sampler_for(self, number: int) -> BaseSampler:
        ask, study = (derive_seed(self._seed, self.arm.name, part) % 2**32 for part in (str(number), "qmc"))
        return SAMPLERS[self._sampler.name](self._sampler, Seeds(ask, study, number), self._trials)


def study_name(job: str, arm: str) -> str:
    """What an arm's study is called in the studies' database."""
    return f"{job}/{arm}"


def _objective(state: State, reports: Sequence[tuple[int, float]]) -> tuple[float | None, dict[int, float]]:
    """A trial's objective and its values by epoch, as Optuna holds them: nothing of one that is lost, or still runs."""
    values = dict(reports) if state in (State.COMPLETE, State.PRUNED) else {}
    return next(reversed(values.values()), None), values
