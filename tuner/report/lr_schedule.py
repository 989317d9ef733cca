"""A variant's schedule as numbers and as a picture. ``trainables.schedules`` computes the numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from trainables.errors import did_you_mean
from trainables.hyper import Hyper
from trainables.schedules import Schedule
from trainables.space import Plan, Scalar, middle
from trainables.variants import VARIANTS
from tuner.errors import ServiceError, SpecError
from tuner.spec.messages import InvalidValue
from tuner.spec.ranges import NEEDS_SCHEDULE, check_value


class Point(NamedTuple):
    """One update of the weights.

    Args:
        update: its number, from 1.
        epoch: epochs done before it, with a fraction.
        lr: its learning rate.
        weight_decay: its decay in torch's form, which torch multiplies by the learning rate.
        shrink: the factor by which the decay multiplies the weights.
    """

    update: int
    epoch: float
    lr: float
    weight_decay: float
    shrink: float


def variant_schedule(variant: str, epochs: int, steps_per_epoch: int, knobs: Mapping[str, Scalar]) -> Schedule:
    """A variant's schedule, with its default knobs and the given ones.

    Args:
        variant: name of the variant.
        epochs: length of the training, in epochs.
        steps_per_epoch: number of updates per epoch.
        knobs: values that replace the defaults, by knob.

    Returns:
        The schedule.

    Raises:
        SpecError: the variant or a knob does not exist, a value does not fit its knob, or the variant does not use
            the knob.
        TrainableError: the values do not fit together.
    """
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise SpecError(f"no variant named {variant!r}; there are: {known}{did_you_mean(variant, VARIANTS)}")
    for knob, value in knobs.items():
        _check_knob(variant, knob, value)
    row, plan = VARIANTS[variant], Plan(epochs, steps_per_epoch)
    planned = {
        knob: middle(domain.resolve(plan))
        for knob, domain in row.space.items()
        if knob not in row.default and knob not in knobs
    }
    return Schedule(Hyper.of({**row.default, **planned, **row.fixed, **knobs}), plan)


def _check_knob(variant: str, knob: str, value: Scalar) -> None:
    try:
        check_value(knob, value)
    except InvalidValue as wrong:
        raise SpecError(f"--set {knob}: {wrong.text}") from None
    row = VARIANTS[variant]
    if knob in row.fixed:
        raise SpecError(f"--set {knob}: {variant} fixes {knob} at {row.fixed[knob]}; choose another variant")
    needed = NEEDS_SCHEDULE.get(knob)
    if needed and row.fixed.get("schedule") != needed:
        raise SpecError(f"--set {knob}: has no effect on {variant}; {knob} is for schedule {needed} only")


def points(schedule: Schedule, every: int) -> list[Point]:
    """The first update, and then one update out of every ``every``."""
    return [
        Point(
            step + 1,
            step / schedule.plan.steps_per_epoch,
            lr := schedule.lr(step),
            decay := schedule.weight_decay(step),
            1 - lr * decay,
        )
        for step in range(0, schedule.plan.updates, every)
    ]


def draw(schedule: Schedule, title: str, path: Path) -> None:
    """Draws the learning rate over the epochs, and the decay if the schedule has one.

    Args:
        schedule: the schedule to draw.
        title: first part of the picture's title.
        path: file to write; its suffix selects the picture format.

    Raises:
        SpecError: the suffix names no picture format.
        ServiceError: the file cannot be written.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    rows = points(schedule, 1)
    figure, axis = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    epochs = [row.epoch for row in rows]
    lines = axis.plot(epochs, [row.lr for row in rows], color="tab:blue", label="learning rate")
    axis.set(
        xlabel="epoch",
        ylabel="learning rate",
        title=f"{title}, {schedule.plan.updates} updates",
        ylim=(0, None),
    )
    if schedule.hyper.lambda_norm:
        right = axis.twinx()
        lines += right.plot(
            epochs, [row.weight_decay for row in rows], color="tab:orange", ls="--", label="decay (torch)"
        )
        right.set(ylabel="decay (times the learning rate, per update)", ylim=(0, None))
    axis.legend(handles=lines)
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:
        raise SpecError(f"cannot draw to {path}: {error}") from error
    except OSError as error:
        raise ServiceError(f"cannot write {path}: {error.strerror}") from error
    finally:
        pyplot.close(figure)
