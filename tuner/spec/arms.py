"""What a spec's arms search once a trial's length is known."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trainables.errors import TrainableError
from trainables.hyper import Hyper
from trainables.schedules import Schedule, parse_restarts
from trainables.space import Choice, Domain, Plan, PlannedDomain, Scalar, middle, near_restart_epochs, restart_pairs
from trainables.variants import VARIANTS
from tuner.spec.experiment import ArmSpec
from tuner.spec.messages import InvalidValue
from tuner.spec.ranges import KNOB_TYPES, NEEDS_SCHEDULE, ends
from tuner.spec.search_spec import SearchSpec
from tuner.spec.strict_yaml import KeyPath


@dataclass(frozen=True)
class Arm:
    """One optimizer variant with its search space in one job.

    Args:
        name: unique in the job.
        variant: a row of ``VARIANTS``.
        space: what is searched, for the planned length of a trial.
        fixed: what the spec fixes, beside what the variant itself fixes.
        default: the arm's first trial: the variant's known-good values, where they are in the space.
    """

    name: str
    variant: str
    space: Mapping[str, Domain]
    fixed: Mapping[str, Scalar]
    default: Mapping[str, Scalar]

    def hyper(self, sampled: Mapping[str, Scalar]) -> Hyper:
        """A trial's hyperparameters from the sampled knobs."""
        return Hyper.of({**VARIANTS[self.variant].fixed, **self.fixed, **sampled})


def plan(spec: SearchSpec, train_images: int) -> Plan:
    """A trial's planned length on so many training images; raises ``SpecError`` if they fill no batch."""
    steps = train_images // spec.budget.batch_size
    if steps == 0:
        text = f"is {spec.budget.batch_size}; must be at most the number of training images ({train_images})"
        raise spec.origin.error(InvalidValue(text, "budget", "batch_size"))
    return Plan(spec.budget.epochs, steps)


def arms(spec: SearchSpec, plan: Plan) -> tuple[Arm, ...]:
    """The arms, the baseline first, the others as the spec has them.

    Raises:
        SpecError: a space that does not fit the plan, or settings no trial can have.
    """
    order = sorted(range(len(spec.arms)), key=lambda index: spec.arms[index].name != spec.baseline)
    return tuple(_arm(spec, index, plan) for index in order)


def warnings(spec: SearchSpec, plan: Plan) -> tuple[str, ...]:
    """What is allowed but makes the comparison weaker, one line each; raises as ``arms``."""
    found = arms(spec, plan)
    return tuple(spec.origin.tell(wrong.path, wrong.text) for wrong in _doubts(spec, found, plan))


def _arm(spec: SearchSpec, index: int, plan: Plan) -> Arm:
    given, variant = spec.arms[index], VARIANTS[spec.arms[index].variant]
    knobs = [*variant.space, *(knob for knob in given.parameters if knob not in variant.space)]
    space: dict[str, Domain] = {}
    for knob in knobs:
        if knob not in given.fixed:
            try:
                space[knob] = _planned(spec, given, knob).resolve(plan)
            except TrainableError as error:
                raise spec.origin.error(InvalidValue(str(error), *_place(spec, index, knob))) from None
    fixed = {knob: KNOB_TYPES[knob](value) for knob, value in given.fixed.items()}
    default = {knob: _first(domain, variant.default.get(knob)) for knob, domain in space.items()}
    arm = Arm(given.name, given.variant, space, fixed, default)
    _try_out(spec, index, arm, plan)
    return arm


def _planned(spec: SearchSpec, given: ArmSpec, knob: str) -> PlannedDomain:
    own = VARIANTS[given.variant].space.get(knob)
    range_ = given.parameters.get(knob) or (spec.parameters.get(knob) if own is not None else None)
    if range_ is not None:
        return range_.domain(knob, own)
    assert own is not None
    return own


def _first(domain: Domain, known_good: Scalar | None) -> Scalar:
    return known_good if known_good is not None and domain.contains(known_good) else middle(domain)


