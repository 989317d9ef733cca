"""Learning-rate and decay schedules: pure functions of the update index, and the class that combines them.

The training loop and the table and plot of ``tuner schedule`` all call ``Schedule``, so there is only one copy of each
formula. Every factor peaks at 1, so ``lr`` is the peak learning rate in every variant.

Legend: step = optimizer updates already taken, from 0; T = planned updates.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Real

from trainables.catalog import is_dotted, load_object
from trainables.errors import CodeError, TrainableError, did_you_mean
from trainables.foreign_text import raised
from trainables.hyper import Hyper
from trainables.space import Plan

ARTICLE_LR_HALVINGS = (1 / 8, 1 / 4, 1 / 2)
"""The article halves the learning rate at epochs 25, 50 and 100 of 201."""
ARTICLE_DECAY_HALVINGS = (1 / 20, 1 / 4, 1 / 2, 3 / 4)
"""The article's case 1 halves the decay rate at epochs 10, 50, 100 and 150 of 201."""


def halvings(step: int, total: int, at: tuple[float, ...]) -> float:
    """A factor in (0, 1] that halves at each of the shares ``at`` of ``total`` updates."""
    return float(0.5 ** sum(step >= share * total for share in at))


def noam(step: int, warmup_steps: int) -> float:
    """Linear warm-up, then inverse-square-root decay.

    Vaswani et al. 2017 (arXiv:1706.03762), eq. 3, scaled to peak at 1 instead of by ``d_model``, so that
    ``lr`` is the peak learning rate here as in every other variant.

    Args:
        step: optimizer updates already taken, from 0.
        warmup_steps: updates until the peak, at least 1.

    Returns:
        The factor on ``lr``, in (0, 1].
    """
    t = step + 1
    return min(t / warmup_steps, math.sqrt(warmup_steps / t))


def cycle(step: int, first: int, mult: int) -> tuple[int, int]:
    """The cosine cycle that contains ``step``, as (its first update, its length in updates)."""
    start, length = 0, first
    while step >= start + length:
        start, length = start + length, length * mult
    return start, length


def cosine_restarts(step: int, first: int, mult: int) -> float:
    """Cosine annealing from 1 towards 0 in cycles of ``first``, ``first * mult``, … updates.

    Loshchilov & Hutter 2017 (arXiv:1608.03983), eq. 5, with eta_min = 0 and T_cur counted in updates: the first
    update of a cycle runs at exactly 1, and none runs at exactly 0. With ``first`` = the whole trial this is plain
    cosine annealing.
    """
    start, length = cycle(step, first, mult)
    return 0.5 * (1 + math.cos(math.pi * (step - start) / length))


def normalized_decay(lambda_norm: float, updates: int) -> float:
    """Decay rate per update from the budget-free one: ``lambda_norm * sqrt(b / (B * T))``.

    Loshchilov & Hutter 2019 (arXiv:1711.05101), appendix B.1, with batch size b, B training images per epoch and
    T epochs. These enter only as the number of updates, B * T / b. PyTorch multiplies the decay by the learning rate
    and the paper does not: divide the result by ``lr`` before you pass it to ``torch.optim.AdamW``, as ``Schedule``
    does.
    """
    return lambda_norm / math.sqrt(updates)


def parse_restarts(text: str) -> tuple[int, int]:
    """Parse ``"10x2"`` to (T_0 = 10 epochs, T_mult = 2); raise ``TrainableError`` for any other form."""
    t_0, x, t_mult = text.partition("x")
    if not (x and t_0.isdecimal() and t_mult.isdecimal() and int(t_0) >= 1 and int(t_mult) >= 1):
        raise TrainableError(f"restarts must be written T_0xT_mult, like 10x2 for 10, 20, 40, … epochs; not {text!r}")
    return int(t_0), int(t_mult)


def _constant_factor(hyper: Hyper, plan: Plan, step: int) -> float:
    return 1.0


def _halving_factor(hyper: Hyper, plan: Plan, step: int) -> float:
    return halvings(step, plan.updates, ARTICLE_LR_HALVINGS)


def _noam_factor(hyper: Hyper, plan: Plan, step: int) -> float:
    return noam(step, hyper.warmup)


def _cosine_factor(hyper: Hyper, plan: Plan, step: int) -> float:
    return cosine_restarts(step, plan.updates, 1)


def _restarts_factor(hyper: Hyper, plan: Plan, step: int) -> float:
    t_0, t_mult = parse_restarts(hyper.restarts)
    return cosine_restarts(step, t_0 * plan.steps_per_epoch, t_mult)


