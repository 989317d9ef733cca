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

from trainables.config import TrialConfig, derive_seed
from trainables.own.trial import OwnTrial
from trainables.report import ConfirmResult, EpochReport, OwnReport, OwnResult
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


class SimulatedOwnTrial:
    """One simulated trial of a user's own trainable: made-up values of its two metrics.

    The effect of a numeric knob is a wave over its logarithm (over its value, if that is not positive), so a search
    finds better settings in any range. Other knobs have no effect.

    Args:
        trial: the trial; its trainable is never loaded.
        maximize: whether larger values of the metrics are better.
    """

    def __init__(self, trial: OwnTrial, *, maximize: bool) -> None:
        self._trial = trial
        self._maximize = maximize

    def report(self, epoch: int) -> OwnReport:
        """Report number ``epoch``, from 1."""
        seconds = EPOCH_S * (1 + 0.2 * self._noise("seconds", epoch).random())
        return OwnReport(epoch, {self._trial.choose: self._value(self._trial.choose, epoch)}, seconds)

    def test(self) -> OwnResult:
        """The judge metric of the last report."""
        judge = self._trial.judge
        return OwnResult({judge: self._value(judge, self._trial.epochs)}, "simulated")

    def _value(self, metric: str, epoch: int) -> float:
        numbers = {
            name: float(value)
            for name, value in self._trial.config.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        fits = [(1 + math.cos(_position(value) + _phase(name))) / 2 for name, value in numbers.items()]
        fit = sum(fits) / len(fits) if fits else 1.0
        score = CHANCE + (BEST - CHANCE) * (1 + fit) / 2 * (1 - math.exp(-4 * epoch / self._trial.epochs))
        score += random.Random(derive_seed(self._trial.seed, "simulated")).gauss(0, SEED_SD)
        score += self._noise("setting").gauss(0, SETTING_SD) + self._noise(metric, epoch).gauss(0, EPOCH_SD)
        score = min(1.0, max(0.0, score))
        return score if self._maximize else 2.5 * (1 - score)

    def _noise(self, *what: str | int) -> random.Random:
        setting = json.dumps(dict(self._trial.config), sort_keys=True)
        return random.Random(derive_seed(self._trial.seed, "simulated", self._trial.trainable, setting, *what))


def _position(value: float) -> float:
    """Where a knob's value is on the wave: its logarithm, with four decades per period."""
    return math.pi / 2 * math.log10(value) if value > 0 else value


def _phase(name: str) -> float:
    return 2 * math.pi * random.Random(derive_seed(0, "simulated", name)).random()


def simulated(
    config: TrialConfig | OwnTrial, plan: Plan, *, maximize: bool = True
) -> SimulatedTraining | SimulatedOwnTrial:
    """The made-up training of a trial.

    Args:
        config: the trial.
        plan: the trial's length.
        maximize: for a user's own trainable, whether larger values of its metrics are better.
    """
    if isinstance(config, OwnTrial):
        return SimulatedOwnTrial(config, maximize=maximize)
    return SimulatedTraining(config, plan)


def best_lr(config: TrialConfig) -> float:
    """The peak learning rate with which a trial ends best."""
    width = config.model.options.get("width")
    return BEST_LR if config.model.name != "elu_net" or width is None else BEST_LR_OF_FULL_WIDTH / float(width)