def _try_out(spec: SearchSpec, index: int, arm: Arm, plan: Plan) -> None:
    """Raise ``SpecError`` unless every end of every domain makes a trial."""
    trials = [{**arm.default, knob: end} for knob, domain in arm.space.items() for end in ends(domain)]
    for sampled in [*trials, arm.default]:
        try:
            Schedule(arm.hyper(sampled), plan)
        except TrainableError as error:
            culprit = str(error).split()[0]
            raise spec.origin.error(InvalidValue(str(error), *_place(spec, index, culprit))) from None
    knobs = {*arm.space, *arm.fixed}
    if "decay_schedule" in knobs and "lambda_norm" not in knobs:
        text = "does nothing: decay_schedule is for decoupled decay, and the arm has no lambda_norm"
        raise spec.origin.error(InvalidValue(text, *_place(spec, index, "decay_schedule")))
    schedules = _schedules(arm)
    for knob in sorted(knobs & set(NEEDS_SCHEDULE)):
        if NEEDS_SCHEDULE[knob] not in schedules:
            names = ", ".join(schedules)
            text = f"does nothing: schedule is {names}; {knob} is for schedule {NEEDS_SCHEDULE[knob]} only"
            raise spec.origin.error(InvalidValue(text, *_place(spec, index, knob)))


def _schedules(arm: Arm) -> tuple[str, ...]:
    """The learning-rate schedules that a trial of the arm may have."""
    searched = arm.space.get("schedule")
    if searched is not None:
        return tuple(str(value) for value in ends(searched))
    return (arm.hyper(arm.default).schedule,)


def _place(spec: SearchSpec, index: int, knob: str) -> KeyPath:
    """Where the spec says what the arm's knob may be, else the arm."""
    given = spec.arms[index]
    for section, knobs in (("parameters", given.parameters), ("fixed", given.fixed)):
        if knob in knobs:
            return ("arms", index, section, knob)
    in_space = knob in VARIANTS[given.variant].space
    return ("parameters", knob) if in_space and knob in spec.parameters else ("arms", index)


def _doubts(spec: SearchSpec, found: tuple[Arm, ...], plan: Plan) -> Iterator[InvalidValue]:
    index_of = {arm.name: index for index, arm in enumerate(spec.arms)}
    baseline = found[0]
    for arm in found:
        place = index_of[arm.name]
        ours, theirs = _learning_rates(arm), _learning_rates(baseline)
        if ours != theirs:
            text = f"arm {arm.name} has a learning rate of {ours}, the baseline of {theirs}; the same is fairer"
            yield InvalidValue(text, *_place(spec, place, "lr"))
        if "restarts" in _schedules(arm):
            for pair in _pairs(arm):
                if doubt := _off_boundary(pair, plan.epochs):
                    yield InvalidValue(doubt, *_place(spec, place, "restarts"))


def _learning_rates(arm: Arm) -> str:
    domain = arm.space.get("lr")
    if domain is None:
        return f"{arm.fixed['lr']:g} (fixed)"
    if isinstance(domain, Choice):
        return " or ".join(f"{value:g}" for value in domain.values)
    return f"{domain.low:g} to {domain.high:g} ({domain.scale})"


def _pairs(arm: Arm) -> list[str]:
    domain = arm.space.get("restarts")
    return [str(value) for value in ends(domain)] if domain is not None else [arm.hyper(arm.default).restarts]


def _off_boundary(pair: str, epochs: int) -> str | None:
    """What to say of restarts whose last cycle does not end with the trial."""
    length, mult = parse_restarts(pair)
    below = end = 0
    while end < epochs:
        below, end, length = end, end + length, length * mult
    if end == epochs:
        return None
    fitting = ", ".join(f"{t_0}x{t_mult}" for t_0, t_mult in restart_pairs(epochs)[:4])
    fits = f"with {epochs} epochs {fitting}" if fitting else f"other epochs: {near_restart_epochs(epochs)}"
    ends_at = " or ".join(str(e) for e in (below, end) if e)
    return (
        f"{pair} does not end a cycle on epoch {epochs}, but on {ends_at}; "
        f"nearest that do: {pair} with {ends_at} epochs, or {fits}"
    )
