"""The arms' Optuna studies: the one module that imports optuna.

A study is asked for settings and told the truth: COMPLETE, PRUNED with the step it reached, or FAIL.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from trainables.config import derive_seed
from trainables.space import Choice, Domain, Float, Int, Scalar
from tuner.arms import Arm
from tuner.errors import ServiceError, without_password
from tuner.limits import SamplerSpec

optuna.logging.set_verbosity(optuna.logging.ERROR)
# qmc, gp and multivariate TPE are marked experimental: chosen knowingly.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

ONE_MINUS = "one_minus_"


@dataclass(frozen=True)
class Asked:
    """A setting to try: its number in the study and the searched knobs."""

    number: int
    knobs: Mapping[str, Scalar]


class Seeds(NamedTuple):
    """Seeds of a sampler: of this ask, and of a sequence that the whole study draws from (qmc's)."""

    ask: int
    study: int


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
        self._distributions = dict(map(_distribution, arm.space.items()))
        self._study = optuna.create_study(
            storage=storage,
            study_name=f"{job}/{arm.name}",
            direction="maximize" if maximize else "minimize",
            load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(seed=seed),
        )
        trials_there = self._study.get_trials(deepcopy=False)
        self._asked = sum(trial.state != TrialState.WAITING for trial in trials_there)
        if not trials_there:
            self._study.enqueue_trial(dict(_to_search(arm.space, arm.default)))

    def ask(self) -> Asked:
        """The next setting to try."""
        self._study.sampler = SAMPLERS[self._sampler.name](self._sampler, self._seeds(), self._trials)
        trial = self._study.ask(fixed_distributions=self._distributions)
        self._asked += 1
        return Asked(trial.number, _from_search(self.arm.space, trial.params))

    def tell_complete(self, number: int, reports: Sequence[tuple[int, float]]) -> None:
        """The trial trained to its end; its objective is the last report's."""
        self._report(number, reports)
        self._study.tell(number, reports[-1][1], state=TrialState.COMPLETE)

    def tell_pruned(self, number: int, reports: Sequence[tuple[int, float]]) -> None:
        """The trial was stopped by the scheduler after the last report."""
        self._report(number, reports)
        self._study.tell(number, state=TrialState.PRUNED)

    def tell_failed(self, number: int) -> None:
        """The trial diverged or raised."""
        self._study.tell(number, state=TrialState.FAIL)

    def _seeds(self) -> Seeds:
        return Seeds(*(derive_seed(self._seed, self.arm.name, part) % 2**32 for part in (str(self._asked), "qmc")))

    def _report(self, number: int, reports: Sequence[tuple[int, float]]) -> None:
        storage = self._study._storage
        trial_id = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        for step, value in reports:
            storage.set_trial_intermediate_value(trial_id, step, value)


def open_storage(url: str) -> BaseStorage:
    """The studies' database.

    Raises:
        ServiceError: it cannot be reached or is no studies' database.
    """
    try:
        return RDBStorage(url, skip_compatibility_check=False)
    except (SQLAlchemyError, ImportError, RuntimeError) as error:
        raise ServiceError(
            f"cannot open the studies' database {without_password(url)}: {_first_line(error)}"
        ) from error


def _tpe(sampler: SamplerSpec, seeds: Seeds, trials: int) -> BaseSampler:
    # Ten random trials, Optuna's default, would make a small search all random.
    startup = sampler.startup_trials or max(3, min(10, trials // 3))
    return optuna.samplers.TPESampler(seed=seeds.ask, n_startup_trials=startup)


def _random(sampler: SamplerSpec, seeds: Seeds, trials: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seeds.ask)


def _qmc(sampler: SamplerSpec, seeds: Seeds, trials: int) -> BaseSampler:
    return optuna.samplers.QMCSampler(
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


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
