"""The arms of a spec: what each arm searches, once the length of a trial is known."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from trainables.errors import TrainableError, did_you_mean
from trainables.hyper import KNOBS, Hyper
from trainables.schedules import Schedule, parse_restarts
from trainables.space import (
    ONE_MINUS,
    Choice,
    Conditions,
    Domain,
    Float,
    Plan,
    PlannedDomain,
    Scalar,
    Scale,
    applies,
    condition_text,
    is_one_of,
    middle,
    near_restart_epochs,
    restart_pairs,
)
from trainables.variants import VARIANTS
from tuner.spec.experiment import ArmSpec
from tuner.spec.messages import InvalidValue, shown
from tuner.spec.ranges import KNOB_TYPES, NEEDS_SCHEDULE, Kind, Range, domain_of, ends
from tuner.spec.search_spec import ONE_SETTING, PLACEBO, SearchSpec
from tuner.spec.strict_yaml import KeyPath
from tuner.spec.trial_config import hyper_of

NARROWEST = 4 / 192
"""Width of elu_net from which its first layers have their least number of channels and do not get narrower."""

_SCALES: Mapping[str, Scale] = {"linear": "linear", "log": "log", "one-minus-log": "one-minus-log"}
_RANGE = re.compile(rf"(?P<low>\S+) to (?P<high>\S+), (?P<scale>{'|'.join(_SCALES)})")


@dataclass(frozen=True)
class Arm:
    """One search space in one job, over an optimizer variant, an own optimizer or an own trainable.

    Args:
        name: the arm's name, unique in the job.
        variant: the name of a row of ``VARIANTS``, or the dotted path of the own optimizer or trainable.
        space: the searched knobs and their domains, for the planned length of a trial and the width of the model.
        fixed: the knobs that the spec fixes to a scalar, in addition to those that the variant fixes.
        default: the setting of the arm's first trial: the variant's known-good values. A knob starts in the middle of
            its domain if it has no such value, or if the value is outside the domain.
        kind: what the arm trains with.
        when: the conditions of the conditional knobs of the space. A knob that others depend on comes before them.
        first: the settings that the spec's ``first`` lists, whole; empty without it.
    """

    name: str
    variant: str
    space: Mapping[str, Domain]
    fixed: Mapping[str, Scalar]
    default: Mapping[str, Scalar]
    kind: Kind = "variant"
    when: Conditions = field(default_factory=dict)
    first: tuple[Mapping[str, Scalar], ...] = ()

    @property
    def opening(self) -> tuple[Mapping[str, Scalar], ...]:
        """The settings that every search of the arm tries first."""
        return self.first or (self.default,)

    def extremes(self) -> Iterator[tuple[str, Mapping[str, Scalar]]]:
        """A knob, and a setting with one end of its domain: for each knob and each end; for a choice, each value.

        The other knobs are as in the default, but those on which the knob depends have values with which it applies.
        """
        values = {knob: self.default.get(knob, middle(domain)) for knob, domain in self.space.items()}
        for knob, domain in self.space.items():
            for above in _deciding(self.when, knob):
                for end in ends(domain):
                    yield knob, _whole(self.space, self.when, {**values, **above, knob: end})

    def applying(self, setting: Mapping[str, Scalar]) -> tuple[str, ...]:
        """The searched knobs that apply in a setting: all of them, less conditional ones."""
        return tuple(knob for knob in self.space if applies(self.when, knob, setting))

    def searched(self, knob: str) -> str:
        """The range of a searched knob in words, and when the knob applies."""
        return str(self.space[knob]) + condition_text(self.when, knob)

    def setting(self, sampled: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        """Every knob of a trial with these sampled knobs, and its value."""
        knobs = {**self.fixed, **sampled}
        if self.kind != "variant":
            return knobs
        others = {knob: value for knob, value in knobs.items() if knob not in KNOBS}
        return {**dataclasses.asdict(self.hyper(sampled)), **others}

    def hyper(self, sampled: Mapping[str, Scalar]) -> Hyper:
        """The hyperparameters of a trial of a variant with these sampled knobs."""
        knobs = {**VARIANTS[self.variant].fixed, **self.fixed, **sampled}
        return Hyper.of({knob: value for knob, value in knobs.items() if knob in KNOBS})


def plan(spec: SearchSpec, train_images: int) -> Plan:
    """The planned length of a trial.

    Args:
        spec: gives the epochs and the batch size.
        train_images: number of training images.

    Raises:
        SpecError: the images do not fill one batch.
    """
    steps = train_images // spec.budget.batch_size
    if steps == 0:
        text = f"is {spec.budget.batch_size}; must be at most the number of training images ({train_images})"
        raise spec.origin.error(InvalidValue(text, "budget", "batch_size"))
    return Plan(spec.budget.epochs, steps, train_images)


def own_plan(spec: SearchSpec) -> Plan:
    """The planned length of a trial of an own trainable: its reports take the place of epochs."""
    return Plan(spec.budget.epochs, 1)


def arms(spec: SearchSpec, plan: Plan) -> tuple[Arm, ...]:
    """The arms: first the baseline, then the others in the order of the spec, at last the placebo if there is one.

    Raises:
        SpecError: a space does not fit the plan, or no trial can have some of its settings.
    """
    order = sorted(range(len(spec.arms)), key=lambda index: spec.arms[index].name != spec.baseline)
    found = tuple(_arm(spec, index, plan) for index in order)
    return (*found, replace(found[0], name=PLACEBO)) if spec.placebo else found


def recorded_arms(spec: SearchSpec, plan: Plan, ranges: Mapping[str, Mapping[str, str]]) -> tuple[Arm, ...]:
    """The arms of a job with the ranges that it recorded. The variants of its version may have had other ranges.

    Args:
        spec: the job's spec.
        plan: the planned length of its trials.
        ranges: arm -> knob -> the domain in words, as in the job's record.

    Raises:
        SpecError: as ``arms`` does.
    """
    return tuple(
        replace(arm, space={knob: _recorded(domain, ranges[arm.name].get(knob)) for knob, domain in arm.space.items()})
        for arm in arms(spec, plan)
    )


def warnings(spec: SearchSpec, plan: Plan) -> tuple[str, ...]:
    """One line for each setting that is allowed but makes the comparison weaker; raises like ``arms``."""
    found = arms(spec, plan)
    return tuple(spec.origin.tell(wrong.path, wrong.text) for wrong in _doubts(spec, found, plan))


def _arm(spec: SearchSpec, index: int, plan: Plan) -> Arm:
    given = spec.arms[index]
    variant = VARIANTS[given.variant] if given.variant else None
    width, space = _width(spec), dict[str, Domain]()
    own = variant.space if variant else {}
    knobs = [*own, *(knob for knob in given.parameters if knob not in own)]
    shortest = _shortest(spec, index, plan)
    for knob in knobs:
        if knob not in given.fixed:
            try:
                space[knob] = _planned(spec, given, knob).resolve(shortest, width)
            except TrainableError as error:
                raise spec.origin.error(InvalidValue(str(error), *_place(spec, index, knob))) from None
    for knob, domain in space.items():
        other = f"{ONE_MINUS}{knob}"
        if isinstance(domain, Float) and domain.scale == "one-minus-log" and other in space:
            text = f"{knob} has the scale one-minus-log, so its study knows it as {other}; give {other} another name"
            raise spec.origin.error(InvalidValue(text, *_place(spec, index, other)))
    fixed = {knob: _typed(given.kind, knob, value) for knob, value in given.fixed.items() if isinstance(value, Scalar)}
    when = _conditions(spec, index, space, {**(variant.fixed if variant else {}), **fixed})
    space = {knob: space[knob] for knob in _parents_first(spec, index, space, when)}
    good = variant.first(width) if variant else {}
    middles = {knob: _first(domain, good.get(knob)) for knob, domain in space.items()}
    first = _first_settings(spec, index, space, when, middles)
    default = first[0] if first else _whole(space, when, middles)
    arm = Arm(given.name, given.code, space, fixed, default, given.kind, when, first)
    if given.kind != "trainable":
        _try_out(spec, index, arm, shortest)
    return arm


def _conditions(
    spec: SearchSpec, index: int, space: Mapping[str, Domain], fixed: Mapping[str, Scalar]
) -> dict[str, dict[str, tuple[Scalar, ...]]]:
    """The conditions of the searched knobs. A condition on a fixed knob always holds, so it is left out.

    Raises:
        SpecError: a condition is about no choice of the arm, or never holds.
    """
    found: dict[str, dict[str, tuple[Scalar, ...]]] = {}
    for knob in space:
        asked = _range(spec, spec.arms[index], knob)
        for other, values in (asked.when or {}).items() if asked else ():
            try:
                if _depends(space, fixed, other, values):
                    found.setdefault(knob, {})[other] = values
            except InvalidValue as wrong:
                raise spec.origin.error(wrong.under(*_place(spec, index, knob), "when", other)) from None
    return found


def _depends(space: Mapping[str, Domain], fixed: Mapping[str, Scalar], other: str, values: tuple[Scalar, ...]) -> bool:
    """Whether the knob ``other`` of an arm decides in each trial if another one applies; not if its value is fixed."""
    domain = space.get(other)
    if isinstance(domain, Choice):
        if wrong := [value for value in values if not is_one_of(value, domain.values)]:
            raise InvalidValue(f"{other} is never {shown(wrong[0])}; its values are {domain}")
        return True
    if domain is not None:
        raise InvalidValue(f"{other} has the range {domain}; a condition is about a knob with values, or a fixed one")
    if other not in fixed:
        known = [*(knob for knob, domain in space.items() if isinstance(domain, Choice)), *fixed]
        there = f"there are: {', '.join(known)}" if known else "there is none"
        raise InvalidValue(
            f"the arm has no knob {other} with values or a fixed value; {there}{did_you_mean(other, known)}"
        )
    if not is_one_of(fixed[other], values):
        raise InvalidValue(f"never applies, because {other} is fixed to {shown(fixed[other])}")
    return False


def _parents_first(spec: SearchSpec, index: int, knobs: Iterable[str], when: Conditions) -> list[str]:
    """The knobs in their order, but each after those that it depends on; raise ``SpecError`` for a cycle."""
    ordered: list[str] = []

    def put(knob: str, path: tuple[str, ...]) -> None:
        if knob in path:
            circle = " -> ".join([*path[path.index(knob) :], knob])
            wrong = InvalidValue(f"the conditions go round in a circle: {circle}", *_place(spec, index, knob), "when")
            raise spec.origin.error(wrong)
        for other in when.get(knob, {}):
            put(other, (*path, knob))
        if knob not in ordered:
            ordered.append(knob)

    for knob in knobs:
        put(knob, ())
    return ordered


def _whole(space: Mapping[str, Domain], when: Conditions, values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The setting that these values give: those of the knobs that apply."""
    return {knob: values[knob] for knob in space if applies(when, knob, values)}


