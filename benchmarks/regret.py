"""The loss of our TPE on smooth functions, against TPE that sees every trial, and TPE that keeps no distance.

As long as the whole study is shown, ours runs the same trials as one that sees every trial. They differ only in the
trials after that. The other comparison shows what the distance costs where it is right to look closer and closer.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple
from unittest import mock

import optuna

from benchmarks.measuring import Comparison, Goal, Result, say
from trainables.space import Choice, Domain, Float, Int, Scalar
from tuner.search import distributions
from tuner.search.study import ArmStudy, Proposal
from tuner.search.trial_window import BEST, NEWEST
from tuner.spec.arms import Arm
from tuner.spec.settings import SamplerSpec
from tuner.storage.events import State

TRIALS, FEW = 500, 60
"""Trials of a long search, and of a short one."""
SEEDS_A_PAIR = 4
FEW_SEEDS_A_PAIR = 10
PROCESSES = 2

Knobs = Mapping[str, Scalar]


class Problem(NamedTuple):
    """A function to minimize and its minimum."""

    space: Mapping[str, Domain]
    value: Callable[[Knobs], float]
    least: float


class _AllSeeing(ArmStudy):
    """A study that shows every trial to its sampler."""

    def _shown(self) -> optuna.Study:
        return self._study


class _Near(ArmStudy):
    """A study whose TPE keeps no distance to what was tried."""

    def ask(self) -> Proposal:
        with mock.patch.object(distributions, "SPACING", 0.0):
            return super().ask()


def measure(pairs: int, trials: int = TRIALS, few: int = FEW) -> Result:
    """Minimize every problem in every way, with ``SEEDS_A_PAIR`` or ``FEW_SEEDS_A_PAIR`` seeds per pair."""
    return Result(
        f"Trials run one after the other: {trials} with {pairs * SEEDS_A_PAIR} seeds, and {few} with"
        f" {pairs * FEW_SEEDS_A_PAIR} seeds. The regret is the distance of the best value to the minimum. Ours shows"
        f" TPE the best {BEST} trials and the newest {NEWEST} others.",
        (
            *_compared("seeing", "TPE shown all trials", trials, range(pairs * SEEDS_A_PAIR), Goal(1.1, "most")),
            *_compared("near", "TPE that keeps no distance", few, range(pairs * FEW_SEEDS_A_PAIR), None),
        ),
    )


def _compared(peer: str, title: str, trials: int, seeds: Sequence[int], goal: Goal | None) -> list[Comparison]:
    runs = [(kind, name, seed) for name in PROBLEMS for seed in seeds for kind in ("ours", peer)]
    with ProcessPoolExecutor(PROCESSES) as pool:
        found = dict(zip(runs, pool.map(regret, *zip(*((*run, trials) for run in runs), strict=True)), strict=True))
    say(f"{len(runs)} searches of {trials} trials")

    def regrets(kind: str, name: str) -> tuple[float, ...]:
        return tuple(found[kind, name, seed] for seed in seeds)

    unit = "distance to the minimum"
    return [
        Comparison(f"regret on {name}, {trials} trials", title, unit, regrets("ours", name), regrets(peer, name), goal)
        for name in PROBLEMS
    ]


def regret(kind: str, name: str, seed: int, trials: int) -> float:
    """The distance of a search's best value to the minimum."""
    problem = PROBLEMS[name]
    arm = Arm(name, name, problem.space, {}, {knob: _start(domain) for knob, domain in problem.space.items()})
    study = KINDS[kind](arm, SamplerSpec(), seed, trials, maximize=False)
    best = math.inf
    for _ in range(trials):
        asked = study.ask()
        value = problem.value(asked.knobs)
        study.tell(asked.number, State.COMPLETE, [(1, value)])
        best = min(best, value)
    return best - problem.least


def branin(knobs: Knobs) -> float:
    """A function with three equal minima."""
    x, y = _numbers(knobs)
    return (
        (y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6) ** 2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10
    )


def hartmann6(knobs: Knobs) -> float:
    """A function with six minima in six dimensions."""
    xs = _numbers(knobs)
    return -sum(
        weight * math.exp(-sum(a * (x - p) ** 2 for a, x, p in zip(row, xs, centre, strict=True)))
        for weight, row, centre in zip(HARTMANN_WEIGHTS, HARTMANN_A, HARTMANN_P, strict=True)
    )


def rosenbrock(knobs: Knobs) -> float:
    """A curved valley."""
    xs = _numbers(knobs)
    return sum(100 * (b - a**2) ** 2 + (1 - a) ** 2 for a, b in itertools.pairwise(xs))


def mixed(knobs: Knobs) -> float:
    """A learning rate, a width and an optimizer. Each optimizer has its own best learning rate."""
    best_lr, cost = {"a": (1e-3, 0.0), "b": (1e-2, 0.05), "c": (1e-1, 0.1)}[str(knobs["kind"])]
    lr, width = float(knobs["lr"]), int(knobs["width"])
    return cost + 0.1 * math.log10(lr / best_lr) ** 2 + 0.01 * abs(width - 37)


HARTMANN_WEIGHTS = (1.0, 1.2, 3.0, 3.2)
HARTMANN_A = (
    (10, 3, 17, 3.5, 1.7, 8),
    (0.05, 10, 17, 0.1, 8, 14),
    (3, 3.5, 1.7, 10, 17, 8),
    (17, 8, 0.05, 10, 0.1, 14),
)
HARTMANN_P = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)
PROBLEMS: Mapping[str, Problem] = {
    "branin": Problem({"x": Float(-5, 10), "y": Float(0, 15)}, branin, 0.397887),
    "hartmann6": Problem({f"x{i}": Float(0, 1) for i in range(6)}, hartmann6, -3.32237),
    "rosenbrock": Problem({f"x{i}": Float(-2, 2) for i in range(4)}, rosenbrock, 0.0),
    "mixed": Problem(
        {"kind": Choice(("c", "b", "a")), "lr": Float(1e-5, 1, "log"), "width": Int(1, 256, "log")}, mixed, 0.0
    ),
}
KINDS: Mapping[str, type[ArmStudy]] = {"ours": ArmStudy, "seeing": _AllSeeing, "near": _Near}


def _numbers(knobs: Knobs) -> list[float]:
    return [float(value) for value in knobs.values()]


def _start(domain: Domain) -> Scalar:
    """The value for the first trial, which is a poor one."""
    return domain.values[0] if isinstance(domain, Choice) else domain.low
