"""The table of variants: for each, the paper, the fixed knobs, the searched knobs and the known-good default.

To add a variant, add a row; for a new schedule, also add one function in ``schedules.py``. The optimizers and their
formulas are torch's. If a formula departs from the paper, the row's note says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from trainables.space import Cycles, Float, MomentDecay, PerWidth, PlannedDomain, Scalar, UpdateShare, two_digits

# The good learning rates of elu_net are inverse to its width; above this range, accuracy falls by 4 to 8 points.
LR: dict[str, PlannedDomain] = {"lr": PerWidth(1.2e-4, 1.6e-3, without=Float(1e-4, 1e-2, "log"))}
FIRST_LR = 6e-4
"""The learning rate of the first trial, for elu_net of width 1."""
L2: dict[str, PlannedDomain] = {"l2": Float(1e-6, 1e-2, "log")}
DECOUPLED: dict[str, PlannedDomain] = {"lambda_norm": Float(0.00625, 0.4, "log")}
BETA2: dict[str, PlannedDomain] = {"beta2": MomentDecay(0.9, 0.9999)}


@dataclass(frozen=True)
class Variant:
    """An optimizer variant.

    Args:
        paper: the source, as an arXiv identifier.
        note: a description of the variant, and where torch's form departs from the paper.
        space: the searched knobs and their domains.
        default: the settings of the first trial of every search, known to be good beforehand. Knobs of ``space`` that
            depend on the trial's length (a warm-up, restarts) may be left out: the middle of their range is used. The
            learning rate is for models without a width; see ``first``.
        fixed: knobs that differ from ``Hyper``'s defaults and are not searched.
    """

    paper: str
    note: str
    space: Mapping[str, PlannedDomain]
    default: Mapping[str, Scalar]
    fixed: Mapping[str, Scalar] = field(default_factory=dict)

    def first(self, width: float | None) -> Mapping[str, Scalar]:
        """The default for a model of this width; None: for a model without a width."""
        return self.default if width is None else {**self.default, "lr": two_digits(FIRST_LR / width)}


VARIANTS: Mapping[str, Variant] = {
    "adam_l2": Variant(
        "arXiv:1412.6980",
        "Adam with L2 regularisation: the baseline. Bias correction by 1 - beta^t.",
        LR | L2,
        {"lr": 1e-3, "l2": 1e-4},
    ),
    "adamw": Variant(
        "arXiv:1711.05101",
        "Decoupled weight decay. torch multiplies the decay by lr; we divide by lr, so the paper's lambda applies.",
        LR | DECOUPLED,
        {"lr": 1e-3, "lambda_norm": 0.05},
    ),
    "amsgrad": Variant(
        "arXiv:1904.09237",
        "Elementwise maximum of the raw second moment. The paper has no bias correction; torch corrects both moments, "
        "the second after the maximum.",
        LR | L2 | BETA2,
        {"lr": 1e-3, "l2": 1e-4, "beta2": 0.999},
        fixed={"amsgrad": True},
    ),
    "noam": Variant(
        "arXiv:1706.03762",
        "The baseline with linear warm-up and inverse-square-root decay, scaled to peak at lr. beta2 and eps keep "
        "Adam's values, not the paper's 0.98 and 1e-9, so that the schedule is the only change.",
        LR | L2 | {"warmup": UpdateShare(0.01, 0.3)},
        {"lr": 1e-3, "l2": 1e-4},
        fixed={"schedule": "noam"},
    ),
    "adamw_restarts": Variant(
        "arXiv:1608.03983, arXiv:1711.05101",
        "AdamW with cosine annealing and warm restarts; the decay is renormalised for each cycle.",
        LR | DECOUPLED | {"restarts": Cycles()},
        {"lr": 1e-3, "lambda_norm": 0.05},
        fixed={"schedule": "restarts"},
    ),
    "adamw_cosine": Variant(
        "arXiv:1711.05101",
        "Control for adamw_restarts: one cosine cycle over the whole trial.",
        LR | DECOUPLED,
        {"lr": 1e-3, "lambda_norm": 0.05},
        fixed={"schedule": "cosine"},
    ),
    "adam_l2_cosine": Variant(
        "arXiv:1608.03983",
        "Control for every variant: the baseline under one cosine cycle over the whole trial, without restarts.",
        LR | L2,
        {"lr": 1e-3, "l2": 1e-4},
        fixed={"schedule": "cosine"},
    ),
    "adam_beta2": Variant(
        "arXiv:1412.6980",
        "Control for amsgrad: beta2 is searched, without the maximum.",
        LR | L2 | BETA2,
        {"lr": 1e-3, "l2": 1e-4, "beta2": 0.999},
    ),
}
