"""Estimates what a spec costs: trials, epochs and time. It times a few updates on this machine."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.runtime import usable_cpus, usable_gpus
from tuner.execution.gpu_packing import expected
from tuner.spec.checks import Checked

TIMED_UPDATES = 5


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

    def lines(self) -> Iterator[str]:
        """The estimate in lines of text."""
        yield f"search:  {self.search_trials} trials, at most {self.search_epochs} epochs{_hours(self.search_hours)}"
        yield f"confirm: {self.confirm_runs} runs, {self.confirm_epochs} epochs{_hours(self.confirm_hours)}"
        if self.auto is not None:
            yield f"auto:    {self.auto}"
        if self.cap_hours is not None:
            yield f"cap:     no trial of the search starts after about {self.cap_hours:g} h"
        if self.cap_gpu_hours is not None:
            yield f"cap:     no trial of the search starts after about {self.cap_gpu_hours:g} GPU hours"
        if self.seconds_per_epoch is not None:
            yield (
                f"timed:   {self.seconds_per_epoch:.2f} s an epoch of {self.updates_per_epoch} updates, one trial "
                f"alone on this CPU; {self.concurrent} at once"
            )


def estimate(checked: Checked, measure: bool) -> Cost:
    """The cost of a checked spec. ``measure`` trains a few updates on made-up images to estimate the time."""
    spec, arms = checked.spec, len(checked.spec.arms)
    budget, confirm = spec.budget, spec.confirm
    selection = arms * confirm.top_k * confirm.selection_seeds if confirm.top_k > 1 else 0
    trials, runs = arms * budget.trials, arms * confirm.seeds + selection
    concurrent = spec.concurrent_on(usable_cpus(), usable_gpus())
    on_gpu = spec.resources.gpus or (spec.resources.auto and usable_gpus())
    epoch_s = _seconds_per_epoch(checked) if measure and not on_gpu else None
    epoch_h = None if epoch_s is None else epoch_s / concurrent / 3600
    return Cost(
        search_trials=trials,
        search_epochs=trials * budget.epochs,
        confirm_runs=runs,
        confirm_epochs=runs * budget.epochs,
        updates_per_epoch=None if checked.plan is None else checked.plan.steps_per_epoch,
        concurrent=concurrent,
        seconds_per_epoch=epoch_s,
        search_hours=None if epoch_h is None else trials * budget.epochs * epoch_h,
        confirm_hours=None if epoch_h is None else runs * budget.epochs * epoch_h,
        cap_hours=budget.max_hours,
        cap_gpu_hours=budget.max_gpu_hours,
        auto=expected(spec),
    )


def _seconds_per_epoch(checked: Checked) -> float | None:
    """Seconds per epoch, timed on random images of the spec's size, else 32 x 32. None if their number is unknown."""
    if checked.images is None or checked.plan is None:
        return None
    import numpy as np
    import torch

    from trainables.data.splits import Arrays, Splits
    from trainables.training.trainer import Training
    from tuner.spec.trial_config import trial_config

    spec, arm = checked.spec, checked.arms[0]
    batch, side = spec.budget.batch_size, spec.data.size or 32
    generator = np.random.default_rng(0)

    def made_up(count: int) -> Arrays:
        images = generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        return Arrays(images, generator.integers(0, 10, count))

    splits = Splits(
        made_up(batch * TIMED_UPDATES),
        made_up(batch),
        made_up(1),
        tuple("0123456789"),
        "made up",
        flips=False,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.resources.cpus)
    try:
        training = Training(trial_config(spec, arm.hyper(arm.default), spec.seed), splits)
        training.run_epoch()
        begun = time.monotonic()
        training.run_epoch()
        seconds = time.monotonic() - begun
    finally:
        torch.set_num_threads(threads)
    return seconds / TIMED_UPDATES * checked.plan.steps_per_epoch


def _hours(hours: float | None) -> str:
    if hours is None:
        return ""
    return f", about {hours * 60:.0f} min" if hours < 2 else f", about {hours:.1f} h"
