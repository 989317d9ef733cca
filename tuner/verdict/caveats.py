"""The warnings that a leaderboard shows: reasons to read the numbers of a job with care, one sentence each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from trainables.hyper import Hyper
from trainables.schedules import Schedule
from trainables.space import Domain, Float, position, scaled, short_text, unscaled
from tuner.jobs.record import Record, Trial
from tuner.spec.arms import arms
from tuner.spec.messages import InvalidValue
from tuner.spec.ranges import Range
from tuner.spec.search_spec import SearchSpec

if TYPE_CHECKING:
    from tuner.verdict.leaderboard import Row

UNEQUAL_EPOCHS = 0.2
"""Largest accepted difference between the epochs that two arms used, as a share of the larger number."""
EDGE = 0.1
"""Outer share of a range, on its scale. If the best value lies there, a better value may lie outside the range."""
WIDENED = 0.5
"""Share of a range, on its scale, by which a suggested range is wider at one end."""
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
    yield from _without_winner(rows)
    yield from _unequal_epochs(rows)
    yield from _unequal_knobs(rows)
    yield from _lost(rows)
    yield from _few_trials(spec, rows)
    yield from _few_seeds(record, rows)
    yield from _edges(record, spec, chosen)
    yield from _cut_cycles(record, chosen)


def _without_winner(rows: Sequence["Row"]) -> Iterator[str]:
    for row in rows:
        if row.winner is None and row.trials and row.complete + row.pruned + row.diverged + row.failed == row.trials:
            yield f"{row.arm} has no winner: none of its {row.trials} trials trained to the end"


def _unequal_epochs(rows: Sequence["Row"]) -> Iterator[str]:
    used = [row.epochs for row in rows]
    if used and min(used) < (1 - UNEQUAL_EPOCHS) * max(used):
        each = ", ".join(f"{row.arm} {row.epochs}" for row in rows)
        advice = "to give every arm the same epochs, set scheduler: none"
        yield f"the arms' searches used unequal numbers of epochs ({each}); {advice}"


def _unequal_knobs(rows: Sequence["Row"]) -> Iterator[str]:
    base = rows[0]
    more = [f"{row.arm} {row.knobs}" for row in rows if row.knobs != base.knobs]
    if more:
        yield f"the arms searched unequal numbers of knobs ({base.arm} {base.knobs}, {', '.join(more)})"


def _lost(rows: Sequence["Row"]) -> Iterator[str]:
    lost = [f"{row.arm} {row.diverged + row.failed} of {row.trials}" for row in rows if row.diverged + row.failed]
    if lost:
        yield f"trials diverged or failed ({', '.join(lost)}); they count towards the trial budget"


def _few_trials(spec: SearchSpec, rows: Sequence["Row"]) -> Iterator[str]:
    most = max(row.knobs for row in rows)
    if spec.budget.trials < FEW_TRIALS and most > 1:
        yield f"{spec.budget.trials} trials per arm are few for up to {most} knobs: luck may decide which setting wins"


def _few_seeds(record: Record, rows: Sequence["Row"]) -> Iterator[str]:
    wanted = {row.arm: row.comparison.seeds_needed for row in rows if row.comparison and row.comparison.seeds_needed}
    if wanted and not record.simulated:
        each = ", ".join(f"{arm} about {seeds}" for arm, seeds in wanted.items())
        again = f"tuner confirm {record.name} --seeds {max(wanted.values())}"
        yield f"a verdict needs more seeds ({each}); to judge again on fresh seeds only, run: {again}"


def _edges(record: Record, spec: SearchSpec, chosen: Mapping[str, Trial]) -> Iterator[str]:
    """Yields one warning per end of a range where best values lie. It names all arms with a best value there."""
    found: dict[tuple[str, Domain, str], list[str]] = {}
    for arm in arms(spec, record.plan):
        for knob, domain in arm.space.items() if arm.name in chosen else ():
            value = chosen[arm.name].hyper[knob]
            at = position(domain, value)
            if at is not None and not EDGE <= at <= 1 - EDGE:
                end = "lower" if at < EDGE else "upper"
                found.setdefault((knob, domain, end), []).append(f"{arm.name} {short_text(value)}")
    for (knob, domain, end), values in found.items():
        wider = _wider(knob, domain, at_top=end == "upper")
        hint = f"; to widen the range for all arms with this knob, set {wider}" if wider else ""
        yield f"the best {knob} lies at the {end} end of its range ({domain}): {', '.join(values)}{hint}"


def _cut_cycles(record: Record, chosen: Mapping[str, Trial]) -> Iterator[str]:
    plan = record.plan
    for arm, trial in chosen.items():
        ends = Schedule(Hyper.of(trial.hyper), plan).cycle_ends()
        if ends is not None and (not ends or ends[-1] != plan.epochs):
            restarts = trial.hyper["restarts"]
            yield f"no cycle of {arm} (restarts {restarts}) ends at epoch {plan.epochs}: its last cycle is cut short"


def _wider(knob: str, domain: Domain, at_top: bool) -> str:
    """The line of the spec that widens the range; empty if the knob allows no wider range."""
    if not isinstance(domain, Float):
        return ""
    bottom, top = scaled(domain.scale, domain.low), scaled(domain.scale, domain.high)
    more = WIDENED * (top - bottom)
    ends = (domain.low, unscaled(domain, top + more)) if at_top else (unscaled(domain, bottom - more), domain.high)
    low, high = float(f"{ends[0]:.2g}"), float(f"{ends[1]:.5g}")
    try:
        Range(min=low, max=high, scale=domain.scale).domain(knob)
    except InvalidValue:
        return ""
    return f"parameters: {{{knob}: {{min: {low:g}, max: {high:g}, scale: {domain.scale}}}}}"
