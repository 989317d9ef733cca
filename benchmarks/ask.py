"""Time to propose a setting as a study grows: our ask against an ask of Optuna's own TPE on the same trials.

Our study is always in memory: the studies' database follows the journal, and an ask does not use it. Optuna's study is
in memory or in SQLite.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import optuna
from optuna.trial import FrozenTrial

from benchmarks.measuring import Comparison, Goal, Result, interleaved
from trainables.space import ONE_MINUS, Float, Plan
from trainables.variants import VARIANTS
from tuner.search.study import ArmStudy, RecordedTrial
from tuner.search.study_database import open_storage
from tuner.spec.arms import Arm
from tuner.spec.settings import SamplerSpec
from tuner.storage.events import State

SIZES = (50, 100, 1_000, 10_000)
FLAT = (100, 10_000)
"""The two sizes whose times are compared."""
ASKS = 10
"""Asks per figure. The figure is their mean."""
EPOCHS = 2
STUDY, SEED = "ask", 0
WIDTH = 0.1
"""Standard deviation of the noise of the made-up objective."""


def measure(pairs: int, sizes: tuple[int, ...] = SIZES, asks: int = ASKS) -> Result:
    """Time our asks, and Optuna's in memory and in SQLite, at every size."""
    comparisons = []
    for kind in ("memory", "SQLite"):
        with ExitStack() as stack:
            sides = {size: stack.enter_context(_sides(kind, size, asks)) for size in sizes}
            for size, (ours, peer) in sides.items():
                figures = interleaved(ours, peer, pairs, warmup=1)
                title = f"an ask after {size:,} trials, {kind}"
                comparisons.append(Comparison(title, "Optuna's TPESampler on the same trials", "ms", *figures))
            few, many = FLAT if set(FLAT) <= set(sizes) else (sizes[0], sizes[-1])
            ours_grow, peers_grow = ("our", 0, Goal(1.5, "most")), ("Optuna's", 1, None)
            # Our ask is the same for both kinds of the peer.
            for whose, side, goal in (ours_grow, peers_grow) if kind == "memory" else (peers_grow,):
                figures = interleaved(sides[many][side], sides[few][side], pairs)
                title = f"{whose} ask after {many:,} trials, {kind}"
                comparisons.append(Comparison(title, f"the same after {few:,}", "ms", *figures, goal))
    return Result(
        "The search space is AMSGrad's three knobs, with a made-up objective. One third of the trials is complete and"
        f" two thirds are pruned, with {EPOCHS} reports each. Four trials are running. A figure is the mean of {asks}"
        " asks. Each ask gets its result before the next ask. Our study is in memory. Optuna's is in memory or in"
        " SQLite.",
        tuple(comparisons),
    )


def arm() -> Arm:
    """The arm that is searched."""
    variant = VARIANTS["amsgrad"]
    space = {knob: domain.resolve(Plan(EPOCHS, 100)) for knob, domain in variant.space.items()}
    space["beta2"] = Float(0.9, 0.9999, "one-minus-log")
    return Arm("amsgrad", "amsgrad", space, {}, variant.default)


def past(size: int) -> list[RecordedTrial]:
    """Made-up trials. The last four are still running."""
    rng, found = random.Random(SEED), []
    for number in range(size):
        knobs = {
            "lr": 10 ** rng.uniform(-4, -2),
            "l2": 10 ** rng.uniform(-6, -2),
            "beta2": 1 - 10 ** rng.uniform(-4, -1),
        }
        state = State.RUNNING if number >= size - 4 else State.COMPLETE if number % 3 == 0 else State.PRUNED
        ended = None if state == State.RUNNING else number
        found.append(RecordedTrial(knobs, state, _reports(knobs["lr"], rng), number, ended))
    return found


def _reports(lr: float, rng: random.Random) -> list[tuple[int, float]]:
    return [(epoch, 1000 * lr * (0.01 - lr) + epoch + rng.gauss(0, WIDTH)) for epoch in range(1, EPOCHS + 1)]


@contextmanager
def _sides(kind: str, size: int, asks: int) -> Iterator[tuple[Callable[[], float], Callable[[], float]]]:
    """Our ask and the peer's ask. The studies of both hold the same trials."""
    ours = ArmStudy(arm(), SamplerSpec(), SEED, size, maximize=True, past=past(size))
    with tempfile.TemporaryDirectory(prefix="tuner-ask-") as folder:
        url = None if kind == "memory" else f"sqlite:///{folder}/peer.db"
        yield _ours(ours, asks), _peer(_filled(url, ours.trials()), asks)


def _filled(url: str | None, trials: list[FrozenTrial]) -> optuna.Study:
    """A study of the peer with these trials, in memory or in a new database."""
    if url is None:
        study = optuna.create_study(direction="maximize")
        study.add_trials(trials)
    else:
        # It takes even longer if every write waits for the disk. The measured asks do wait.
        filling = open_storage(url, durable=False)
        optuna.create_study(storage=filling, study_name=STUDY, direction="maximize").add_trials(trials)
        filling.remove_session()
        filling.engine.dispose()
        study = optuna.load_study(study_name=STUDY, storage=url)
    study.sampler = optuna.samplers.TPESampler(seed=SEED)
    return study


def _ours(study: ArmStudy, asks: int) -> Callable[[], float]:
    rng = random.Random(SEED)

    def ask() -> float:
        spent_s = 0.0
        for _ in range(asks):
            begin = time.perf_counter()
            asked = study.ask()
            spent_s += time.perf_counter() - begin
            study.tell(asked.number, State.COMPLETE, _reports(float(asked.knobs["lr"]), rng))
        return 1000 * spent_s / asks

    return ask


def _peer(study: optuna.Study, asks: int) -> Callable[[], float]:
    rng = random.Random(SEED)

    def ask() -> float:
        spent_s = 0.0
        for _ in range(asks):
            begin = time.perf_counter()
            trial = study.ask()
            for knob, domain in arm().space.items():
                assert isinstance(domain, Float)
                if domain.scale == "one-minus-log":
                    trial.suggest_float(ONE_MINUS + knob, 1 - domain.high, 1 - domain.low, log=True)
                else:
                    trial.suggest_float(knob, domain.low, domain.high, log=True)
            spent_s += time.perf_counter() - begin
            reports = _reports(trial.params["lr"], rng)
            for epoch, value in reports:
                trial.report(value, epoch)
            study.tell(trial, reports[-1][1])
        return 1000 * spent_s / asks

    return ask
