"""The arms' Optuna studies, which only this module and ``tuner.studies`` know.

A study is asked for settings and told the truth: COMPLETE, PRUNED with the step it reached, or FAIL. It is asked in
memory, and each setting and each end is in its database before it is given or forgotten. The database may go away for a
while, and this process at any moment: no trial comes twice. Where the database has lost or altered something, the study
is made again from what is on record of its trials.
"""

import copy
import itertools
import math
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from trainables.config import derive_seed
from trainables.space import Choice, Domain, Float, Int, Scalar
from tuner.arms import Arm
from tuner.history import History, Rank
from tuner.limits import SamplerSpec
from tuner.record import State
from tuner.studies import StoredStudy

optuna.logging.set_verbosity(optuna.logging.ERROR)
# qmc, gp and multivariate TPE are marked experimental: chosen knowingly.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

ONE_MINUS = "one_minus_"
LEAST_IMPORTANCE = 5
"""Fewer trials say nothing of what sets the better ones apart."""

TOLD: Mapping[State, TrialState] = {
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.DIVERGED: TrialState.FAIL,
    State.FAILED: TrialState.FAIL,
    State.OOM: TrialState.FAIL,
}
"""What Optuna is told of a trial's end."""


@dataclass(frozen=True)
class Asked:
    """A setting to try: its number in the study and the searched knobs."""

    number: int
    knobs: Mapping[str, Scalar]


class Past(NamedTuple):
    """What is on record of a setting: the searched knobs, where it stands, and the objective after each epoch."""

    knobs: Mapping[str, Scalar]
    state: State
    reports: Sequence[tuple[int, float]]


class Seeds(NamedTuple):
    """Of a sampler: of this ask, and of a sequence that the whole study draws from (qmc's), with its place there."""

    ask: int
    study: int
    place: int


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
        self._distributions = dict(map(_distribution, arm.space.items()))
        self._stored = StoredStudy(storage, self._name, self._direction) if isinstance(storage, RDBStorage) else None
        self._memory = storage if self._stored is None else InMemoryStorage()
        self._study, self._history = self._make(), self._new_history()
        if self._stored is not None:
            self._load(self._stored)

    @property
    def asked(self) -> int:
        """How many settings were asked for."""
        return len(self._known())

    def ask(self) -> Asked:
        """The next setting to try."""
        number = self.asked
        if number == 0:
            self._study.enqueue_trial(dict(_to_search(self.arm.space, self.arm.default)))
        self._study.sampler = self._sampler_for(number)
        trial = optuna.trial.Trial(self._shown(), self._study.ask()._trial_id)
        for knob, distribution in self._distributions.items():
            trial._suggest(knob, distribution)
        self._put(number)
        return Asked(number, _from_search(self.arm.space, trial.params))

    def unfinished(self) -> list[Asked]:
        """The settings that were asked for and not told of."""
        return [
            Asked(trial.number, _from_search(self.arm.space, trial.params))
            for trial in self._known()
            if trial.state == TrialState.RUNNING
        ]

    def restore(self, past: Sequence[Past]) -> bool:
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
            self._make_again([self._trial(setting) for setting in past])
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

    def _make_again(self, trials: Sequence[FrozenTrial]) -> None:
        optuna.delete_study(study_name=self._name, storage=self._memory)
        self._study, self._history = self._make(), self._new_history()
        self._study.add_trials(trials)
        if self._stored is not None:
            self._stored.replace(self._known())

    def _trial(self, setting: Past) -> FrozenTrial:
        value, values = _objective(setting.state, setting.reports)
        return create_trial(
            state=TOLD.get(setting.state, TrialState.RUNNING),
            value=value,
            params=dict(_to_search(self.arm.space, setting.knobs)),
            distributions=self._distributions,
            intermediate_values=values,
        )

    def _agrees(self, past: Sequence[Past]) -> bool:
        pairs = itertools.zip_longest(self._known(), past)
        return all(trial is not None and self._agrees_on(trial, setting) for trial, setting in pairs)

    def _agrees_on(self, trial: FrozenTrial, setting: Past | None) -> bool:
        running = trial.state == TrialState.RUNNING
        if setting is None:
            return running
        if trial.distributions != self._distributions or _from_search(self.arm.space, trial.params) != setting.knobs:
            return False
        told = trial.state, (trial.value, trial.intermediate_values)
        return running or told == (TOLD.get(setting.state), _objective(setting.state, setting.reports))

    def _shown(self) -> optuna.Study:
        """The study as its sampler sees it."""
        if self._sampler.name not in FORGETFUL:
            return self._study
        return _Shown(self._study, self._history.shown(self._study.get_trials(deepcopy=False)))

    def _new_history(self) -> History[FrozenTrial]:
        sign = -1.0 if self._direction == StudyDirection.MAXIMIZE else 1.0
        return History(BEST, NEWEST, lambda trial: trial.state.is_finished(), partial(_rank, sign))

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


FORGETFUL = ("tpe",)
"""Samplers that are shown a part of a long study: whose cost grows with every trial, and whose choice hardly does."""
BEST = 25
"""As many good trials as TPE ever tells from the others, by its own order: none of them is missed."""
NEWEST = 225
"""With so many others there are BEST good ones among them, as TPE counts (a tenth)."""