def _first_settings(
    spec: SearchSpec, index: int, space: Mapping[str, Domain], when: Conditions, middles: Mapping[str, Scalar]
) -> tuple[Mapping[str, Scalar], ...]:
    """The settings that the arm's ``first`` lists, filled up with the default; raise ``SpecError`` for a wrong one."""
    found: list[Mapping[str, Scalar]] = []
    for number, given in enumerate(spec.arms[index].first):
        place = ("arms", index, "first", number)
        values = dict(middles)
        for knob, value in given.items():
            if knob not in space:
                text = f"the arm does not search this knob; it searches: {', '.join(space)}{did_you_mean(knob, space)}"
                raise spec.origin.error(InvalidValue(text, *place, knob))
            values[knob] = float(value) if isinstance(space[knob], Float) and type(value) is int else value
            if not space[knob].contains(values[knob]):
                text = f"is {shown(value)}; the arm searches {space[knob]}"
                raise spec.origin.error(InvalidValue(text, *place, knob))
        whole = _whole(space, when, values)
        if idle := [knob for knob in given if knob not in whole]:
            text = f"does not apply in this setting{condition_text(when, idle[0])}; remove it"
            raise spec.origin.error(InvalidValue(text, *place, idle[0]))
        if whole in found:
            raise spec.origin.error(InvalidValue(f"is the same setting as number {found.index(whole)}", *place))
        found.append(whole)
    return tuple(found)


