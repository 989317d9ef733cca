"""Simulated studies with known true qualities, from the noisy search to the confirm runs.

Legend: A arms (the baseline first), K trials per arm, S seeds. Accuracies are fractions.

The accuracy of a training run is a sum: the true quality of its setting, the effect of the seed, and the noise of
the run. The effect of the seed is the same for all arms (same initial weights, same data order). The noise of the
run is in both its validation and its test accuracy. The validation accuracy has one more term: how well the setting
fits this validation set by chance. This term is the same on every seed, so a choice by validation favours it.
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
"""Large, so that the error of reusing the numbers that chose the winners is visible even with three seeds."""


@dataclass(frozen=True)
class Design:
    """The parameters of a simulated study.

    Attributes:
        noises: standard deviation of the run's noise for every arm, the baseline first.
        seeds: number of confirm seeds.
        trials: number of settings that each arm tries.
        quality_sd: standard deviation of the true quality among the settings of an arm; 0: all settings are equal.
        gain: true quality of the variants' settings minus that of the baseline's settings.
        judged_on: "fresh": test accuracy on fresh seeds, as the service does it; "search": the same validation
            numbers that chose the winners, which the service must not do.
    """

    noises: tuple[float, ...]
    seeds: int
    trials: int = 8
    quality_sd: float = 0.0
    gain: float = 0.0
    judged_on: Literal["fresh", "search"] = "fresh"

    @property
    def arms(self) -> int:
        """Number of arms, with the baseline."""
        return len(self.noises)


def simulate(design: Design, rng: np.random.Generator) -> tuple[Results, dict[str, Results]]:
    """Simulate one study.

    Args:
        design: the parameters of the study.
        rng: the source of all randomness.

    Returns:
        The accuracies by seed of the baseline's winner, and those of the winner of each variant.
    """
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

    The search of the service trains fewer seeds. With this number, the results look like evidence, but are not.
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
