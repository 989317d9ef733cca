"""The table of variants: for each, the paper, what is fixed, what is searched, and the known-good default.

To add one, add a row (and, if it brings a schedule, one function in ``schedules.py``). The optimizers are torch's,
so the forms are torch's: where those depart from the paper, the row's note says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from trainables.space import Cycles, Float, PlannedDomain, Scalar, UpdateShare

LR: dict[str, PlannedDomain] = {"lr": Float(1e-4, 1e-2, "log")}
L2: dict[str, PlannedDomain] = {"l2": Float(1e-6, 1e-2, "log")}
DECOUPLED: dict[str, PlannedDomain] = {"lambda_norm": Float(0.00625, 0.4, "log")}
BETA2: dict[str, PlannedDomain] = {"beta2": Float(0.9, 0.9999, "one-minus-log")}


@dataclass(frozen=True)
class Variant:
    """One optimizer variant.

    Args:
        paper: the source, as an arXiv identifier.
        note: what it is, and where torch's form departs from the paper.
        space: what is searched.
        default: the first trial of every search: good settings known before it. Knobs of ``space`` that depend on
            the trial's length (a warm-up, restarts) may be left out: the middle of their range is taken.
        fixed: knobs that differ from ``Hyper``'s defaults and are not searched.
    """

    paper: str
    note: str
    space: Mapping[str, PlannedDomain]
    default: Mapping[str, Scalar]
    fixed: Mapping[str, Scalar] = field(default_factory=dict)


VARIANTS: Mapping[str, Variant] = {
    "adam_l2": Variant(
        "arXiv:1412.6980",
        "Adam with L2 regularisation: the baseline. Bias correction by 1 - beta^t.",
        LR | L2,
        {"lr": 1e-3, "l2": 1e-4},
    ),
    "adamw": Variant(
        "arXiv:1711.05101",
        "Decoupled weight decay. torch scales the decay by lr; it is divided out, so the paper's lambda is what acts.",
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
        "The baseline under linear warm-up and inverse-square-root decay, scaled to peak at lr. The paper's beta2 0.98 "
        "and eps 1e-9 are left at Adam's, so that the schedule is the one change.",
        LR | L2 | {"warmup": UpdateShare(0.01, 0.3)},
        {"lr": 1e-3, "l2": 1e-4},
        fixed={"schedule": "noam"},
    ),
    "adamw_restarts": Variant(
        "arXiv:1608.03983, arXiv:1711.05101",
        "AdamW under cosine annealing with warm restarts, the decay renormalised for each cycle.",
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
    "adam_beta2": Variant(
        "arXiv:1412.6980",
        "Control for amsgrad: beta2 searched without the maximum.",
        LR | L2 | BETA2,
        {"lr": 1e-3, "l2": 1e-4, "beta2": 0.999},
    ),
}