def _typed(kind: Kind, knob: str, value: Scalar) -> Scalar:
    return KNOB_TYPES[knob](value) if kind == "variant" and knob in KNOB_TYPES else value


def _shortest(spec: SearchSpec, index: int, plan: Plan) -> Plan:
    """The plan with the fewest updates: that of the largest batch that a trial of the arm may have.

    Ranges in updates then fit every trial.
    """
    given = spec.arms[index]
    if given.kind == "trainable":
        return plan
    asked = given.parameters.get("batch_size")
    sizes = [given.fixed.get("batch_size"), *([asked.max, *(asked.values or ())] if asked else [])]
    if not (known := [int(size) for size in sizes if size is not None]):
        return plan
    try:
        return plan.with_batch(max(known))
    except TrainableError as error:
        raise spec.origin.error(InvalidValue(str(error), *_place(spec, index, "batch_size"))) from None


def _width(spec: SearchSpec) -> float | None:
    """The width by which ranges are scaled; None for the user's own model."""
    return max(spec.model.width, NARROWEST) if spec.model.name == "elu_net" else None


def _planned(spec: SearchSpec, given: ArmSpec, knob: str) -> PlannedDomain:
    own = VARIANTS[given.variant].space.get(knob) if given.variant else None
    range_ = _range(spec, given, knob)
    if range_ is not None:
        return domain_of(given.kind, knob, range_, own)
    assert own is not None
    return own


