"""How much each knob matters: PED-ANOVA importances of a finished search."""

import math
from collections.abc import Mapping, Sequence

import optuna
from optuna.study import StudyDirection
from optuna.trial import create_trial

from trainables.space import Scalar
from tuner.search.distributions import distributions, to_search, widened
from tuner.spec.arms import Arm

LEAST_IMPORTANCE = 5
"""Fewer trials cannot show what distinguishes the better ones."""


def importances(arm: Arm, trials: Sequence[tuple[Mapping[str, Scalar], float]], maximize: bool) -> Mapping[str, float]:
    """Each knob's share of the objective's variation; empty if there are too few trials.

    PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255): how the better trials differ from all trials. A conditional knob
    that does not apply to all trials has no share, because shares over different trials have no common sum.

    Args:
        arm: the arm and its search space.
        trials: knobs and objective of each trial that trained to its end.
        maximize: whether a larger objective is better.
    """
    if len(trials) < LEAST_IMPORTANCE or len({value for _, value in trials}) == 1:
        return {}
    # A range is widened to every value, and a knob that a trial lacks is left out.
    space = arm.space
    for knobs, _ in trials:
        space = widened(space, knobs)
    searched = distributions(space)
    study = optuna.create_study(direction=StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE)
    for knobs, value in trials:
        params = to_search(space, knobs)
        study.add_trial(create_trial(params=params, distributions=searched, value=value))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    knob_of = dict(zip(searched, space, strict=True))
    shares = {knob_of[name]: float(share) for name, share in found.items()}
    return shares if all(math.isfinite(share) for share in shares.values()) else {}
