"""Simulated jobs of the A/A benchmark: arms whose searches come from one bank, and the rules that judge them.

Every arm of a job draws from the same bank, so no variant is better than the baseline. A *gain* makes the first variant
better by a known number of points.

Letters of shapes: J jobs, A arms (the baseline first), V variants, U units (searches, or confirm seeds of one search).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from benchmarks.tables.bank import Bank
from benchmarks.tables.table import TABLES
from tuner.storage.events import Outcome
from tuner.verdict.looks import LookPlan, simulate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ALPHA = 0.05
HALF_WIDTHS: Mapping[str, tuple[float, ...]] = {
    "digits": (1.01, 1.49, 2.05, 2.64),
    "cifar10": (1.23, 1.64, 1.57, 1.45),
}
"""Half-widths in points of the 95 % intervals of seed-wise differences over 5 seeds, which our searches published.

They are in docs/results/quickstart.md and docs/results/cifar10-small.md.
"""
PUBLISHED_SEEDS = 5
OWN_SHARE = 0.5
"""Noise of a fresh seed on a table of TaskSet, as a share of the sd of the winners' values. No seed was repeated there.
The share is near that of our own tables."""
ROUND = 5
"""Confirm seeds per round."""
MOST_ROUNDS = 5


class Jobs(NamedTuple):
    """Simulated jobs.

    Args:
        differences_JVU: variant minus baseline in points, for each unit.
        searched_JAU: epochs of each search. With one search per arm, U is 1.
    """

    differences_JVU: Floats
    searched_JAU: Ints


class Judged(NamedTuple):
    """The verdicts of jobs.

    Args:
        outcomes_JV: values of ``Outcome``.
        used_JV: units of each variant.
    """

    outcomes_JV: NDArray[np.str_]
    used_JV: Ints


def seed_sd(bank: Bank) -> float:
    """The sd in points of the effect of a fresh seed on one arm alone.

    A seed also has an effect that all arms share. This effect cancels in the differences, so it is not drawn.
    """
    if bank.name not in TABLES:
        return OWN_SHARE * float(bank.values_S.std())
    widths = HALF_WIDTHS["cifar10" if bank.name.startswith("cifar10") else "digits"]
    critical = float(stdtrit(PUBLISHED_SEEDS - 1, 1 - ALPHA / 2))
    sds = [width * math.sqrt(PUBLISHED_SEEDS) / critical for width in widths]
    return math.sqrt(sum(sd**2 for sd in sds) / len(sds) / 2)


def difference_sd(bank: Bank) -> float:
    """The sd in points of the difference of two searches of one arm, with one fresh seed each."""
    return math.sqrt(2 * (float(bank.values_S.var()) + seed_sd(bank) ** 2))


def draw_searches(bank: Bank, jobs: int, variants: int, units: int, rng: np.random.Generator) -> Jobs:
    """Jobs whose unit is a search: each arm has ``units`` searches, and each winner has one confirm seed."""
    drawn_JAU = rng.integers(len(bank.values_S), size=(jobs, variants + 1, units))
    values_JAU = bank.values_S[drawn_JAU] + rng.normal(0, seed_sd(bank), drawn_JAU.shape)
    return Jobs(values_JAU[:, 1:] - values_JAU[:, :1], bank.epochs_S[drawn_JAU])


def draw_seeds(bank: Bank, jobs: int, variants: int, units: int, rng: np.random.Generator) -> Jobs:
    """Jobs whose unit is a seed: each arm has one search, and its winner has ``units`` confirm seeds."""
    drawn_JA1 = rng.integers(len(bank.values_S), size=(jobs, variants + 1, 1))
    values_JAU = bank.values_S[drawn_JA1] + rng.normal(0, seed_sd(bank), (jobs, variants + 1, units))
    return Jobs(values_JAU[:, 1:] - values_JAU[:, :1], bank.epochs_S[drawn_JA1])


def gained(jobs: Jobs, gain: float) -> Jobs:
    """The same jobs, with a first variant that is better by ``gain`` points."""
    differences_JVU = jobs.differences_JVU.copy()
    differences_JVU[:, 0] += gain
    return jobs._replace(differences_JVU=differences_JVU)


def fixed(differences_JVU: Floats, margin: float) -> Judged:
    """Judge all units at once, as ``tuner.verdict.paired_test.compare`` does, for many jobs."""
    n, variants = differences_JVU.shape[2], differences_JVU.shape[1]
    mean_JV, error_JV = differences_JVU.mean(2), differences_JVU.std(2, ddof=1) / math.sqrt(n)
    p_JV = 2 * stdtr(n - 1, -np.abs(mean_JV) / error_JV)
    order_JV = np.argsort(p_JV, axis=1)
    stepped_JV = np.take_along_axis(p_JV, order_JV, 1) * np.arange(variants, 0, -1)
    holm_JV = np.empty_like(p_JV)
    np.put_along_axis(holm_JV, order_JV, np.maximum.accumulate(stepped_JV, axis=1), 1)
    tied_JV = np.abs(mean_JV) + stdtrit(n - 1, 1 - ALPHA / 2) * error_JV < margin
    side_JV = np.where(mean_JV > 0, Outcome.BEATS.value, Outcome.LOSES.value)
    decided_JV = np.where(holm_JV < ALPHA, side_JV, Outcome.NOT_ENOUGH.value)
    return Judged(np.where(tied_JV, Outcome.TIES.value, decided_JV), np.full(mean_JV.shape, n))


def rounds(differences_JVU: Floats, margin: float) -> Judged:
    """Confirm again with fresh seeds until every variant is settled, as the verdict advised. The last round counts."""
    judged = fixed(differences_JVU[:, :, :ROUND], margin)
    for number in range(1, MOST_ROUNDS):
        fresh = fixed(differences_JVU[:, :, number * ROUND : (number + 1) * ROUND], margin)
        again_J1 = (judged.outcomes_JV == Outcome.NOT_ENOUGH).any(1, keepdims=True) & (
            judged.used_JV[:, :1] == number * ROUND
        )
        judged = Judged(
            np.where(again_J1, fresh.outcomes_JV, judged.outcomes_JV),
            judged.used_JV + ROUND * again_J1,
        )
    return judged


def looks(at: tuple[int, ...]) -> Callable[[Floats, float], Judged]:
    """Judge at looks, with the rule of ``tuner.verdict.looks``.

    Args:
        at: numbers of units at the looks, ascending.
    """

    def judge(differences_JVU: Floats, margin: float) -> Judged:
        return Judged(*simulate(LookPlan(at, margin, differences_JVU.shape[1], ALPHA), differences_JVU))

    return judge


def placebo_warns(at: tuple[int, ...], differences_JU: Floats, last_J: Ints) -> NDArray[np.bool_]:
    """Whether the test of a placebo warns, which runs alone at a two-sided 5 % spent over the looks.

    Args:
        at: numbers of units at the looks, ascending.
        differences_JU: placebo minus baseline, in points.
        last_J: units of each job, at which the placebo ends too.
    """
    # As ``tuner.verdict.looks.judge_alone``, for many jobs.
    plan = LookPlan(at, margin=0.0, variants=1, alpha=ALPHA, futile=0.0)
    outcomes_J1, units_J1 = simulate(plan, differences_JU[:, None, :])
    decided_J = np.isin(outcomes_J1[:, 0], (Outcome.BEATS, Outcome.LOSES))
    warns_J: NDArray[np.bool_] = decided_J & (units_J1[:, 0] <= last_J)
    return warns_J


@dataclass(frozen=True)
class Rule:
    """How jobs are judged.

    Args:
        unit: the unit of the claim: a search (the claim is about the method), or a seed of one search's winner (the
            claim is about this setting).
        most: largest number of units.
        judge: gives the verdicts from the differences and the margin in points.
        at: the looks; empty if there is one look only.
    """

    unit: Literal["search", "seed"]
    most: int
    judge: Callable[[Floats, float], Judged]
    at: tuple[int, ...] = ()


SHORT, LONG = (4, 6, 8, 12), (5, 8, 12, 18, 25)
RULES: Mapping[str, Rule] = {
    "looks 4/6/8/12": Rule("search", 12, looks(SHORT), SHORT),
    "looks 5/8/12/18/25": Rule("search", 25, looks(LONG), LONG),
    "12 searches": Rule("search", 12, fixed),
    "25 searches": Rule("search", 25, fixed),
    "5 seeds of one search": Rule("seed", 5, fixed),
    "10 seeds of one search": Rule("seed", 10, fixed),
    "rounds of 5 seeds of one search": Rule("seed", ROUND * MOST_ROUNDS, rounds),
}
"""The rules that are compared, by name."""


def judged_jobs(rule: Rule, jobs: Jobs, margin: float) -> Judged:
    """Judge jobs by the first units that the rule may use."""
    return rule.judge(jobs.differences_JVU[:, :, : rule.most], margin)


def epochs_of(rule: Rule, jobs: Jobs, judged: Judged, training: int) -> Ints:
    """Epochs that each job spends. A settled variant stops, and the baseline stops with the last variant.

    Args:
        rule: its unit says what a unit costs: a search and one confirm run, or one confirm run.
        jobs: the epochs of the searches.
        judged: the units that each variant used.
        training: epochs of one confirm run.
    """
    used_JA = np.concatenate([judged.used_JV.max(1, keepdims=True), judged.used_JV], axis=1)
    if rule.unit == "seed":
        searched_J: Ints = (jobs.searched_JAU[:, :, 0] + training * used_JA).sum(1)
        return searched_J
    spent_JAU = np.cumsum(jobs.searched_JAU + training, axis=2)
    spent_J: Ints = np.take_along_axis(spent_JAU, used_JA[:, :, None] - 1, 2).sum((1, 2))
    return spent_J
