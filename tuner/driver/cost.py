"""Estimates what a spec costs: trials, epochs and time. It times a few updates on this machine."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.runtime import usable_cpus, usable_gpus
from trainables.space import Plan
from tuner.execution.gpu_packing import expected
from tuner.spec.arms import Arm
from tuner.spec.checks import Checked
from tuner.spec.messages import InvalidValue
from tuner.spec.search_spec import SearchSpec
from tuner.spec.settings import LEAST_SEARCHES

if TYPE_CHECKING:
    from trainables.data.splits import Splits

TIMED_UPDATES = 5

GAINS = (0.5, 1.0, 2.0, 3.0)
"""True gains whose chance of a verdict is shown, in sd of the search-wise differences."""


@dataclass(frozen=True)
class LookCost:
    """What a job has cost at a look, if no arm is settled earlier: at most ``epochs``, and hours or None."""

    searches: int
    epochs: int
    hours: float | None


@dataclass(frozen=True)
class Prospects:
    """What the looks of a job can settle.

    Args:
        spread: sd of the search-wise differences to the baseline, in ``unit``, as far as it is known; else None.
        smallest_margin: smallest margin that can tie at the last look, in ``unit``; without a spread, in sd.
        chances: for each true gain (in units of the sd), the chance that the variant is shown to beat the baseline.
        unit: ``points``, or words for the user's own unit.
    """

    spread: float | None
    smallest_margin: float
    chances: Mapping[float, float]
    unit: str = "points"

    def lines(self) -> Iterator[str]:
        """The prospects in lines of text."""
        unit = "sd" if self.spread is None else self.unit
        scale = self.spread or 1.0
        yield f"ties:    possible with a margin of at least {self.smallest_margin:.2g} {unit}"
        gains = " / ".join(f"{scale * gain:.2g}" for gain in self.chances)
        yield (
            f"beats:   a true gain of {gains} {unit} is shown with a chance of "
            f"{' / '.join(f'{100 * chance:.0f}' for chance in self.chances.values())} %"
        )
        if self.spread is None:
            yield "         (sd: of the difference between an arm and the baseline from search to search; see --spread)"


@dataclass(frozen=True)
class Cost:
    """The most that would run, without pruning and caps, and about how long it takes.

    Args:
        search_trials, search_epochs: of all arms.
        confirm_runs, confirm_epochs: of all arms, selection runs among them.
        updates_per_epoch: None if only reading the data can tell.
        concurrent: trials at once, on CPU; with GPUs as many as fit.
        seconds_per_epoch: measured on one thread here, or None.
        search_hours, confirm_hours: with ``concurrent`` trials at once, or None.
        cap_hours, cap_gpu_hours: the spec's caps on the search.
        looks: the cost at each look; empty if the claim is about one setting.
        prospects: what the looks can settle, or None.
    """

    search_trials: int
    search_epochs: int
    confirm_runs: int
    confirm_epochs: int
    updates_per_epoch: int | None
    concurrent: int
    seconds_per_epoch: float | None
    search_hours: float | None
    confirm_hours: float | None
    cap_hours: float | None
    cap_gpu_hours: float | None
    auto: str | None
    """What ``resources: auto`` will become, or None."""
    looks: tuple[LookCost, ...] = ()
    prospects: Prospects | None = None
    unit: str = "epochs"
    """What the length of a trial is counted in: ``epochs``, or ``reports`` of an own trainable."""

    def lines(self) -> Iterator[str]:
        """The estimate in lines of text."""
        unit = self.unit
        yield f"search:  {self.search_trials} trials, at most {self.search_epochs} {unit}{_hours(self.search_hours)}"
        yield f"confirm: {self.confirm_runs} runs, {self.confirm_epochs} {unit}{_hours(self.confirm_hours)}"
        if not self.looks:
            yield "claim:   about one setting per arm; for a claim about methods, write searches: {at: [4, 6, 8, 12]}"
        for look in self.looks:
            yield f"look:    after {look.searches} searches per arm, at most {look.epochs} {unit}{_hours(look.hours)}"
        if self.prospects is not None:
            yield from self.prospects.lines()
        what = "search" if self.looks else "trial of the search"
        if self.auto is not None:
            yield f"auto:    {self.auto}"
        if self.cap_hours is not None:
            yield f"cap:     no {what} starts after about {self.cap_hours:g} h"
            late = [look.searches for look in self.looks if look.hours is not None and look.hours > self.cap_hours]
            if late:
                yield f"         the looks from {late[0]} searches on may not be reached"
        if self.cap_gpu_hours is not None:
            yield f"cap:     no {what} starts after about {self.cap_gpu_hours:g} GPU hours"
        if self.seconds_per_epoch is not None:
            yield (
                f"timed:   {self.seconds_per_epoch:.2f} s an epoch of {self.updates_per_epoch} updates, one trial "
                f"alone on this CPU; {self.concurrent} at once"
            )


@dataclass(frozen=True)
class Images:
    """What made-up images must look like: the number of training images, the shape of one, and the classes."""

    train: int
    shape_HWC: tuple[int, ...]
    classes: int


def images_of(checked: Checked) -> Images | None:
    """The images of a checked spec; None if only reading the data tells their number or shape."""
    survey, size = checked.survey, checked.spec.data.size
    if checked.images is None or survey is None:
        return None
    shape = (size, size, 3) if size else survey.shape_HWC
    return None if shape is None else Images(checked.images.train, shape, survey.named or survey.classes)


def estimate(checked: Checked, epoch_s: float | None, spread: float | None = None) -> Cost:
    """The cost of a checked spec.

    Args:
        checked: the spec.
        epoch_s: seconds per epoch of one trial alone on this CPU, as ``seconds_per_epoch`` measures; None if unknown.
        spread: sd of the search-wise differences to the baseline, in points, if it is known.

    Raises:
        SpecError: the time of the budget ends before the first look, however many trials are pruned.
    """
    spec, budget = checked.spec, checked.spec.budget
    trials, runs = search_trials(spec), confirm_runs(spec)
    concurrent = spec.concurrent_on(usable_cpus(), usable_gpus())
    epoch_h = None if epoch_s is None else epoch_s / concurrent / 3600
    if epoch_h is not None:
        _check_cap(spec, epoch_h)
    return Cost(
        search_trials=trials,
        search_epochs=trials // budget.trials * epochs_of_search(spec),
        confirm_runs=runs,
        confirm_epochs=runs * budget.epochs,
        updates_per_epoch=None if checked.plan is None else checked.plan.steps_per_epoch,
        concurrent=concurrent,
        seconds_per_epoch=epoch_s,
        search_hours=None if epoch_h is None else trials // budget.trials * epochs_of_search(spec) * epoch_h,
        confirm_hours=None if epoch_h is None else runs * budget.epochs * epoch_h,
        cap_hours=budget.max_hours,
        cap_gpu_hours=budget.max_gpu_hours,
        auto=expected(spec),
        looks=tuple(_look_cost(spec, at, epoch_h) for at in spec.looks),
        prospects=_prospects(checked, spread) if spec.searches else None,
        unit="reports" if spec.own_trainable else "epochs",
    )


def search_trials(spec: SearchSpec) -> int:
    """The most trials that the searches of a job start."""
    return spec.arm_count * spec.budget.trials * (spec.searches.most if spec.searches else 1)


def epochs_of_search(spec: SearchSpec) -> int:
    """The most epochs of one search of an arm. Trials that run when its limit is reached are trained to their end."""
    budget = spec.budget
    whole = budget.trials * budget.epochs
    if budget.epochs_per_search is None:
        return whole
    running = spec.concurrent_on(usable_cpus(), usable_gpus())
    return min(whole, budget.epochs_per_search + running * budget.epochs)


def confirm_runs(spec: SearchSpec) -> int:
    """The most selection and confirm runs of a job, before the user asks for more."""
    confirm = spec.confirm
    selection = confirm.top_k * confirm.selection_seeds if confirm.top_k > 1 else 0
    if spec.searches is None:
        return spec.arm_count * (selection + confirm.seeds)
    # Only the setting of the best arm is confirmed by itself.
    return spec.arm_count * spec.searches.most * spec.searches.confirm_seeds + selection + confirm.seeds


def _check_cap(spec: SearchSpec, epoch_h: float) -> None:
    """Refuse a cap on the hours that leaves no time for the first look."""
    cap, budget = spec.budget.max_hours, spec.budget
    if spec.searches is None or cap is None:
        return
    shortest = budget.epochs if spec.scheduler.name == "none" else spec.first_rung
    of_search = min(budget.trials * shortest, budget.epochs_per_search or math.inf)
    units = spec.arm_count * LEAST_SEARCHES
    needed_h = units * (of_search + spec.searches.confirm_seeds * budget.epochs) * epoch_h
    if needed_h > cap:
        text = (
            f"is {cap:g}, but {LEAST_SEARCHES} searches of every arm, the fewest for a verdict, take at least "
            f"{needed_h:.2g} hours here; raise it, or plan for another machine with --no-measure"
        )
        raise spec.origin.error(InvalidValue(text, "budget", "max_hours"))


def _look_cost(spec: SearchSpec, at: int, epoch_h: float | None) -> LookCost:
    seeds = spec.searches.confirm_seeds if spec.searches else 0
    epochs = spec.arm_count * at * (epochs_of_search(spec) + seeds * spec.budget.epochs)
    return LookCost(at, epochs, None if epoch_h is None else epochs * epoch_h)


def _prospects(checked: Checked, spread: float | None) -> Prospects:
    from tuner.verdict.levels import smallest_margin
    from tuner.verdict.looks import DIGITS, LookPlan, chances

    spec, sd = checked.spec, spread or 1.0
    # Without a known spread the margin has no place on this scale.
    # Of several questions, the one with the least chance for each arm.
    asked = max(spec.questions, key=lambda family: len(family.arms) / family.alpha)
    digits = None if spec.metric.own else DIGITS
    plan = LookPlan(spec.looks, spec.confirm.margin if spread else 0.0, len(asked.arms), asked.alpha, digits=digits)
    found = chances(plan, sd, [gain * sd for gain in GAINS])
    return Prospects(
        spread,
        smallest_margin(spec.looks, sd),
        dict(zip(GAINS, (chance.beats for chance in found), strict=True)),
        "points" if spec.metric.in_points else f"of {spec.metric.judge_label}",
    )


def is_timed_here(spec: SearchSpec) -> bool:
    """Whether the time of an epoch on this CPU says something about the job: not if its trials use a GPU."""
    return not (spec.resources.gpus or (spec.resources.auto and usable_gpus()))


def seconds_per_epoch(spec: SearchSpec, arm: Arm, images: Images, plan: Plan) -> float:
    """Seconds per epoch of an arm's first trial, from a few updates on made-up images. One thread trains here."""
    import torch

    from trainables.training.trainer import Training
    from tuner.spec.trial_config import image_trial, plan_of

    trial = image_trial(spec, arm.name, arm.setting(arm.default), spec.seed)
    splits = made_up(images, trial.batch_size, TIMED_UPDATES)
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.resources.cpus)
    try:
        training = Training(trial, splits)
        training.run_epoch()
        begun = time.monotonic()
        training.run_epoch()
        seconds = time.monotonic() - begun
    finally:
        torch.set_num_threads(threads)
    return seconds / TIMED_UPDATES * plan_of(spec, plan, arm.setting(arm.default)).steps_per_epoch


def made_up(images: Images, batch: int, batches: int = 1) -> "Splits":
    """Random images and labels of this shape: some batches to train on, one to validate, one image to test."""
    import numpy as np

    from trainables.data.splits import Arrays, Splits

    generator = np.random.default_rng(0)

    def some(count: int) -> Arrays:
        pixels = generator.integers(0, 256, (count, *images.shape_HWC), dtype=np.uint8)
        return Arrays(pixels, generator.integers(0, images.classes, count))

    names = tuple(map(str, range(images.classes)))
    return Splits(some(batch * batches), some(batch), some(1), names, "made up", flips=False)


def _hours(hours: float | None) -> str:
    if hours is None:
        return ""
    return f", about {hours * 60:.0f} min" if hours < 2 else f", about {hours:.1f} h"
