"""The article's five cases as a table, the sizes of the runs, and the definition of the published failures.

The rules for a smaller size were fixed before the first run, and nothing was tuned afterwards:

- Every learning rate is multiplied by 1/width, as for Adam on a narrower net in arXiv:2203.03466, table 3. A unit with
  an eighth of the inputs needs steps eight times as long, so that its sum moves as far. The rule is the same for all
  cases, so the product of rate and updates of each case keeps its ratio to the baseline's.
- Initial weights are scaled by the rule of ``elu_net``.
- Schedules run through the same values in fewer updates (see ``schedule``).
- The sum of learning rate times decay over the training is the published one (1.3296 in case 1). So weights without a
  gradient grow or shrink by the same factor.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from studies.article.backward import option
from studies.article.defects import Defect
from studies.article.schedule import CONSTANT_LR, EPOCHS, MODEL_WIDTH, UPDATES, WARMUP, noam_rate
from trainables.config import ModelConfig, TrialConfig
from trainables.data.request import DataRequest
from trainables.hyper import Hyper
from trainables.schedules import Schedule
from trainables.space import Plan, Scalar

FIRST_CYCLE = 10
"""Epochs of the first cosine cycle of case 4."""
CASE1_DECAY = 500 * 1e-4 * (10 * 0.512 + 40 * 0.256 + 50 * 0.128 + 50 * 0.064 + 51 * 0.032)
"""1.3296: 500 updates per epoch, learning rate 1e-4, and a decay of 0.512, halved at epochs 10, 50, 100, 150 of 201."""
CASE4_DECAY = UPDATES * CONSTANT_LR * 0.0128
"""0.1286: all updates, the constant learning rate, and a decay of 0.0128."""
GRADIENT = frozenset({Defect.DOUBLED_SLOPE, Defect.UNNORMALISED_POOL, Defect.SUMMED_LOSS})
"""The defects of every hand-written backward pass."""


@dataclass(frozen=True)
class Size:
    """The size of a run: the width of the net, epochs, numbers of images, and images per update."""

    width: float
    epochs: int
    train_images: int
    test_images: int
    batch_size: int

    @property
    def plan(self) -> Plan:
        """The length of the training in epochs and updates per epoch."""
        return Plan(self.epochs, self.train_images // self.batch_size)

    @property
    def lr_factor(self) -> float:
        """The factor on every published learning rate."""
        return 1 / self.width


FULL = Size(width=1.0, epochs=EPOCHS, train_images=50_000, test_images=10_000, batch_size=100)
SMALL = Size(width=1 / 8, epochs=20, train_images=2_500, test_images=1_000, batch_size=25)
SIZES: Mapping[str, Size] = {"small": SMALL, "long": replace(SMALL, epochs=80), "full": FULL}
"""``small`` is a size for a CPU. ``long`` has four times as many updates. The weights grow by the same factor over the
whole training, so they grow a quarter as much per update, and the steps have the same length."""


@dataclass(frozen=True)
class Case:
    """One case of the article.

    Args:
        title: the title of the case in the article.
        log: the name of its published log in ``logs``.
        lr: peak learning rate at full size.
        knobs: knobs of ``Hyper`` that differ from its defaults.
        decay: learning rate times decoupled decay, summed over the training.
        defects: the proved defects of its program. Random feedback in cases 3 and 4 is not proved. It is the default
            of their programs and agrees with their logs.
    """

    title: str
    log: str
    lr: float
    knobs: Mapping[str, Scalar] = field(default_factory=dict)
    decay: float = 0.0
    defects: frozenset[Defect] = frozenset()


CASES: Mapping[str, Case] = {
    "baseline": Case("Adam + L2", "baseline_elu_d_adam_l2", 1e-4, {"l2": 1e-4, "schedule": "halving"}),
    "case1": Case(
        "Decoupled weight decay",
        "case1_adamw",
        1e-4,
        {"schedule": "constant", "decay_schedule": "halving"},
        decay=CASE1_DECAY,
        defects=GRADIENT | {Defect.CONSTANT_CORRECTION, Defect.WRONG_SIGN_DECAY},
    ),
    "case2": Case(
        "AMSGrad",
        "case2_amsgrad",
        1e-4,
        {"schedule": "halving", "beta2": 0.9, "amsgrad": True},
        defects=GRADIENT
        | {
            Defect.CONSTANT_CORRECTION,
            Defect.WHOLE_TENSOR_MAXIMUM,
            Defect.UNCORRECTED_V,
            Defect.UNAPPLIED_HALVINGS,
        },
    ),
    "case3": Case(
        "Noam learning rate",
        "case3_noam",
        noam_rate(MODEL_WIDTH, WARMUP),
        {"schedule": "noam", "beta2": 0.98, "eps": 1e-9},
        defects=GRADIENT
        | {Defect.CONSTANT_CORRECTION, Defect.RANDOM_FEEDBACK, Defect.PARAMETER_COUNT, Defect.EPOCH_INDEX},
    ),
    "case4": Case(
        "Warm restarts",
        "case4_restarts",
        1e-3,
        {"schedule": "restarts"},
        decay=CASE4_DECAY,
        defects=GRADIENT
        | {
            Defect.CONSTANT_CORRECTION,
            Defect.WRONG_SIGN_DECAY,
            Defect.RANDOM_FEEDBACK,
            Defect.UNAPPLIED_COSINE,
        },
    ),
}


def hyper_of(case: Case, size: Size) -> Hyper:
    """The settings of the case at this size, for the right formulas."""
    knobs: dict[str, Scalar] = {**case.knobs, "lr": case.lr * size.lr_factor}
    if case.knobs["schedule"] == "noam":
        knobs["warmup"] = max(1, round(WARMUP * size.plan.updates / UPDATES))
    if case.knobs["schedule"] == "restarts":
        knobs["restarts"] = f"{max(1, round(FIRST_CYCLE * size.epochs / EPOCHS))}x2"
    if case.decay:
        knobs["lambda_norm"] = case.decay / decay_sum(Schedule(Hyper.of({**knobs, "lambda_norm": 1.0}), size.plan))
    return Hyper.of(knobs)


def decay_sum(schedule: Schedule) -> float:
    """Learning rate times decay, summed over the training."""
    return math.fsum(schedule.lr(step) * schedule.weight_decay(step) for step in range(schedule.plan.updates))


def config_of(case: Case, defects: frozenset[Defect], size: Size, seed: int, data: str | None) -> TrialConfig:
    """The configuration of a run. Without defects of the backward pass, it uses the plain ``elu_net``."""
    request = DataRequest(
        "cifar10",
        path=data,
        train_images=size.train_images * 9 // 10,
        val_images=size.train_images // 10,
        test_images=size.test_images,
    )
    wrong = option(defects)
    model = (
        ModelConfig("studies.article.backward:build", {"width": size.width, "defects": wrong})
        if wrong
        else ModelConfig("elu_net", {"width": size.width, "setup": "article"})
    )
    return TrialConfig(request, model, hyper_of(case, size), size.epochs, size.batch_size, seed, normalize="minmax")


@dataclass(frozen=True)
class Outcome:
    """The result of the last epoch of a run."""

    train_loss: float
    train_acc: float
    test_loss: float
    test_acc: float


@dataclass(frozen=True)
class Finding:
    """The published failure of a case, as a test of a run and of the baseline's run with the same seed."""

    words: str
    holds: Callable[[Outcome, Outcome], bool]


LN_10 = math.log(10)
FINDINGS: Mapping[str, Finding] = {
    "case1": Finding(
        "final test loss over 5 times the baseline's", lambda run, base: run.test_loss > 5 * base.test_loss
    ),
    "case2": Finding("final test accuracy above the baseline's", lambda run, base: run.test_acc > base.test_acc),
    "case3": Finding("final training accuracy under 30 %", lambda run, base: run.train_acc < 0.30),
    "case4": Finding("test loss stuck at ln 10", lambda run, base: abs(run.test_loss - LN_10) < 1e-4),
}
"""The tests were fixed before the first run. The five published logs pass them."""
