"""Simulated training: learning curves that are computed at once from the settings and a seed, without torch.

It serves to try out a search, and to test a search over thousands of trials. The curves have the shape of real ones,
not their values: accuracy saturates with the epochs, depends on the peak learning rate, dips where the schedule's rate
is high, and varies from seed to seed. The effect of a seed is the same for all settings and arms, so the differences
between two arms on the same seeds vary less than the accuracies do. By design no variant is better than another. A
trial with a much too large learning rate diverges.
"""

import hashlib
import json
import math
import random
from typing import Any

from trainables.config import TrialConfig, derive_seed
from trainables.report import ConfirmResult, EpochReport
from trainables.schedules import Schedule
from trainables.space import Plan

CHANCE = 0.1
BEST = 0.7
BEST_LR = 3e-3
"""The best peak learning rate of a model without a width."""
BEST_LR_OF_FULL_WIDTH = 9e-4
"""The best one of elu_net with width 1. As in real trainings, it is inverse to the width."""
LR_DECADES = 0.8
"""Accuracy is a bell curve over the logarithm of the peak learning rate; this is its standard deviation in decades."""
TOO_LARGE_LR = 0.3
SEED_SD = 0.008
"""Effect of a seed, the same for all settings."""
SETTING_SD = 0.002
"""Effect of a seed on one setting."""
EPOCH_SD = 0.002
"""Noise of one measurement."""
EPOCH_S = 10.0


class SimulatedTraining:
    """One simulated trial. It can report any epoch in any order, so a trial can resume from every epoch.

    Args:
        config: the trial; its data is never read.
        plan: the trial's length.
    """

    def __init__(self, config: TrialConfig, plan: Plan) -> None:
        self.config = config
        self._plan = plan
        self._schedule = Schedule(config.hyper, plan)

    def report(self, epoch: int) -> EpochReport:
        """The report of epoch ``epoch``, from 1."""
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
        """The result of the evaluation on the test images after the last epoch."""
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
        fit = math.exp(-((math.log10(hyper.lr / best_lr(self.config)) / LR_DECADES) ** 2) / 2)
        learned = 1 - math.exp(-4 * epoch / self._plan.epochs)
        # The dip is zero at the end, so that no schedule ends better than another.
        rate = self._schedule.lr(epoch * self._plan.steps_per_epoch - 1) / hyper.lr
        restless = 0.05 * rate * (1 - epoch / self._plan.epochs)
        acc = CHANCE + (BEST - CHANCE) * fit * learned - restless
        acc += random.Random(derive_seed(self.config.seed, "simulated")).gauss(0, SEED_SD)
        acc += self._noise("setting").gauss(0, SETTING_SD) + self._noise(split, epoch).gauss(0, EPOCH_SD)
        return min(1.0, max(0.0, acc))

    def _noise(self, *what: str | int) -> random.Random:
        """Noise that depends on the setting and the seed."""
        return random.Random(derive_seed(self.config.seed, "simulated", str(self.config.hyper), *what))


def simulated(config: Any, plan: Plan) -> SimulatedTraining:
    """The made-up training of a trial."""
    return SimulatedTraining(config, plan)


def best_lr(config: TrialConfig) -> float:
    """The peak learning rate with which a trial ends best."""
    width = config.model.options.get("width")
    return BEST_LR if config.model.name != "elu_net" or width is None else BEST_LR_OF_FULL_WIDTH / float(width)
