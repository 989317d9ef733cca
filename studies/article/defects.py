"""The defects of the article's programs that are proved by its stored code or its logs."""

from enum import StrEnum


class Defect(StrEnum):
    """One way in which a case departed from the algorithm that it was named after."""

    CONSTANT_CORRECTION = "constant-correction"
    """Moments are divided by 1 - beta at every update, not by 1 - beta^t: a long run's steps are
    sqrt(1 - beta2) / (1 - beta1) times as long as the learning rate says (0.316 for 0.9 and 0.999)."""
    WRONG_SIGN_DECAY = "wrong-sign-decay"
    """The decoupled decay is subtracted from the step that is subtracted: weights grow by 1 + lr * decay."""
    DOUBLED_SLOPE = "doubled-slope"
    """The derivative of ELU above 0 is 2, not 1."""
    UNNORMALISED_POOL = "unnormalised-pool"
    """Average pooling hands its whole gradient to each of its four inputs, not a quarter."""
    SUMMED_LOSS = "summed-loss"
    """The gradient of the loss is summed over the batch, not averaged."""
    RANDOM_FEEDBACK = "random-feedback"
    """Gradients go back through fixed random matrices, uniform in (-0.5, 0.5), not through the weights."""
    WHOLE_TENSOR_MAXIMUM = "whole-tensor-maximum"
    """AMSGrad keeps whichever second moment has the larger sum over the tensor, not each element's maximum."""
    UNCORRECTED_V = "uncorrected-v"
    """The second moment is not corrected for its start at 0, the first is."""
    PARAMETER_COUNT = "parameter-count"
    """Noam's formula gets the number of parameters for the width of the model."""
    EPOCH_INDEX = "epoch-index"
    """Noam's formula gets the number of the epoch for the number of the update."""
    UNAPPLIED_COSINE = "unapplied-cosine"
    """The cosine with restarts is computed, printed and plotted; updates use a constant."""
    UNAPPLIED_HALVINGS = "unapplied-halvings"
    """Halvings of the learning rate change a number that the graph, once built, never reads again."""


OF_BACKWARD = frozenset({Defect.DOUBLED_SLOPE, Defect.UNNORMALISED_POOL, Defect.SUMMED_LOSS, Defect.RANDOM_FEEDBACK})
"""What changes the gradient."""
OF_RULE = frozenset(
    {Defect.CONSTANT_CORRECTION, Defect.WRONG_SIGN_DECAY, Defect.WHOLE_TENSOR_MAXIMUM, Defect.UNCORRECTED_V}
)
"""What changes the update."""
OF_SCHEDULE = frozenset(
    {Defect.PARAMETER_COUNT, Defect.EPOCH_INDEX, Defect.UNAPPLIED_COSINE, Defect.UNAPPLIED_HALVINGS}
)
"""What changes the learning rate."""
