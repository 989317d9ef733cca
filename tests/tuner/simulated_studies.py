"""Made-up studies, from the noisy search to the confirm runs, whose truth is known.

Legend: A arms (the baseline first), K trials of an arm, S seeds. Accuracies are fractions.

One training run's accuracy is its setting's true quality, plus the seed's own effect, shared by all arms
(same initial weights, same data order), plus the run's luck. The run's luck shows in both its validation and
its test accuracy; the validation accuracy also holds how well the setting happens to suit the validation set,
which stays with the setting on every seed and which the choice by validation therefore favours.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Results: TypeAlias = dict[int, float]

SEED_SD = 0.015
VALIDATION_SD = 0.003
SUITS_VALIDATION_SD = 0.02
"""Large, so that judging by the numbers that chose the winners shows even at three seeds."""


@dataclass(frozen=True)
class Design:
    """What a simulated study is made of.

    Attributes:
        noises: sd of the run's luck of every arm, the baseline first.
        seeds: confirm seeds.
        trials: settings tried by each arm.
        quality_sd: spread of true quality among an arm's settings; 0: all settings are truly equal.
        gain: how much better the settings of the variants truly are than the baseline's.
        judged_on: "fresh" seeds' test accuracy, as the service does it; "search" reuses the very validation
            numbers that the winners were chosen by, as it must not.
    """

    noises: tuple[float, ...]
    seeds: int
    trials: int = 8
    quality_sd: float = 0.0
    gain: float = 0.0
    judged_on: Literal["fresh", "search"] = "fresh"

    @property
    def arms(self) -> int:
        """All arms, the baseline included."""
        return len(self.noises)


def simulate(design: Design, rng: np.random.Generator) -> tuple[Results, dict[str, Results]]:
    """One study: the test accuracies by seed of the baseline's winner and of every variant's."""
    quality_AK = _qualities(design, rng)
    search_AKS = _search(quality_AK, design, rng)
    winner_A = search_AKS.mean(axis=2).argmax(axis=1)
    arms = np.arange(design.arms)
    if design.judged_on == "search":
        results_AS = search_AKS[arms, winner_A]
    else:
        results_AS = _confirm(quality_AK[arms, winner_A], design, rng)
    baseline, *variants = (dict(enumerate(results_S)) for results_S in results_AS.tolist())
    return baseline, {f"variant {i}": results for i, results in enumerate(variants)}


def _qualities(design: Design, rng: np.random.Generator) -> Floats:
    quality_AK = 0.7 + design.quality_sd * rng.standard_normal((design.arms, design.trials))
    quality_AK[1:] += design.gain
    return quality_AK


def _search(quality_AK: Floats, design: Design, rng: np.random.Generator) -> Floats:
    """Validation accuracy of every trial, on as many search seeds as there are confirm seeds.

    That is more than the service's search trains, and enough to be mistaken for evidence.
    """
    noise_A = np.array(design.noises)
    suits_AK = SUITS_VALIDATION_SD * rng.standard_normal(quality_AK.shape)
    luck_AKS = noise_A[:, None, None] * rng.standard_normal((*quality_AK.shape, design.seeds))
    validation_AKS = VALIDATION_SD * rng.standard_normal(luck_AKS.shape)
    seed_S = SEED_SD * rng.standard_normal(design.seeds)
    return (quality_AK + suits_AK)[..., None] + luck_AKS + validation_AKS + seed_S


def _confirm(quality_A: Floats, design: Design, rng: np.random.Generator) -> Floats:
    luck_AS = np.array(design.noises)[:, None] * rng.standard_normal((design.arms, design.seeds))
    return quality_A[:, None] + luck_AS + SEED_SD * rng.standard_normal(design.seeds)
