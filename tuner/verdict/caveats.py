"""The warnings that a leaderboard shows: reasons to read the numbers of a job with care, one sentence each."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from trainables.report import ConfirmResult
from trainables.space import Domain, Float, position, scaled, short_text, unscaled
from trainables.variants import VARIANTS
from tuner.jobs.record import Record, Trial
from tuner.search.winners import lost_value, schedule_of, search_has_ended
from tuner.spec.arms import Arm, recorded_arms
from tuner.spec.experiment import MetricSpec
from tuner.spec.messages import InvalidValue
from tuner.spec.ranges import Range
from tuner.spec.search_spec import PLACEBO, SearchSpec
from tuner.storage.events import Outcome, Stage, State
from tuner.verdict.numbers import value_text
from tuner.verdict.paired_test import Comparison

if TYPE_CHECKING:
    from tuner.verdict.leaderboard import Row

UNEQUAL_EPOCHS = 0.2
"""Largest accepted difference between the epochs that two arms used, as a share of the larger number."""
EDGE = 0.1
"""Outer share of a range, on its scale. If the best value lies there, a better value may lie outside the range."""
WIDENED = 0.5
"""Share of a range, on its scale, by which a suggested range is wider at one end."""
FEW_ACTIVE = 0.05
"""Share of the weights below which AMSGrad's maximum hardly matters."""
SCALES = 1000
"""Factor between the judged values of two arms from which they can hardly be the same quantity."""
FEW_TRIALS = 10
"""Fewest trials for a search of several knobs.

Fewer trials can tune only the learning rate (Google's deep learning tuning playbook).
"""


def caveats(record: Record, spec: SearchSpec, rows: Sequence["Row"], chosen: Mapping[str, Trial]) -> Iterator[str]:
    """Yields the warnings about a job's results.

    Args:
        record: the record of the job.
        spec: the spec of the job.
        rows: the rows of its leaderboard, the baseline first.
        chosen: the winner of each arm that has one, by the arm's name.

    Yields:
        One sentence per warning, without a full stop.
    """
    yield from _older(record)
    yield from _placebo(spec, rows)
    yield from other_scales(spec.metric, rows).values()
    yield from _no_share(spec, rows)
    yield from _diverged_runs(record, spec)
    yield from _lost_searches(record, spec, rows)
    yield from _without_winner(rows)
    yield from _unequal_epochs(record, rows)
    yield from _unequal_knobs(rows)
    yield from _first_settings(spec)
    yield from _warm_starts(record)
    yield from _lost(rows)
    yield from _few_trials(spec, rows)
    yield from _few_seeds(record, rows)
    yield from _edges(record, spec, chosen)
    yield from _cut_cycles(record, spec, chosen)
    yield from _inactive_maximum(record)


def _without_winner(rows: Sequence["Row"]) -> Iterator[str]:
    for row in rows:
        if row.winner is None and row.trials and row.complete + row.pruned + row.diverged + row.failed == row.trials:
            yield f"{row.arm} has no winner: none of its {row.trials} trials trained to the end"


def _older(record: Record) -> Iterator[str]:
    if not record.job.classes and not record.spec.own_trainable:
        yield (
            "the job was made by an earlier version: its claim is about settings, and a confirm run that diverged is "
            "left out instead of counting as chance"
        )


def _placebo(spec: SearchSpec, rows: Sequence["Row"]) -> Iterator[str]:
    found = next((row.comparison for row in rows if spec.placebo and row.arm == PLACEBO), None)
    if found is not None and found.outcome in (Outcome.BEATS, Outcome.LOSES):
        told = "beats" if found.outcome == Outcome.BEATS else "loses to"
        yield (
            f"the placebo {told} the baseline, and it is the baseline under another name: chance does this in about "
            "5 % of sound jobs; else something other than the methods differs between arms"
        )


def other_scales(metric: MetricSpec, rows: Sequence["Row"]) -> dict[str, str]:
    """The arms whose judged values can hardly be the same quantity as those of the arm that they are compared with.

    Args:
        metric: the metric of the job.
        rows: the rows of its leaderboard.

    Returns:
        Arm -> the warning about it.
    """
    by_arm = {row.arm: row for row in rows}
    found = {}
    for row in rows if metric.own else ():
        base = by_arm[row.baseline]
        if row.arm == base.arm or not (row.tests and base.tests):
            continue
        ours, theirs = (statistics.median(each.tests.values()) for each in (row, base))
        sizes = sorted(map(abs, (ours, theirs)))
        apart = 0 < SCALES * sizes[0] <= sizes[1]
        # Such as the negated error of one library, and the error of another.
        opposite = max(row.tests.values()) < 0 < min(base.tests.values()) or (
            max(base.tests.values()) < 0 < min(row.tests.values())
        )
        if apart or opposite:
            found[row.arm] = (
                f"{metric.judged} of {row.arm} is about {ours:.3g}, and of {base.arm} about {theirs:.3g}: are "
                "they the same quantity? If not, the verdict means nothing"
            )
    return found


