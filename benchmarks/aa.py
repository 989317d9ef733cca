"""How often an arm beats itself: A/A jobs, whose arms all draw their searches from the same bank.

The jobs are simulated, so they need no training: ``benchmarks.tables.bank`` has the searches. A verdict on a *method*
counts independent searches per arm. A verdict on a *setting* counts confirm seeds of one search's winner. It cannot see
the luck of that search.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from benchmarks.aa_jobs import (
    RULES,
    Jobs,
    Rule,
    difference_sd,
    draw_searches,
    draw_seeds,
    epochs_of,
    gained,
    judged_jobs,
    placebo_warns,
    seed_sd,
)
from benchmarks.measuring import Comparison, Figure, Goal, Result, say
from benchmarks.tables.bank import NAMES, TRIALS, Bank, read
from benchmarks.tables.table import TABLES
from benchmarks.tables.taskset import TASKS
from trainables.config import derive_seed
from tuner.storage.events import Outcome

JOBS_A_PAIR = 400
VARIANTS = 4
NARROW, WIDE = 0.5, 1.0
"""Margins, as shares of the sd of the difference of two searches. The A/A jobs have the narrow margin. It allows few
ties, which would hide false claims. The jobs with a gain have both margins: the wide one can tie, and with the narrow
one most arms without a gain end as futile."""
GAINS = (0.0, 0.5, 1.0, 2.0, 3.0)
"""Gains of the first variant, as shares of the same sd."""
SETTLED = (Outcome.BEATS, Outcome.LOSES, Outcome.TIES)
CONFIDENCE = 0.95
MOST_COST = 0.70
"""Largest accepted ratio of the epochs of looks up to 12 searches to those of 12 searches, with the narrow margin."""
MOST_FALSE = 2.5
"""Largest accepted share of jobs in percent where any variant without a gain beats the baseline: half of 5 %."""
GROUPS: Mapping[str, Sequence[str]] = {
    "our tables": tuple(TABLES),
    "TaskSet": tuple(TASKS),
    "all tables": NAMES,
}
"""Tables whose results are also given together."""


@dataclass(frozen=True)
class Share:
    """The share of the cases in which an event happened."""

    count: int
    of: int

    @property
    def percent(self) -> float:
        """The share in percent."""
        return 100 * self.count / self.of

    @property
    def upper(self) -> float:
        """Its one-sided 95 % upper bound in percent (Clopper & Pearson 1934, Biometrika 26:404)."""
        if self.count == self.of:
            return 100.0
        return 100 * float(betaincinv(self.count + 1, self.of - self.count, CONFIDENCE))


@dataclass(frozen=True)
class Found:
    """The verdicts of a rule on the jobs of a table.

    Args:
        beats: jobs where the first variant beats the baseline.
        ties: jobs where it ties.
        false: jobs where any variant without a gain beats the baseline.
        settled: variants that beat, lose or tie, among the variants of all jobs.
        warns: jobs where the placebo warns; None for a rule without looks.
        epochs: mean epochs of a job until the rule stops.
    """

    beats: Share
    ties: Share
    false: Share
    settled: Share
    warns: Share | None
    epochs: float


Table = Mapping[str, Mapping[str, Found]]
"""Name of a recorded table -> name of a rule -> the verdicts."""


def measure(pairs: int, tables: Sequence[str] = NAMES, jobs_a_pair: int = JOBS_A_PAIR) -> Result:
    """Simulate ``pairs * jobs_a_pair`` jobs per table, gain and number of variants."""
    jobs = pairs * jobs_a_pair
    banks = [read(name) for name in tables]
    alike = {variants: _simulate(banks, jobs, variants, 0.0, NARROW) for variants in (1, VARIANTS)}
    better = {
        (gain, margin): _simulate(banks, jobs, VARIANTS, gain, margin) for margin in (NARROW, WIDE) for gain in GAINS
    }
    return Result(
        f"Each arm of a job draws its searches from the bank of a table, which has {len(banks[0].values_S)} independent"
        f" searches of {TRIALS} trials. A fresh seed adds noise. All arms are the same. In the jobs with a gain, the"
        f" first of {VARIANTS} variants is better by the gain, in sd of the difference of two searches of one arm. The"
        f" margin is {NARROW:g} sd in the A/A jobs, and {NARROW:g} or {WIDE:g} sd in the jobs with a gain. There are"
        f" {jobs} jobs per table. Ratios and figures have one value per table, where other benchmarks have one per"
        " run.",
        tuple(_comparisons(better)),
        {
            "tables": {bank.name: described(bank) for bank in banks},
            **{f"A/A, variants: {variants}": _plain(found) for variants, found in alike.items()},
            **{f"gain {gain:g} sd, margin {margin:g} sd": _plain(found) for (gain, margin), found in better.items()},
        },
        tuple(_figures(alike[VARIANTS])),
    )


def simulated(bank: Bank, jobs: int, variants: int, gain: float = 0.0, margin: float = NARROW) -> dict[str, Found]:
    """Simulate jobs of one table and judge them by every rule. All rules see the same searches.

    Args:
        bank: the searches of every arm.
        jobs: number of jobs.
        variants: number of variants. A placebo, which is no variant, is in every job.
        gain: true difference of the first variant, in sd of the difference of two searches.
        margin: margin for a tie, in the same unit.

    Returns:
        The verdicts, by the rule's name.
    """
    sd = difference_sd(bank)
    most = max(rule.most for rule in RULES.values())
    # The seed does not depend on the gain, so that a larger gain changes nothing else.
    rng = np.random.default_rng(derive_seed(0, "aa", bank.name, variants))
    drawn = {
        "search": draw_searches(bank, jobs, variants + 1, most, rng),
        "seed": draw_seeds(bank, jobs, variants + 1, most, rng),
    }
    return {
        name: _found(rule, gained(drawn[rule.unit], gain * sd), bank, has_gain=gain > 0, margin=margin * sd)
        for name, rule in RULES.items()
    }


def described(bank: Bank) -> dict[str, float]:
    """The numbers of a bank that decide how hard its jobs are to judge. The sds are in points."""
    return {
        "different values of winners": len(np.unique(bank.values_S)),
        "sd of winners": round(float(bank.values_S.std()), 3),
        "sd of a fresh seed": round(seed_sd(bank), 3),
        "sd of a difference": round(difference_sd(bank), 3),
        "epochs of a search": round(float(bank.epochs_S.mean()), 1),
        "epochs of a confirm run": bank.epochs,
    }


def _simulate(banks: Sequence[Bank], jobs: int, variants: int, gain: float, margin: float) -> Table:
    found = {bank.name: simulated(bank, jobs, variants, gain, margin) for bank in banks}
    say(f"{variants} variants, gain {gain:g} sd, margin {margin:g} sd: {jobs} jobs on each of {len(banks)} tables")
    return found


def _found(rule: Rule, drawn: Jobs, bank: Bank, *, has_gain: bool, margin: float) -> Found:
    arms = Jobs(drawn.differences_JVU[:, :-1], drawn.searched_JAU[:, :-1])
    judged = judged_jobs(rule, arms, margin)
    outcomes_JV = judged.outcomes_JV
    placebo_JU = drawn.differences_JVU[:, -1, : rule.most]
    return Found(
        beats=_share(outcomes_JV[:, 0] == Outcome.BEATS),
        ties=_share(outcomes_JV[:, 0] == Outcome.TIES),
        false=_share((outcomes_JV[:, int(has_gain) :] == Outcome.BEATS).any(1)),
        settled=_share(np.isin(outcomes_JV, SETTLED).ravel()),
        warns=_share(placebo_warns(rule.at, placebo_JU, judged.used_JV.max(1))) if rule.at else None,
        epochs=float(epochs_of(rule, arms, judged, bank.epochs).mean()),
    )


def _share(happened: NDArray[np.bool_]) -> Share:
    return Share(int(happened.sum()), happened.size)


def _comparisons(better: Mapping[tuple[float, float], Table]) -> Iterator[Comparison]:
    for ours, theirs in (("looks 4/6/8/12", "12 searches"), ("looks 5/8/12/18/25", "25 searches")):
        for (gain, margin), found in better.items():
            few, many = (tuple(rules[rule].epochs for rules in found.values()) for rule in (ours, theirs))
            title = f"epochs per job, {ours}, gain {gain:g} sd, margin {margin:g} sd"
            goal = Goal(MOST_COST, "most") if margin == NARROW and theirs == "12 searches" else None
            yield Comparison(title, theirs, "epochs", few, many, goal)


def _figures(found: Table) -> Iterator[Figure]:
    for rule in RULES:
        false = tuple(rules[rule].false.percent for rules in found.values())
        goal = Goal(MOST_FALSE, "most") if RULES[rule].unit == "search" else None
        yield Figure(f'false "beats" among {VARIANTS} variants, {rule}', "% of jobs", false, goal)


def _plain(found: Table) -> dict[str, object]:
    """Rule -> table or group of tables -> plain values."""
    rows = {name: [name] for name in found} | {
        group: [name for name in names if name in found] for group, names in GROUPS.items()
    }
    return {
        rule: {row: _row([found[name][rule] for name in names]) for row, names in rows.items() if names}
        for rule in RULES
    }


def _row(found: Sequence[Found]) -> dict[str, float]:
    """Numbers of jobs with each event. ``settled`` is in percent of the variants, and ``epochs`` is a mean per job."""
    warns = [one.warns for one in found if one.warns is not None]
    return {
        "jobs": sum(one.beats.of for one in found),
        "beats": sum(one.beats.count for one in found),
        "ties": sum(one.ties.count for one in found),
        "false": sum(one.false.count for one in found),
        **({"warns": sum(one.count for one in warns)} if warns else {}),
        "settled": round(statistics.fmean(one.settled.percent for one in found), 2),
        "epochs": round(statistics.fmean(one.epochs for one in found), 1),
    }
