"""A training that trains nothing: learning curves made up from the settings and a seed, in no time. No torch.

For trying out a search and for testing one over thousands of trials. The curves have the shape of real ones, not their
values: accuracy saturates with the epochs, depends on the peak learning rate, dips where the schedule's rate is high,
and varies from seed to seed; no variant is better than another by design. A rate that is much too large diverges.
"""

import hashlib
import json
import math
import random

from trainables.config import TrialConfig, derive_seed
from trainables.report import ConfirmResult, EpochReport
from trainables.schedules import Schedule
from trainables.space import Plan

CHANCE = 0.1
BEST = 0.7
BEST_LR = 3e-3
LR_DECADES = 0.8
"""Standard deviation, in decades, of the bell that accuracy is of the peak learning rate."""
TOO_LARGE_LR = 0.3
SEED_SD = 0.008
EPOCH_SD = 0.004
EPOCH_S = 10.0


class SimulatedTraining:
    """One trial, an epoch at a time; any epoch can be asked for, so that it can be continued from anywhere.

    Args:
        config: the trial; its data is never read.
        plan: its length.
    """

    def __init__(self, config: TrialConfig, plan: Plan) -> None:
        self.config = config
        self._plan = plan
        self._schedule = Schedule(config.hyper, plan)

    def report(self, epoch: int) -> EpochReport:
        """What training epoch ``epoch``, from 1, would report."""
        last = epoch * self._plan.steps_per_epoch - 1
        lr = self._schedule.lr(last)
        diverged = self.config.hyper.lr > TOO_LARGE_LR and epoch > 1
        val_acc = self._accuracy(epoch, "val")
        return EpochReport(
            epoch=epoch,
            train_loss=math.nan if diverged else 2.4 * (1 - self._accuracy(epoch, "train")),
            train_acc=self._accuracy(epoch, "train"),
            val_loss=2.5 * (1 - val_acc),
            val_acc=val_acc,
            lr=lr,
            weight_decay=self._schedule.weight_decay(last),
            seconds=EPOCH_S * (1 + 0.2 * self._noise("seconds", epoch).random()),
            diverged="training loss is nan" if diverged else None,
        )

    def test(self) -> ConfirmResult:
        """What evaluating on the test images after the last epoch would give."""
        acc = self._accuracy(self._plan.epochs, "test")
        weights = json.dumps(self.config.to_dict(), sort_keys=True).encode()
        return ConfirmResult(
            test_acc=acc,
            test_loss=2.5 * (1 - acc),
            weights_sha256=hashlib.sha256(weights).hexdigest(),
            device="simulated",
        )

    def _accuracy(self, epoch: int, split: str) -> float:
        hyper = self.config.hyper
        fit = math.exp(-((math.log10(hyper.lr / BEST_LR) / LR_DECADES) ** 2) / 2)
        learned = 1 - math.exp(-4 * epoch / self._plan.epochs)
        # Nothing of it is left at the end, so that no schedule ends better than another.
        rate = self._schedule.lr(epoch * self._plan.steps_per_epoch - 1) / hyper.lr
        restless = 0.05 * rate * (1 - epoch / self._plan.epochs)
        acc = CHANCE + (BEST - CHANCE) * fit * learned - restless
        acc += self._noise("seed").gauss(0, SEED_SD) + self._noise(split, epoch).gauss(0, EPOCH_SD)
        return min(1.0, max(0.0, acc))

    def _noise(self, *what: str | int) -> random.Random:
        return random.Random(derive_seed(self.config.seed, "simulated", str(self.config.hyper), *what))
