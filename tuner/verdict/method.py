"""The verdict on methods: the arms' searches, compared at the looks of a job.

The unit is a search. All arms of a search share the split, the subsets, the seed of the trials and the confirm seeds.
So a difference to the baseline is taken search by search. ``tuner.verdict.looks`` has the rules.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from tuner.jobs.record import Record
from tuner.search.winners import diverged_searches, search_values
from tuner.spec.experiment import MetricSpec
from tuner.spec.search_spec import ALPHA, PLACEBO, SearchSpec
from tuner.spec.settings import LEAST_SEARCHES
from tuner.storage.events import LookTaken, Outcome, Stage
from tuner.verdict.looks import DIGITS, LookPlan, Standing, judge_alone, judge_look
from tuner.verdict.numbers import ACCURACY, gain_text
from tuner.verdict.paired_test import LEAST_PAIRS, NO_SPREAD, POINTS, Diverged, paired_differences

Values = Mapping[str, Mapping[int, float]]
"""Arm to search to judged value: test accuracy (0 to 1), or the judge metric of the user's trainables."""


SHARE_DIGITS = 9
"""Digits of a share that count: the others are errors of rounding."""
FUTILE_WORDS = "not settled, and more searches would hardly settle it"


def next_look(record: Record, spec: SearchSpec) -> int | None:
    """Searches per arm at the next look; None if there is none: all variants are settled, or the cap is reached.

    The placebo is searched as long as any variant is, and never alone. A look at another number of searches than
    planned is the last one until the job is extended: a cap on the time has ended the searches, whatever time a later
    driver finds.
    """
    done = record.looks[-1].searches if record.looks else 0
    ended_early = bool(record.looks) and done not in spec.looks and not record.extended_after_the_last_look
    if ended_early or not active_arms(record, spec):
        return None
    return next((at for at in spec.looks if at > done), None)


def active_arms(record: Record, spec: SearchSpec) -> list[str]:
    """The arms that are still searched: those that no look has settled, and what they are compared with."""
    settled = record.settled()
    variants = {arm for family in spec.questions for arm in family.arms if arm not in settled}
    if not variants:
        return []
    needed = variants | {spec.baseline_of(arm) for arm in variants}
    if spec.placebo:
        needed |= {PLACEBO, spec.baseline}
    return [arm for arm in record.arms if arm in needed]


def take_look(record: Record, spec: SearchSpec, at: int) -> LookTaken | None:
    """Judge the arms that are not settled, after ``at`` searches per arm.

    If a cap on the time has ended the searches early, the look is at those that there are, and it is the last one.

    Returns:
        The look; None if there are too few searches, or none that a variant and its baseline both have.
    """
    at = min(at, max((trial.search for trial in record.of(Stage.SEARCH)), default=0))
    if at < LEAST_SEARCHES or (record.looks and at <= record.looks[-1].searches):
        return None
    number = len(record.looks) + 1
    values = {arm: search_values(record, spec, arm, at) for arm in record.arms}
    judged = _judge(record, spec, values, number, at, record.settled())
    if not any(standing.n for standing in judged.values()):
        return None
    return LookTaken(number, at, {arm: standing.outcome for arm, standing in judged.items()})


def standings(record: Record, spec: SearchSpec) -> dict[str, Standing]:
    """How every variant stands: at the look that settled it, else at the last look. Empty before the first look."""
    values = {arm: search_values(record, spec, arm) for arm in record.arms}
    found: dict[str, Standing] = {}
    for look, entry in zip(record.looks, record.looks_n, strict=True):
        if spec.metric.own:
            # What counts in place of a lost value is known from the searches up to the look, as it was then.
            values = {arm: search_values(record, spec, arm, look.searches, entry) for arm in record.arms}
        judged = _judge(record, spec, values, look.look, look.searches, record.settled(look.look))
        # A verdict is given once: what the look has recorded stands, also if a later version would judge otherwise.
        found |= {
            arm: replace(standing, outcome=look.outcomes[arm])
            for arm, standing in judged.items()
            if arm in look.outcomes
        }
    return found


def describe(
    standing: Standing, baseline: str, margin: float, looks: Sequence[int], metric: MetricSpec = ACCURACY
) -> str:
    """How a variant stands, as one phrase that follows its name.

    Args:
        standing: the variant's.
        baseline: what the variant is compared with.
        margin: gain within which a difference does not matter.
        looks: searches per arm at each look so far.
        metric: the metrics of the job, which give the unit.
    """
    text = _phrase(standing, baseline, margin, looks, metric)
    no_spread = standing.low is None and standing.n >= LEAST_PAIRS
    note = standing.note or (NO_SPREAD.replace("seed", "search") if no_spread else "")
    return f"{text} [{note}]" if note else text


