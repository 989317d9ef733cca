"""The learning rates that the article's programs really used, for a training of any length.

The programs ran 201 epochs of 500 updates. A shorter training runs through the same values. Each of its updates stands
for several updates of the article, so that all together stand for 100,500.
"""

from dataclasses import dataclass

from studies.article.defects import Defect
from trainables.schedules import Schedule

EPOCHS = 201
UPDATES = EPOCHS * 500
PARAMETERS = 1_465_720
MODEL_WIDTH = 300
"""The widest layer of the net. It takes the place of d_model in the right form of the formula."""
WARMUP = 4000
CONSTANT_LR = 1e-4
"""The constant rate with which case 4 multiplied its updates, while it printed a cosine of up to 1e-3."""


def noam_rate(size: int, index: float) -> float:
    """``size^-0.5 * min(index^-0.5, index * 4000^-1.5)``: arXiv:1706.03762, eq. 3; 0 at index 0.

    Args:
        size: the width of the model. Case 3 used the number of parameters.
        index: the number of the update, from 1. Case 3 used the number of the epoch, from 0.
    """
    return 0.0 if index == 0 else float(size**-0.5 * min(index**-0.5, index * WARMUP**-1.5))


@dataclass(frozen=True)
class CodedSchedule(Schedule):
    """The learning rate and decay of a case, with its defects.

    Args:
        defects: defects of the case. Only those in ``OF_SCHEDULE`` have an effect, and there is at least one.
        factor: factor on every published learning rate, for a narrower net.
        decay: learning rate times decay, summed over the training.
    """

    defects: frozenset[Defect]
    factor: float
    decay: float

    def lr(self, step: int) -> float:
        """The learning rate of the update after ``step`` updates."""
        if Defect.UNAPPLIED_COSINE in self.defects:
            return CONSTANT_LR * self.factor
        if Defect.UNAPPLIED_HALVINGS in self.defects:
            return self.hyper.lr
        size = PARAMETERS if Defect.PARAMETER_COUNT in self.defects else MODEL_WIDTH
        by_epoch = Defect.EPOCH_INDEX in self.defects
        index = step * EPOCHS // self.plan.updates if by_epoch else (step + 1) * UPDATES / self.plan.updates
        return self.factor * noam_rate(size, index)

    def weight_decay(self, step: int) -> float:
        """The decay of ``Schedule``. If the learning rate is constant, the decay is constant too."""
        if Defect.UNAPPLIED_COSINE in self.defects:
            return self.decay / self.plan.updates / self.lr(step)
        return super().weight_decay(step)