LR_SCHEDULES: Mapping[str, Callable[[Hyper, Plan, int], float]] = {
    "constant": _constant_factor,
    "halving": _halving_factor,
    "noam": _noam_factor,
    "cosine": _cosine_factor,
    "restarts": _restarts_factor,
}
"""Learning-rate schedules by name; each function returns the factor on ``lr`` at an update."""


@cache
def own_schedule(path: str) -> Callable[[int, int], float]:
    """The user's own schedule at a dotted path: ``(step, total) -> factor``, whose factors are checked.

    Args:
        path: the dotted path of a function of the number of updates already taken and the number of planned updates.

    Raises:
        CodeError: there is no such function; or, at a call, it raised an exception or returned something other than a
            finite number of at least 0.
    """
    function = load_object(path)
    if not callable(function) or isinstance(function, type):
        raise CodeError(f"{path} is no function: a schedule is a function (step, total) -> factor on the learning rate")

    def factor(step: int, total: int) -> float:
        try:
            found: object = function(step, total)
        except Exception as error:
            raise CodeError(raised(f"{path}({step}, {total})", error)) from error
        if not isinstance(found, Real) or not 0 <= float(found) < math.inf:
            raise CodeError(f"{path}({step}, {total}) returned {found!r:.80}; a factor is a finite number, at least 0")
        return float(found)

    return factor


@dataclass(frozen=True)
class Schedule:
    """A trial's learning rate and decay at every update.

    Raises:
        TrainableError: the schedule is unknown, the warm-up is not shorter than the training, or the restarts are not
            of the form ``"T_0xT_mult"``.
    """

    hyper: Hyper
    plan: Plan

    def __post_init__(self) -> None:
        # The user's own schedule is imported at its first use, so that a spec can be read without running any code.
        if self.hyper.schedule not in LR_SCHEDULES and not is_dotted(self.hyper.schedule):
            meant = did_you_mean(self.hyper.schedule, LR_SCHEDULES)
            raise TrainableError(
                f"no schedule named {self.hyper.schedule!r}{meant} (there are: {', '.join(LR_SCHEDULES)}, and a "
                "function of your own, as 'module:function')"
            )
        if self.hyper.schedule == "noam" and not 1 <= self.hyper.warmup < self.plan.updates:
            raise TrainableError(
                f"warmup of {self.hyper.warmup} updates must be at least 1 and shorter than the training "
                f"({self.plan.updates} updates)"
            )
        if self.hyper.schedule == "restarts":
            parse_restarts(self.hyper.restarts)

    def lr(self, step: int) -> float:
        """The learning rate of the update that follows ``step`` updates; raises ``CodeError`` as ``own_schedule``."""
        return self.hyper.lr * self.lr_factor(step)

    def lr_factor(self, step: int) -> float:
        """The schedule's factor on the learning rate of the update that follows ``step`` updates."""
        if is_dotted(self.hyper.schedule):
            return own_schedule(self.hyper.schedule)(step, self.plan.updates)
        return LR_SCHEDULES[self.hyper.schedule](self.hyper, self.plan, step)

    def weight_decay(self, step: int) -> float:
        """The decoupled decay in torch's form: an update multiplies weights by ``1 - lr(step) * weight_decay(step)``.

        With warm restarts, lambda_norm is normalised by the length of the current cycle, not of the trial
        (arXiv:1711.05101, section 4).
        """
        if self.hyper.lambda_norm == 0:
            return 0.0
        updates, factor = self.plan.updates, 1.0
        if self.hyper.schedule == "restarts":
            t_0, t_mult = parse_restarts(self.hyper.restarts)
            _, updates = cycle(step, t_0 * self.plan.steps_per_epoch, t_mult)
        if self.hyper.decay_schedule == "halving":
            factor = halvings(step, self.plan.updates, ARTICLE_DECAY_HALVINGS)
        return factor * normalized_decay(self.hyper.lambda_norm, updates) / self.hyper.lr

    def warmup_epochs(self) -> int:
        """Number of epochs, rounded up, until the learning rate reaches its peak; 0 without warm-up."""
        return math.ceil(self.hyper.warmup / self.plan.steps_per_epoch) if self.hyper.schedule == "noam" else 0

    def cycle_ends(self) -> tuple[int, ...] | None:
        """Epochs after which a cosine cycle has ended, or None if the schedule has no restarts."""
        if self.hyper.schedule != "restarts":
            return None
        t_0, t_mult = parse_restarts(self.hyper.restarts)
        ends, length = [], t_0
        end = length
        while end <= self.plan.epochs:
            ends.append(end)
            length *= t_mult
            end += length
        return tuple(ends)