class _Shown(optuna.Study):
    """A study of which only some trials are seen."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        self.__setstate__(study.__getstate__())
        self._trials = trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


def _rank(sign: float, trial: FrozenTrial) -> Rank | None:
    """A trial's place in TPE's order: complete ones by value, then pruned ones by how far they came, then by value."""
    if trial.state == TrialState.COMPLETE:
        assert trial.value is not None
        return 0, sign * trial.value
    if trial.state != TrialState.PRUNED:
        return None
    if not trial.intermediate_values:
        return (2,)
    step, value = max(trial.intermediate_values.items())
    return 1, -step, sign * value


class _Tpe(optuna.samplers.TPESampler):
    """TPE on trials that all have the same knobs, so that one of them says which."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        useful = (TrialState.COMPLETE, TrialState.PRUNED)
        for ended in study._get_trials(deepcopy=False, states=useful)[:1]:
            return {knob: found for knob, found in sorted(ended.distributions.items()) if not found.single()}
        return {}


def _tpe(sampler: SamplerSpec, seeds: Seeds, trials: int) -> BaseSampler:
    # Ten random trials, Optuna's default, would make a small search all random, and cost a longer one epochs.
    startup = sampler.startup_trials or max(3, min(5, trials // 3))
    return _Tpe(seed=seeds.ask, n_startup_trials=startup)


def _random(sampler: SamplerSpec, seeds: Seeds, trials: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seeds.ask)


class _Sequence(optuna.samplers.QMCSampler):
    """Takes the point of the sequence that belongs to a trial's number, so that asked again it gives the same.

    Optuna counts the points in the study, which forgets them when it is lost, and goes on when an ask is cut short.
    """

    def __init__(self, place: int, **options: Any) -> None:
        super().__init__(**options)
        self._place = place

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._place


def _qmc(sampler: SamplerSpec, seeds: Seeds, trials: int) -> BaseSampler:
    return _Sequence(
        seeds.place,
        seed=seeds.study,
        scramble=True,
        # Until a trial has given values there is no sequence: with the study's seed every such ask would be the same.
        independent_sampler=optuna.samplers.RandomSampler(seed=seeds.ask),
        warn_asynchronous_seeding=False,
        warn_independent_sampling=False,
    )


def _gp(sampler: SamplerSpec, seeds: Seeds, trials: int) -> BaseSampler:
    startup = sampler.startup_trials or max(3, min(10, trials // 3))
    return optuna.samplers.GPSampler(seed=seeds.ask, n_startup_trials=startup)


def _cmaes(sampler: SamplerSpec, seeds: Seeds, trials: int) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seeds.ask, n_startup_trials=sampler.startup_trials or 1)


SAMPLERS: Mapping[str, Callable[[SamplerSpec, Seeds, int], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "qmc": _qmc,
    "gp": _gp,
    "cmaes": _cmaes,
}
"""Samplers by name: (options, seeds, planned trials) to Optuna's sampler."""


def importances(arm: Arm, trials: Sequence[tuple[Mapping[str, Scalar], float]], maximize: bool) -> Mapping[str, float]:
    """Each knob's share of what the objective varied by; empty where there are too few trials to tell.

    PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255): what sets the better trials apart from all.

    Args:
        arm: whose search space it is.
        trials: knobs and objective of each that trained to its end.
        maximize: whether larger is better.
    """
    if len(trials) < LEAST_IMPORTANCE or len({value for _, value in trials}) == 1:
        return {}
    distributions = dict(map(_distribution, arm.space.items()))
    study = optuna.create_study(direction=StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE)
    for knobs, value in trials:
        params = dict(_to_search(arm.space, knobs))
        study.add_trial(create_trial(params=params, distributions=distributions, value=value))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    shares = {name.removeprefix(ONE_MINUS): float(share) for name, share in found.items()}
    return shares if all(math.isfinite(share) for share in shares.values()) else {}


def _distribution(item: tuple[str, Domain]) -> tuple[str, BaseDistribution]:
    knob, domain = item
    match domain:
        case Choice():
            return knob, CategoricalDistribution(domain.values)
        case Float(scale="one-minus-log"):
            return ONE_MINUS + knob, FloatDistribution(1 - domain.high, 1 - domain.low, log=True)
        case Float():
            return knob, FloatDistribution(domain.low, domain.high, log=domain.scale == "log")
        case Int():
            return knob, IntDistribution(domain.low, domain.high, log=domain.scale == "log", step=domain.step)


def _to_search(space: Mapping[str, Domain], knobs: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    return {
        ONE_MINUS + knob if _is_one_minus(space[knob]) else knob: 1 - float(value)
        if _is_one_minus(space[knob])
        else value
        for knob, value in knobs.items()
    }


def _from_search(space: Mapping[str, Domain], params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    return {
        knob: 1 - float(params[ONE_MINUS + knob]) if _is_one_minus(domain) else params[knob]
        for knob, domain in space.items()
    }


def _is_one_minus(domain: Domain) -> bool:
    return isinstance(domain, Float) and domain.scale == "one-minus-log"
