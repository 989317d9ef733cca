"""One colour per arm, the same in MLflow and in the report."""

BASELINE = "#808080"
VARIANTS = ("#2485C7", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
"""Colours of Okabe & Ito, which colour-blind people can distinguish. The blue is lighter, to be visible on black."""


def colour(number: int) -> str:
    """The colour of a job's arm, by its number from 0. The baseline is 0."""
    return BASELINE if number == 0 else VARIANTS[(number - 1) % len(VARIANTS)]
