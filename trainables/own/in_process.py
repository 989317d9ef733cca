"""Runs one attempt at a trial of a user's own trainable in this process, outside of Ray."""

from collections.abc import Callable, Generator, Sequence

from trainables.own.trial import OwnTrial
from trainables.own.worker import OwnWorker
from trainables.report import StepReport

LONELY_S = 10.0**8
"""The worker is in this process, so it need not end itself when nobody calls it."""


def steps(
    trial: OwnTrial,
    checkpoints: str,
    *,
    read_test: bool,
    checkpoint_s: float,
    attempt: int = 1,
    accepted: Sequence[tuple[int, int]] = (),
    goes_on: Callable[[], None] = lambda: None,
) -> Generator[StepReport, None, None]:
    """Yield the answers of a worker to one attempt, to its end; close the generator to end it earlier.

    The worker changes the current folder, the environment and the random numbers of this process.

    Args:
        trial: the trial.
        checkpoints: folder of its checkpoints.
        read_test, checkpoint_s, attempt, accepted: as in the config of ``OwnWorker``.
        goes_on: called before each report.

    Raises:
        CodeError: as ``OwnWorker.begin`` and ``OwnWorker.train``.
    """
    worker = OwnWorker()
    config = {
        "trial": trial.to_dict(),
        "read_test": read_test,
        "attempt": attempt,
        "accepted": list(accepted),
        "checkpoints": checkpoints,
        "checkpoint_s": checkpoint_s,
        "lonely_s": LONELY_S,
    }
    try:
        goes_on()
        yield StepReport.from_dict(worker.begin(config))
        while worker.busy:
            goes_on()
            yield StepReport.from_dict(worker.train())
    finally:
        worker.close()
