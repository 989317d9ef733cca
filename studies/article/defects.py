"""The defects of the article's programs. The stored code or the logs prove them."""

from enum import StrEnum


class Defect(StrEnum):
    """One difference between the program of a case and the algorithm in its name."""

    CONSTANT_CORRECTION = "constant-correction"
    """Moments are divided by 1 - beta at every update, not by 1 - beta^t. The steps of a long run are
    sqrt(1 - beta2) / (1 - beta1) times as long as the learning rate says (0.316 for 0.9 and 0.999)."""
    WRONG_SIGN_DECAY = "wrong-sign-decay"
    """The decoupled decay is subtracted from the step, and the step is subtracted from the weights. So the weights grow
    by 1 + lr * decay."""
    DOUBLED_SLOPE = "doubled-slope"
    """The derivative of ELU above 0 is 2, not 1."""
    UNNORMALISED_POOL = "unnormalised-pool"
    """Average pooling gives its whole gradient to each of its four inputs, not a quarter of it."""
    SUMMED_LOSS = "summed-loss"
    """The gradient of the loss is summed over the batch, not averaged."""
    RANDOM_FEEDBACK = "random-feedback"
    """Gradients go back through fixed random matrices, uniform in (-0.5, 0.5), not through the weights."""
    WHOLE_TENSOR_MAXIMUM = "whole-tensor-maximum"
    """AMSGrad keeps the whole second moment with the larger sum over the tensor, not the maximum of each element."""
    UNCORRECTED_V = "uncorrected-v"
    """The second moment is not corrected for its start at 0. The first moment is."""
    PARAMETER_COUNT = "parameter-count"
    """Noam's formula gets the number of parameters instead of the width of the model."""
    EPOCH_INDEX = "epoch-index"
    """Noam's formula gets the number of the epoch instead of the number of the update."""
    UNAPPLIED_COSINE = "unapplied-cosine"
    """The cosine with restarts is computed, printed and plotted, but the updates use a constant."""
    UNAPPLIED_HALVINGS = "unapplied-halvings"
    """The halvings of the learning rate change a number that the graph does not read again after it is built."""


OF_BACKWARD = frozenset({Defect.DOUBLED_SLOPE, Defect.UNNORMALISED_POOL, Defect.SUMMED_LOSS, Defect.RANDOM_FEEDBACK})
"""The defects that change the gradient."""
OF_RULE = frozenset(
    {Defect.CONSTANT_CORRECTION, Defect.WRONG_SIGN_DECAY, Defect.WHOLE_TENSOR_MAXIMUM, Defect.UNCORRECTED_V}
)
"""The defects that change the update rule."""
OF_SCHEDULE = frozenset(
    {Defect.PARAMETER_COUNT, Defect.EPOCH_INDEX, Defect.UNAPPLIED_COSINE, Defect.UNAPPLIED_HALVINGS}
)
"""The defects that change the learning rate."""