def _range(spec: SearchSpec, given: ArmSpec, knob: str) -> Range | None:
    """The range that the spec gives to a knob of an arm; None for the variant's own."""
    in_space = given.variant is not None and knob in VARIANTS[given.variant].space
    return given.parameters.get(knob) or (spec.parameters.get(knob) if in_space else None)


def _recorded(domain: Domain, text: str | None) -> Domain:
    """The range of real numbers in this text; other domains depend on the spec alone and are the same."""
    found = _RANGE.fullmatch(text or "")
    if not isinstance(domain, Float) or found is None or text == str(domain):
        return domain
    return Float(float(found["low"]), float(found["high"]), _SCALES[found["scale"]])


def _first(domain: Domain, known_good: Scalar | None) -> Scalar:
    return known_good if known_good is not None and domain.contains(known_good) else middle(domain)


def _try_out(spec: SearchSpec, index: int, arm: Arm, plan: Plan) -> None:
    """Raise ``SpecError`` unless a trial is possible at both ends of every domain, and with the first settings.

    Args:
        spec, index, arm: the arm, and its place in the spec.
        plan: the shortest one that a trial of the arm may have.
    """
    given = spec.arms[index]
    for sampled in [*(setting for _, setting in arm.extremes()), *arm.opening]:
        try:
            Schedule(hyper_of(given, arm.setting(sampled)), plan)
        except TrainableError as error:
            culprit = str(error).split()[0]
            raise spec.origin.error(InvalidValue(str(error), *_place(spec, index, culprit))) from None
    knobs = {*arm.space, *arm.fixed}
    if "decay_schedule" in knobs and "lambda_norm" not in knobs:
        text = "has no effect: decay_schedule is for decoupled decay, and the arm has no lambda_norm"
        raise spec.origin.error(InvalidValue(text, *_place(spec, index, "decay_schedule")))
    schedules = _schedules(spec, arm)
    for knob in sorted(knobs & set(NEEDS_SCHEDULE)):
        possible = arm.when.get(knob, {}).get("schedule", schedules)
        if NEEDS_SCHEDULE[knob] not in possible:
            names = ", ".join(map(str, possible))
            text = f"has no effect: the schedule is {names}; {knob} is for schedule {NEEDS_SCHEDULE[knob]} only"
            raise spec.origin.error(InvalidValue(text, *_place(spec, index, knob)))


def _deciding(when: Conditions, knob: str) -> Iterator[dict[str, Scalar]]:
    """The values of other knobs with which a knob applies; of those further up, only the first values."""
    others = when.get(knob, {})
    further: dict[str, Scalar] = {}
    for other in others:
        further |= next(_deciding(when, other))
    for values in itertools.product(*others.values()):
        yield further | dict(zip(others, values, strict=True))


def _schedules(spec: SearchSpec, arm: Arm) -> tuple[str, ...]:
    """The learning-rate schedules that a trial of the arm can have."""
    searched = arm.space.get("schedule")
    if searched is not None:
        return tuple(str(value) for value in ends(searched))
    return (_hyper(spec, arm).schedule,)


def _hyper(spec: SearchSpec, arm: Arm) -> Hyper:
    return hyper_of(spec.arm(arm.name), arm.setting(arm.default))


