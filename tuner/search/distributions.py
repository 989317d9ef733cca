"""Our search spaces as Optuna's: distributions of an arm's knobs, and settings there and back.

Optuna has no scale for numbers close to 1. A knob ``x`` on the scale ``one-minus-log`` is searched as ``one_minus_x``.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from trainables.errors import TrainableError
from trainables.space import ONE_MINUS, Choice, Conditions, Domain, Float, Int, Scalar, applies, share

optuna.logging.set_verbosity(optuna.logging.ERROR)
# Optuna marks qmc, gp and multivariate TPE as experimental. We chose them knowingly.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

SPACING = 0.8
"""The largest distance of a new setting to those that were tried, as a share of the distance in an even grid."""
PATIENCE = 10
"""After this many ended trials without a new best one, the distance is ``SPACING``."""
REMEMBERED = 1000
"""A new setting keeps its distance to this many of the newest ones."""


def distributions(space: Mapping[str, Domain]) -> dict[str, BaseDistribution]:
    """The distributions of a search space, by Optuna's names of the knobs."""
    return {_name(knob, domain): _distribution(domain) for knob, domain in space.items()}


def to_search(space: Mapping[str, Domain], knobs: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """A setting as Optuna's parameters; knobs outside of the space, and knobs that the setting lacks, are left out."""
    return {
        _name(knob, domain): 1 - float(knobs[knob]) if _is_one_minus(domain) else knobs[knob]
        for knob, domain in space.items()
        if knob in knobs
    }


def from_search(space: Mapping[str, Domain], params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Optuna's parameters as a setting."""
    names = {knob: _name(knob, domain) for knob, domain in space.items()}
    found = {knob: params[name] for knob, name in names.items() if name in params}
    return {knob: _value(space[knob], value) for knob, value in found.items()}


def _value(domain: Domain, param: Scalar) -> Scalar:
    if not isinstance(domain, Float):
        return param
    return 1 - float(param) if _is_one_minus(domain) else domain.on_grid(float(param))


def widened(space: Mapping[str, Domain], knobs: Mapping[str, Scalar]) -> dict[str, Domain]:
    """The space that contains a setting from the record, which may come from a version with other ranges.

    Args:
        space: the search space.
        knobs: the setting.

    Returns:
        The space, in which ranges of numbers reach to the setting's values. A knob is left out if its domain cannot
        take the value: above all a choice that no longer exists, because Optuna allows no new choices in a study.
    """
    found = {knob: _widened(domain, knobs[knob]) for knob, domain in space.items() if knob in knobs}
    return {knob: domain for knob, domain in found.items() if domain is not None}


class TriedSettings:
    """The settings that a study has tried, as places in the unit cube of its search space.

    A new setting keeps a distance to them. It is 0 when the study has just found a better setting, so that it can look
    closer there. It grows with each trial that ends without a better one, so that the study leaves a place where it
    finds nothing more. A knob of k choices has k axes, so that two different choices have the distance 1. A conditional
    knob lies in the middle of its axis where it does not apply: such settings differ in a choice anyway.

    Args:
        space: the search space. A knob that has one value only does not count.
        when: the conditions of its conditional knobs.
    """

    def __init__(self, space: Mapping[str, Domain], when: Conditions | None = None) -> None:
        self._space = space
        self._when = when or {}
        self.distributions = {name: found for name, found in distributions(space).items() if not found.single()}
        """Optuna's distributions of the knobs that count, by Optuna's names."""
        self._counted = [(name, knob) for knob in space if (name := _name(knob, space[knob])) in self.distributions]
        self._axes = np.array([name for name, knob in self._counted for _ in range(_axes(space[knob]))])
        """Optuna's name of the knob of each axis."""
        self._places_NA: NDArray[np.float64] | None = None
        self._tried = 0
        self._best: float | None = None
        self._in_vain = 0

    def add(self, knobs: Mapping[str, Scalar]) -> None:
        """Note a setting. One that lies outside of the space, from a version with other ranges, is no neighbour."""
        self._tried += 1
        if all(
            domain.contains(knobs[knob]) if knob in knobs else not applies(self._when, knob, knobs)
            for knob, domain in self._space.items()
        ):
            place = np.array([self._place(knobs)])
            known = () if self._places_NA is None else (self._places_NA[1 - REMEMBERED :],)
            self._places_NA = np.concatenate([*known, place])

    def note_end(self, value: float | None) -> None:
        """Note that a trial ended.

        Args:
            value: its objective if it is complete; larger is better.
        """
        if value is not None and (self._best is None or value > self._best):
            self._best, self._in_vain = value, 0
        elif self._best is not None:
            self._in_vain += 1

    def spare(self, candidates: Sequence[Mapping[str, Scalar]]) -> NDArray[np.float64]:
        """For each candidate, its distance to the nearest tried setting, less the distance that it must keep.

        In a grid of n points in d dimensions, neighbours are n ** (-1 / d) apart. A candidate must keep up to
        ``SPACING`` of that, so the settings come closer together as a study grows.

        Args:
            candidates: Optuna's parameters, at least one, each with a value for the same ones of ``distributions``. The
                distance is measured along these: the others do not apply, or are sampled after them.
        """
        if self._places_NA is None:
            return np.ones(len(candidates))
        given = np.isin(self._axes, list(candidates[0]))
        asked = np.array([self._place(from_search(self._space, candidate)) for candidate in candidates])[:, given]
        gaps = np.linalg.norm(asked[:, None, :] - self._places_NA[None, :, given], axis=2).min(axis=1)
        kept = SPACING * min(1.0, self._in_vain / PATIENCE)
        spare: NDArray[np.float64] = gaps - kept * self._tried ** (-1 / len(candidates[0]))
        return spare

    @property
    def is_conditional(self) -> bool:
        """Whether some knobs do not always apply."""
        return bool(self._when)

    def groups(self) -> list[dict[str, BaseDistribution]]:
        """The distributions of ``distributions`` in groups of knobs that apply together, parents first."""
        found: dict[str, dict[str, BaseDistribution]] = {}
        for name, knob in self._counted:
            found.setdefault(repr(self._when.get(knob, {})), {})[name] = self.distributions[name]
        return list(found.values())

    def apply(self, group: Iterable[str], params: Mapping[str, Scalar]) -> bool:
        """Whether a group of knobs applies beside these parameters, which have the knobs that it depends on.

        All names are Optuna's. A knob that others depend on is a choice, which has the same name in both.
        """
        names = dict(self._counted)
        return all(applies(self._when, names[name], params) for name in group)

    def _place(self, knobs: Mapping[str, Scalar]) -> list[float]:
        place: list[float] = []
        for _, knob in self._counted:
            domain = self._space[knob]
            if knob not in knobs:
                place += [0.5] * _axes(domain)
            elif isinstance(domain, Choice):
                place += [float(value == knobs[knob]) / math.sqrt(2) for value in domain.values]
            else:
                place.append(share(domain.scale, domain.low, domain.high, knobs[knob]))
        return place


def _axes(domain: Domain) -> int:
    return len(domain.values) if isinstance(domain, Choice) else 1


def _widened(domain: Domain, value: Scalar) -> Domain | None:
    if domain.contains(value):
        return domain
    if isinstance(domain, Choice) or isinstance(value, bool | str):
        return None
    try:
        if isinstance(domain, Float):
            return Float(min(domain.low, value), max(domain.high, value), domain.scale)
        if isinstance(value, int):
            step = domain.step if (value - domain.low) % domain.step == 0 else 1
            return Int(min(domain.low, value), max(domain.high, value), domain.scale, step)
    except TrainableError:
        # A scale may not reach to the value: log does not contain 0.
        pass
    return None


def _name(knob: str, domain: Domain) -> str:
    return ONE_MINUS + knob if _is_one_minus(domain) else knob


def _distribution(domain: Domain) -> BaseDistribution:
    match domain:
        case Choice():
            return CategoricalDistribution(domain.values)
        case Float(scale="one-minus-log"):
            return FloatDistribution(1 - domain.high, 1 - domain.low, log=True)
        case Float():
            return FloatDistribution(domain.low, domain.high, log=domain.scale == "log", step=domain.step)
        case Int():
            return IntDistribution(domain.low, domain.high, log=domain.scale == "log", step=domain.step)


def _is_one_minus(domain: Domain) -> bool:
    return isinstance(domain, Float) and domain.scale == "one-minus-log"