def _no_share(spec: SearchSpec, rows: Sequence["Row"]) -> Iterator[str]:
    found = [row.arm for row in rows if not all(0 <= value <= 1 for value in row.tests.values())]
    if spec.metric.own and spec.metric.in_points and found:
        yield (
            f"{spec.metric.judged} of {', '.join(found)} is not always between 0 and 1, so it is no share, and the "
            "differences are no points; remove metric.unit"
        )


def _diverged_runs(record: Record, spec: SearchSpec) -> Iterator[str]:
    """Yields what counts in place of a value that a diverged run of the user's trainable does not have."""
    if not spec.metric.own:
        return
    runs = [
        f"{arm} {count}"
        for arm in record.arms
        if (count := sum(run.state == State.DIVERGED for run in record.of(Stage.CONFIRM, arm)))
    ]
    if runs:
        value = lost_value(record, len(record.rounds))
        counts = "is missing, because no run has a value" if value is None else "counts as the worst one so far"
        so_far = "" if value is None else f" ({value_text(value)} now)"
        yield f"confirm runs diverged ({', '.join(runs)}): {spec.metric.judged} of such a run {counts}{so_far}"


def _lost_searches(record: Record, spec: SearchSpec, rows: Sequence["Row"]) -> Iterator[str]:
    """Yields one warning that names every search of an arm that ended without a result to compare."""
    lost = []
    for row in rows if spec.searches else ():
        ended = [search for search in _searches(record, row.arm) if search_has_ended(record, spec, row.arm, search)]
        if missing := [search for search in ended if search not in row.tests]:
            lost.append(f"{row.arm} {len(missing)} of {len(ended)}: {', '.join(map(str, missing))}")
    if lost and record.state != "running":
        yield f"searches were lost to failures ({'; '.join(lost)}); the verdict leaves these pairs out"


def _searches(record: Record, arm: str) -> list[int]:
    return sorted({trial.search for trial in record.of(Stage.SEARCH, arm)})


def _unequal_epochs(record: Record, rows: Sequence["Row"]) -> Iterator[str]:
    # Arms that are settled early have fewer searches: what counts is the cost of one.
    used = {row.arm: round(row.epochs / max(1, len(_searches(record, row.arm)))) for row in rows}
    if used and min(used.values()) < (1 - UNEQUAL_EPOCHS) * max(used.values()):
        each = ", ".join(f"{arm} {epochs}" for arm, epochs in used.items())
        advice = "to give every arm the same epochs, set scheduler: none"
        yield f"the arms' searches used unequal numbers of epochs ({each}); {advice}"


def _unequal_knobs(rows: Sequence["Row"]) -> Iterator[str]:
    base = rows[0]
    more = [f"{row.arm} {row.knobs}" for row in rows if row.knobs != base.knobs]
    if more:
        yield f"the arms searched unequal numbers of knobs ({base.arm} {base.knobs}, {', '.join(more)})"


def _first_settings(spec: SearchSpec) -> Iterator[str]:
    if len({tuple(map(repr, arm.first)) for arm in spec.arms}) > 1:
        each = ", ".join(
            f"{arm.name} with {len(arm.first)} of the spec" if arm.first else f"{arm.name} with its default"
            for arm in spec.arms
        )
        yield f"the arms began with unequal first settings ({each})"


def _warm_starts(record: Record) -> Iterator[str]:
    for arm, earlier in record.earlier.items():
        yield (
            f"the sampler of {arm} knew {len(earlier.trials)} trials of job {earlier.job} from the start; they are not "
            "counted among its trials and epochs"
        )


def _lost(rows: Sequence["Row"]) -> Iterator[str]:
    lost = [f"{row.arm} {row.diverged + row.failed} of {row.trials}" for row in rows if row.diverged + row.failed]
    if lost:
        yield f"trials diverged or failed ({', '.join(lost)}); they count towards the trial budget"


def _few_trials(spec: SearchSpec, rows: Sequence["Row"]) -> Iterator[str]:
    most = max(row.knobs for row in rows)
    if spec.budget.trials < FEW_TRIALS and most > 1:
        per = "search" if spec.searches else "arm"
        luck = "luck may decide which setting wins"
        yield f"{spec.budget.trials} trials per {per} are few for up to {most} knobs: {luck}"