def _place(spec: SearchSpec, index: int, knob: str) -> KeyPath:
    """The key that sets this knob of the arm in the spec. If there is none, the key of the arm."""
    given = spec.arms[index]
    for section, knobs in (("parameters", given.parameters), ("fixed", given.fixed)):
        if knob in knobs:
            return ("arms", index, section, knob)
    in_space = given.variant is not None and knob in VARIANTS[given.variant].space
    return ("parameters", knob) if in_space and knob in spec.parameters else ("arms", index)


def _doubts(spec: SearchSpec, found: tuple[Arm, ...], plan: Plan) -> Iterator[InvalidValue]:
    index_of = {arm.name: index for index, arm in enumerate(spec.arms)}
    baseline = found[0]
    implied = [key for key in ONE_SETTING if ("confirm", key) in spec.origin.lines]
    if spec.claim == "setting" and implied and ("claim",) not in spec.origin.lines:
        text = (
            "makes the claim about one setting of each arm: it ignores the luck of the search; for a claim about the "
            "methods, remove this key; to keep this claim, write claim: setting"
        )
        yield InvalidValue(text, "confirm", implied[0])
    yield from _unequal_starts(spec)
    # A placebo is no arm of the spec.
    for arm in (arm for arm in found if arm.name in index_of and arm.kind != "trainable"):
        place = index_of[arm.name]
        ours, theirs = _learning_rates(arm), _learning_rates(baseline)
        # An own optimizer may need another learning rate than Adam: that is no fault of its range.
        if ours != theirs and arm.kind == baseline.kind == "variant":
            text = f"arm {arm.name} has the learning rate {ours}, the baseline has {theirs}; equal ranges are fairer"
            yield InvalidValue(text, *_place(spec, place, "lr"))
        if "restarts" in _schedules(spec, arm):
            for pair in _pairs(spec, arm):
                if doubt := _off_boundary(pair, plan.epochs):
                    yield InvalidValue(doubt, *_place(spec, place, "restarts"))


def _unequal_starts(spec: SearchSpec) -> Iterator[InvalidValue]:
    ours = next(arm for arm in spec.arms if arm.name == spec.baseline)
    for index, arm in enumerate(spec.arms):
        if arm.warm_start is not None:
            text = (
                f"the sampler of {arm.name} learns from the trials of job {arm.warm_start}, which are not counted "
                "among its trials and epochs; this is said beside the verdict"
            )
            yield InvalidValue(text, "arms", index, "warm_start")
        if arm.first != ours.first:
            begins = [f"{listed} of the spec" if (listed := _settings(one)) else "its default" for one in (arm, ours)]
            text = f"arm {arm.name} begins with {begins[0]}, the baseline with {begins[1]}; equal starts are fairer"
            yield InvalidValue(text, "arms", index, *(["first"] if arm.first else []))


def _settings(arm: ArmSpec) -> str:
    count = len(arm.first)
    return "" if not count else "1 setting" if count == 1 else f"{count} settings"


def _learning_rates(arm: Arm) -> str:
    domain = arm.space.get("lr")
    if domain is None:
        return f"{arm.fixed['lr']:g} (fixed)"
    if isinstance(domain, Choice):
        return " or ".join(f"{value:g}" for value in domain.values)
    return f"{domain.low:g} to {domain.high:g} ({domain.scale})"


def _pairs(spec: SearchSpec, arm: Arm) -> list[str]:
    domain = arm.space.get("restarts")
    return [str(value) for value in ends(domain)] if domain is not None else [_hyper(spec, arm).restarts]


def _off_boundary(pair: str, epochs: int) -> str | None:
    """The warning for restarts whose last cycle does not end with the trial; None if it does."""
    length, mult = parse_restarts(pair)
    below = end = 0
    while end < epochs:
        below, end, length = end, end + length, length * mult
    if end == epochs:
        return None
    fitting = ", ".join(f"{t_0}x{t_mult}" for t_0, t_mult in restart_pairs(epochs)[:4])
    near = " or ".join(map(str, near_restart_epochs(epochs)))
    fits = f"{fitting} with {epochs} epochs" if fitting else f"other restarts with {near} epochs"
    ends_at = " or ".join(str(e) for e in (below, end) if e)
    return (
        f"{pair} ends a cycle on epoch {ends_at}, but not on the last epoch ({epochs}); "
        f"use {pair} with {ends_at} epochs, or {fits}"
    )
