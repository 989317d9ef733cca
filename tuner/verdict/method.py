"""The verdict on methods: the arms' searches, compared at the looks of a job.

The unit is a search. All arms of a search share the split, the subsets, the seed of the trials and the confirm seeds.
So a difference to the baseline is taken search by search. ``tuner.verdict.looks`` has the rules.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tuner.jobs.record import Record
from tuner.search.winners import search_accuracies
from tuner.spec.search_spec import ALPHA, PLACEBO, SearchSpec
from tuner.spec.settings import LEAST_SEARCHES
from tuner.storage.events import LookTaken, Outcome, Stage
from tuner.verdict.looks import LookPlan, Standing, judge_alone, judge_look
from tuner.verdict.paired_test import POINTS, paired_differences

Accuracies = Mapping[str, Mapping[int, float]]
"""Arm to search to test accuracy (0 to 1)."""


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
    accuracies = {arm: search_accuracies(record, spec, arm) for arm in record.arms}
    at = min(at, max((trial.search for trial in record.of(Stage.SEARCH)), default=0))
    if at < LEAST_SEARCHES or (record.looks and at <= record.looks[-1].searches):
        return None
    number = len(record.looks) + 1
    judged = _judge(record, spec, accuracies, number, at, record.settled())
    if not any(standing.n for standing in judged.values()):
        return None
    return LookTaken(number, at, {arm: standing.outcome for arm, standing in judged.items()})


def standings(record: Record, spec: SearchSpec) -> dict[str, Standing]:
    """How every variant stands: at the look that settled it, else at the last look. Empty before the first look."""
    accuracies = {arm: search_accuracies(record, spec, arm) for arm in record.arms}
    found: dict[str, Standing] = {}
    for look in record.looks:
        judged = _judge(record, spec, accuracies, look.look, look.searches, record.settled(look.look))
        # A verdict is given once: what the look has recorded stands, also if a later version would judge otherwise.
        found |= {
            arm: replace(standing, outcome=look.outcomes[arm])
            for arm, standing in judged.items()
            if arm in look.outcomes
        }
    return found


def describe(standing: Standing, baseline: str, margin: float, looks: Sequence[int]) -> str:
    """How a variant stands, as one phrase that follows its name.

    Args:
        standing: the variant's.
        baseline: what the variant is compared with.
        margin: points within which a difference does not matter.
        looks: searches per arm at each look so far.
    """
    planned = looks[standing.look - 1]
    searches = f"{standing.n}" if standing.n == planned else f"{standing.n} of {planned}"
    where = f"{searches} searches, look {standing.look}"
    if standing.mean_diff is None:
        return f"{Outcome.NOT_ENOUGH}: no search to compare"
    if standing.low is None or standing.high is None:
        return f"{Outcome.NOT_ENOUGH}: {standing.mean_diff:+z.2f} points ({where})"
    half = f"{(standing.high - standing.low) / 2:.2f}"
    signed = f"{standing.mean_diff:+z.2f} ± {half} points"
    match standing.outcome:
        case Outcome.BEATS:
            return f"beats {baseline} by {standing.mean_diff:.2f} ± {half} points ({where})"
        case Outcome.LOSES:
            return f"loses to {baseline} by {-standing.mean_diff:.2f} ± {half} points ({where})"
        case Outcome.TIES:
            # The interval holds for all variants together; a tie is shown for each variant alone.
            return f"ties with {baseline}: {standing.mean_diff:+z.2f} points, shown to be within ±{margin:g} ({where})"
        case Outcome.FUTILE:
            return f"not settled, and more searches would hardly settle it: {signed} ({where})"
    return f"{Outcome.NOT_ENOUGH}: {signed} ({where})"


def _judge(
    record: Record, spec: SearchSpec, accuracies: Accuracies, look: int, at: int, settled: Mapping[str, Outcome]
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
            floor=floor(record.job.data_images.test),
        )
        base = accuracies[family.baseline]
        differences = {arm: paired_differences(base, _up_to(at, accuracies[arm])) for arm in family.arms}
        before_this = {arm: outcome for arm, outcome in settled.items() if arm in differences}
        judged |= {standing.arm: standing for standing in judge_look(plan, look, differences, before_this)}
        if spec.placebo and family.baseline == spec.baseline and PLACEBO not in settled:
            against = paired_differences(base, _up_to(at, accuracies[PLACEBO]))
            judged[PLACEBO] = judge_alone(replace(plan, alpha=ALPHA), look, against, PLACEBO)
    return judged


def floor(test_images: int) -> float:
    """The smallest sd of a difference between two accuracies that is believed, in points.

    An accuracy is a multiple of 1 / ``test_images``. Rounding to such a multiple alone gives the difference of two
    accuracies this sd.
    """
    return POINTS / test_images / math.sqrt(6)


def _up_to(at: int, accuracies: Mapping[int, float]) -> dict[int, float]:
    return {search: accuracy for search, accuracy in accuracies.items() if search <= at}
