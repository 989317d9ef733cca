"""The table of samplers: each row creates one of Optuna's samplers from the spec's options and from seeds."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from tuner.search.distributions import TriedSettings
from tuner.spec.settings import SamplerSpec


class Seeds(NamedTuple):
    """Seeds of a sampler: of this ask, and of the study's sequence (for qmc) with the trial's place in it."""

    ask: int
    study: int
    place: int


class _Tpe(optuna.samplers.TPESampler):
    """TPE whose settings keep a distance to those that were tried, as long as it finds no better one.

    Without the distance it may propose its best setting again and again, with tiny changes, and never leave it.

    Knobs that apply together are sampled together, and the knobs that they depend on before them. Each group learns
    from the trials that have it, as with Optuna's option ``group``, which samples the groups that do not apply too.
    """

    def __init__(self, tried: TriedSettings, **options: Any) -> None:
        super().__init__(**options)
        self._tried = tried
        self._params: dict[str, Any] = {}
        """What was sampled for the trial so far: the knobs that the next group depends on are among them."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._tried.distributions

    def _sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._params = {}
        for group in self._tried.groups():
            if self._tried.apply(group, self._params):
                self._params |= super()._sample_relative(study, trial, group)
        return self._params

    def _compute_acquisition_func(
        self, samples: dict[str, NDArray[np.float64]], mpe_below: Any, mpe_above: Any
    ) -> NDArray[np.float64]:
        """TPE's rating of each candidate, where one that is too near is out; if all are, all but the farthest are."""
        found: NDArray[np.float64] = super()._compute_acquisition_func(samples, mpe_below, mpe_above)
        known = self._tried.distributions
        columns = {
            knob: [known[knob].to_external_repr(value) for value in samples[knob]] for knob in known if knob in samples
        }
        rows = [self._params | dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        spare = self._tried.spare(rows)
        return np.where(spare >= min(0.0, spare.max()), found, -np.inf)


def _tpe(sampler: SamplerSpec, seeds: Seeds, trials: int, tried: TriedSettings) -> BaseSampler:
    # Optuna's default of ten random trials would make a small search all random, and would cost a longer one epochs.
    startup = sampler.startup_trials or max(3, min(5, trials // 3))
    return _Tpe(tried, seed=seeds.ask, n_startup_trials=startup)


def _random(sampler: SamplerSpec, seeds: Seeds, trials: int, tried: TriedSettings) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seeds.ask)


class _Sequence(optuna.samplers.QMCSampler):
    """Takes the point of the sequence that belongs to a trial's number, so that a repeated ask gives the same point.

    Optuna counts the points in the study. That count is lost with the study, and it counts asks that were cut short.
    """

    def __init__(self, place: int, tried: TriedSettings, **options: Any) -> None:
        super().__init__(**options)
        self._place = place
        self._tried = tried

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        # Optuna takes the knobs of the first trial. A point has a coordinate for each conditional knob, and it is not
        # used where the knob does not apply.
        if self._tried.is_conditional:
            return self._tried.distributions
        return super().infer_relative_search_space(study, trial)

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._place


def _qmc(sampler: SamplerSpec, seeds: Seeds, trials: int, tried: TriedSettings) -> BaseSampler:
    return _Sequence(
        seeds.place,
        tried,
        seed=seeds.study,
        scramble=True,
        # There is no sequence before a trial has given values. With the study's seed all these asks would be the same.
        independent_sampler=optuna.samplers.RandomSampler(seed=seeds.ask),
        warn_asynchronous_seeding=False,
        warn_independent_sampling=False,
    )


def _gp(sampler: SamplerSpec, seeds: Seeds, trials: int, tried: TriedSettings) -> BaseSampler:
    startup = sampler.startup_trials or max(3, min(10, trials // 3))
    return optuna.samplers.GPSampler(seed=seeds.ask, n_startup_trials=startup)


def _cmaes(sampler: SamplerSpec, seeds: Seeds, trials: int, tried: TriedSettings) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seeds.ask, n_startup_trials=sampler.startup_trials or 1)


SAMPLERS: Mapping[str, Callable[[SamplerSpec, Seeds, int, TriedSettings], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "qmc": _qmc,
    "gp": _gp,
    "cmaes": _cmaes,
}
"""Samplers by name: a function of (options, seeds, planned trials, tried settings)."""

REPLAYED = ("cmaes",)
"""Samplers that keep notes beside the trials: a study built from the record repeats its asks and tells for them."""
