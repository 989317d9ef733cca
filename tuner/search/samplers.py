"""The table of samplers: each row creates one of Optuna's samplers from the spec's options and from seeds."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from tuner.spec.settings import SamplerSpec


class Seeds(NamedTuple):
    """Seeds of a sampler: of this ask, and of the study's sequence (for qmc) with the trial's place in it."""

    ask: int
    study: int
    place: int


class _Tpe(optuna.samplers.TPESampler):
    """TPE on trials that all have the same knobs, so that one trial is enough to find the search space."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        useful = (TrialState.COMPLETE, TrialState.PRUNED)
        for ended in study._get_trials(deepcopy=False, states=useful)[:1]:
            return {knob: found for knob, found in sorted(ended.distributions.items()) if not found.single()}
        return {}


def _tpe(sampler: SamplerSpec, seeds: Seeds, trials: int) -> BaseSampler:
    # Optuna's default of ten random trials would make a small search all random, and would cost a longer one epochs.
    startup = sampler.startup_trials or max(3, min(5, trials // 3))
    return _Tpe(seed=seeds.ask, n_startup_trials=startup)


def _random(sampler: SamplerSpec, seeds: Seeds, trials: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seeds.ask)


class _Sequence(optuna.samplers.QMCSampler):
    """Takes the point of the sequence that belongs to a trial's number, so that a repeated ask gives the same point.

    Optuna counts the points in the study. That count is lost with the study, and it counts asks that were cut short.
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
        # There is no sequence before a trial has given values. With the study's seed all these asks would be the same.
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
"""Samplers by name: a function of (options, seeds, planned trials)."""

REPLAYED = ("cmaes",)
"""Samplers that keep notes beside the trials: a study built from the record repeats its asks and tells for them."""
