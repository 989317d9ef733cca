"""Our search spaces as Optuna's: distributions of an arm's knobs, and settings there and back.

Optuna has no scale for numbers close to 1. A knob ``x`` on the scale ``one-minus-log`` is searched as ``one_minus_x``.
"""

import warnings
from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from trainables.space import Choice, Domain, Float, Int, Scalar

optuna.logging.set_verbosity(optuna.logging.ERROR)
# Optuna marks qmc, gp and multivariate TPE as experimental. We chose them knowingly.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

ONE_MINUS = "one_minus_"


def distributions(space: Mapping[str, Domain]) -> dict[str, BaseDistribution]:
    """The distributions of a search space, by Optuna's names of the knobs."""
    return {_name(knob, domain): _distribution(domain) for knob, domain in space.items()}


def to_search(space: Mapping[str, Domain], knobs: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """A setting as Optuna's parameters."""
    return {
        _name(knob, space[knob]): 1 - float(value) if _is_one_minus(space[knob]) else value
        for knob, value in knobs.items()
    }


def from_search(space: Mapping[str, Domain], params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Optuna's parameters as a setting."""
    found = {knob: params[_name(knob, domain)] for knob, domain in space.items()}
    return {knob: 1 - float(value) if _is_one_minus(space[knob]) else value for knob, value in found.items()}


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
