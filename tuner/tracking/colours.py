"""One colour an arm, the same in MLflow and in the report."""

BASELINE = "#808080"
VARIANTS = ("#2485C7", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
"""Okabe & Ito's colours, which colour-blind people tell apart, the blue a little lighter to be seen on black."""


def colour(number: int) -> str:
    """The colour of a job's arm, by its number; the baseline is the first, 0."""
    return BASELINE if number == 0 else VARIANTS[(number - 1) % len(VARIANTS)]