def _few_seeds(record: Record, rows: Sequence["Row"]) -> Iterator[str]:
    wanted = {
        row.arm: row.comparison.seeds_needed
        for row in rows
        if isinstance(row.comparison, Comparison) and row.comparison.seeds_needed
    }
    if wanted and not record.simulated:
        each = ", ".join(f"{arm} about {seeds}" for arm, seeds in wanted.items())
        most = max(wanted.values())
        yield f"a verdict needs more seeds ({each}): start a new job with another seed and confirm: {{seeds: {most}}}"


def _edges(record: Record, spec: SearchSpec, chosen: Mapping[str, Trial]) -> Iterator[str]:
    """Yields one warning per end of a range where best values lie. It names all arms with a best value there."""
    found: dict[tuple[str, Domain, str], list[Arm]] = {}
    for arm in recorded_arms(spec, record.plan, record.job.ranges):
        setting = chosen[arm.name].hyper if arm.name in chosen else {}
        for knob in arm.applying(setting) if setting else ():
            domain = arm.space[knob]
            at = position(domain, setting[knob])
            if at is not None and not EDGE <= at <= 1 - EDGE:
                end = "lower" if at < EDGE else "upper"
                found.setdefault((knob, domain, end), []).append(arm)
    for (knob, domain, end), arms in found.items():
        hint = _how_to_widen(spec, arms, knob, domain, at_top=end == "upper")
        values = ", ".join(f"{arm.name} {short_text(chosen[arm.name].hyper[knob])}" for arm in arms)
        yield f"the best {knob} lies at the {end} end of its range ({domain}): {values}{hint}"


def _cut_cycles(record: Record, spec: SearchSpec, chosen: Mapping[str, Trial]) -> Iterator[str]:
    plan = record.plan
    for arm, trial in chosen.items():
        schedule = schedule_of(record, spec, trial)
        ends = None if schedule is None else schedule.cycle_ends()
        if ends is not None and (not ends or ends[-1] != plan.epochs):
            restarts = trial.hyper["restarts"]
            yield f"no cycle of {arm} (restarts {restarts}) ends at epoch {plan.epochs}: its last cycle is cut short"


def _how_to_widen(spec: SearchSpec, arms: Sequence[Arm], knob: str, domain: Domain, at_top: bool) -> str:
    """What to write into the spec; empty if the knob allows no wider range, or only the user knows what it allows."""
    wider = _wider(knob, domain, at_top) if all(arm.kind == "variant" for arm in arms) else None
    if wider is None:
        return ""
    asked = {given.name: given for given in (spec.arm(arm.name) for arm in arms)}
    space = VARIANTS[arms[0].variant].space
    # Top-level ``parameters`` are for knobs of the variant's own space, where an arm has no range of its own.
    own = [name for name, given in asked.items() if knob in given.parameters or knob not in space]
    if own:
        end, value = ("max", wider.max) if at_top else ("min", wider.min)
        return f"; to widen the range, set {end}: {value:g} for {knob} under the parameters of {', '.join(own)}"
    line = f"parameters: {{{knob}: {{min: {wider.min:g}, max: {wider.max:g}, scale: {wider.scale}}}}}"
    return f"; to widen the range for all arms with this knob, set {line}"


def _wider(knob: str, domain: Domain, at_top: bool) -> Range | None:
    """The range that is wider at one end; None if the knob allows none."""
    if not isinstance(domain, Float) or domain.step is not None:
        return None
    bottom, top = scaled(domain.scale, domain.low), scaled(domain.scale, domain.high)
    more = WIDENED * (top - bottom)
    ends = (domain.low, unscaled(domain, top + more)) if at_top else (unscaled(domain, bottom - more), domain.high)
    low, high = float(f"{ends[0]:.2g}"), float(f"{ends[1]:.5g}")
    try:
        wider = Range(min=low, max=high, scale=domain.scale)
        wider.domain(knob)
    except InvalidValue:
        return None
    return wider


def _inactive_maximum(record: Record) -> Iterator[str]:
    """Yields how much of AMSGrad there was in an arm: without an active maximum, it is Adam."""
    for arm in record.arms:
        results = (trial.result for trial in record.of(Stage.CONFIRM, arm))
        runs = [result for result in results if isinstance(result, ConfirmResult)]
        shares = [result.max_active for result in runs if result.max_active is not None]
        if shares:
            share = statistics.median(shares)
            text = (
                f"the maximum of {arm} was active in {100 * share:.2g} % of the weights at the end of a training "
                f"(median of {len(shares)} confirm runs)"
            )
            yield f"{text}: it was nearly Adam" if share < FEW_ACTIVE else text
