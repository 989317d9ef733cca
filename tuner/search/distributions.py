"""Our search spaces as Optuna's: distributions of an arm's knobs, and settings there and back.

Optuna has no scale for numbers close to 1. A knob ``x`` on the scale ``one-minus-log`` is searched as ``one_minus_x``.
"""

import warnings
from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from trainables.errors import TrainableError
from trainables.space import Choice, Domain, Float, Int, Scalar

optuna.logging.set_verbosity(optuna.logging.ERROR)
# Optuna marks qmc, gp and multivariate TPE as experimental. We chose them knowingly.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

ONE_MINUS = "one_minus_"


def distributions(space: Mapping[str, Domain]) -> dict[str, BaseDistribution]:
    """The distributions of a search space, by Optuna's names of the knobs."""
    return {_name(knob, domain): _distribution(domain) for knob, domain in space.items()}


def to_search(space: Mapping[str, Domain], knobs: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """A setting as Optuna's parameters; knobs outside of the space are left out."""
    return {
        _name(knob, domain): 1 - float(knobs[knob]) if _is_one_minus(domain) else knobs[knob]
        for knob, domain in space.items()
    }


def from_search(space: Mapping[str, Domain], params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Optuna's parameters as a setting."""
    names = {knob: _name(knob, domain) for knob, domain in space.items()}
    found = {knob: params[name] for knob, name in names.items() if name in params}
    return {knob: 1 - float(value) if _is_one_minus(space[knob]) else value for knob, value in found.items()}


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
            return FloatDistribution(domain.low, domain.high, log=domain.scale == "log")
        case Int():
            return IntDistribution(domain.low, domain.high, log=domain.scale == "log", step=domain.step)


def _is_one_minus(domain: Domain) -> bool:
    return isinstance(domain, Float) and domain.scale == "one-minus-log"