def _phrase(standing: Standing, baseline: str, margin: float, looks: Sequence[int], metric: MetricSpec) -> str:
    planned = looks[standing.look - 1]
    searches = f"{standing.n}" if standing.n == planned else f"{standing.n} of {planned}"
    where = f"{searches} searches, look {standing.look}"
    if standing.mean_diff is None:
        return f"{Outcome.NOT_ENOUGH}: no search to compare"
    if standing.low is None or standing.high is None:
        word = FUTILE_WORDS if standing.outcome == Outcome.FUTILE else Outcome.NOT_ENOUGH
        return f"{word}: {gain_text(metric, standing.mean_diff)} ({where})"
    half = (standing.high - standing.low) / 2
    signed = gain_text(metric, standing.mean_diff, half)
    match standing.outcome:
        case Outcome.BEATS:
            return f"beats {baseline} by {gain_text(metric, standing.mean_diff, half, signed=False)} ({where})"
        case Outcome.LOSES:
            return f"loses to {baseline} by {gain_text(metric, -standing.mean_diff, half, signed=False)} ({where})"
        case Outcome.TIES:
            # The interval holds for all variants together; a tie is shown for each variant alone.
            mean = gain_text(metric, standing.mean_diff)
            return f"ties with {baseline}: {mean}, shown to be within ±{margin:g} ({where})"
        case Outcome.FUTILE:
            return f"{FUTILE_WORDS}: {signed} ({where})"
    return f"{Outcome.NOT_ENOUGH}: {signed} ({where})"


def _judge(
    record: Record, spec: SearchSpec, values: Values, look: int, at: int, settled: Mapping[str, Outcome]
) -> dict[str, Standing]:
    before = tuple(taken.searches for taken in record.looks[: look - 1])
    looks = (*before, at, *(later for later in spec.looks if later > at))
    judged: dict[str, Standing] = {}
    for family in spec.questions:
        plan = LookPlan(
            at=looks,
            margin=spec.confirm.margin,
            variants=len(family.arms),
            alpha=family.alpha,
            floor=least_sd(record, spec, {arm: _up_to(at, found) for arm, found in values.items()}),
            digits=None if spec.metric.own else DIGITS,
        )
        base = values[family.baseline]
        differences = {arm: paired_differences(base, _up_to(at, values[arm]), spec.metric) for arm in family.arms}
        before_this = {arm: outcome for arm, outcome in settled.items() if arm in differences}
        lost = {arm: _diverged(record, spec, values, family.baseline, arm, at) for arm in (*family.arms, PLACEBO)}
        judged |= {standing.arm: standing for standing in judge_look(plan, look, differences, before_this, lost)}
        if spec.placebo and family.baseline == spec.baseline and PLACEBO not in settled:
            against = paired_differences(base, _up_to(at, values[PLACEBO]), spec.metric)
            judged[PLACEBO] = judge_alone(replace(plan, alpha=ALPHA), look, against, PLACEBO, lost[PLACEBO])
    return judged


def _diverged(record: Record, spec: SearchSpec, values: Values, baseline: str, arm: str, at: int) -> Diverged:
    """The searches up to ``at`` of an arm and its baseline that diverged, and all that have a value."""
    counts = []
    for name in (arm, baseline):
        units = _up_to(at, values.get(name, {})).keys()
        counts += [len(units & diverged_searches(record, spec, name)), len(units)]
    return Diverged(*counts)


def least_sd(record: Record, spec: SearchSpec, values: Values) -> float:
    """The smallest sd of a difference that is believed, in the unit of the verdict.

    An accuracy is a multiple of 1 / ``test_images``. Rounding to such a multiple alone gives the difference of two
    accuracies this sd. A share of the user's is a multiple of something too: of the smallest gap between two judged
    values, or of less. How any other metric is rounded is not known, so it has no such floor: if all its differences
    are equal, there is not enough evidence.
    """
    if not spec.metric.own:
        return floor(record.job.data_images.test)
    if not spec.metric.in_points:
        return 0.0
    known = sorted({round(value, SHARE_DIGITS) for found in values.values() for value in found.values()})
    return POINTS * min((high - low for low, high in pairwise(known)), default=0.0) / math.sqrt(6)


def floor(test_images: int) -> float:
    """The floor of accuracies on this many images, in points."""
    return POINTS / test_images / math.sqrt(6)


def _up_to(at: int, values: Mapping[int, float]) -> dict[int, float]:
    return {search: value for search, value in values.items() if search <= at}
