"""Other ways to search, replayed over a recorded table in the same made-up time as ours.

Each is written as its own documentation shows. All begin with the same random setting as ours, and a trial's epochs
take as long. ``OneEpoch`` follows Egele et al. 2023 (arXiv:2307.15422): every setting is trained for one epoch, and the
best continue to the end. There the number of settings is fixed beforehand. Here it goes on in rounds, until the target
is reached.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from benchmarks.tables.replay import MOST, Reached, RecordedTraining, first_setting
from benchmarks.tables.table import Row, Table
from benchmarks.tables.unit import setting
from trainables.config import derive_seed
from trainables.space import Int, Scalar
from tuner.search.distributions import distributions, from_search, to_search
from tuner.spec.trial_config import image_trial

OPTUNA, SYNE_TUNE = "Optuna: TPE and HyperbandPruner", "Syne Tune: ASHACQR"
ROUND, BEST = 30, 3
"""Settings in a round of ``OneEpoch``, and how many of them continue."""


@dataclass(eq=False)
class Run:
    """A trial: its setting, the searcher's own handle, and the epochs that it has trained."""

    knobs: Mapping[str, Scalar]
    handle: Any = None
    epoch: int = 0


class Searcher(Protocol):
    """A way to search for the largest value."""

    def next(self) -> Run | None:
        """A new or a paused trial to train, or None if none can be trained before others report."""

    def goes_on(self, run: Run, value: float) -> bool:
        """Take the value after an epoch that is not the last one."""

    def ended(self, run: Run, value: float | None) -> None:
        """A trial was trained to its end, or has diverged (None)."""


Make = Callable[[Table, int], Searcher]


def raced(table: Table, target: float, make: Make, seed: int, concurrent: int = 4, most: int = MOST) -> Reached:
    """Search until a trial of full length reaches the target, or until the epochs of ``most`` trainings are spent."""
    searcher, epochs = make(table, seed), table.plan.epochs
    due: list[tuple[float, int, Run, Row]] = []
    now, spent, trials, count = 0.0, 0, 0, itertools.count()

    def train(run: Run, row: Row) -> None:
        arm = table.arm
        config = image_trial(table.spec, arm.name, arm.setting(run.knobs), derive_seed(seed, str(run.knobs)))
        seconds = RecordedTraining(row, config).report(run.epoch + 1).seconds
        heapq.heappush(due, (now + seconds, next(count), run, row))

    while spent < most * epochs:
        while len(due) < concurrent and (begun := searcher.next()) is not None:
            trials += begun.epoch == 0
            train(begun, table.nearest(begun.knobs))
        now, _, run, row = heapq.heappop(due)
        run.epoch += 1
        spent += 1
        value = row.curve[run.epoch - 1]
        if run.epoch == len(row.curve) < epochs:
            searcher.ended(run, None)
        elif run.epoch == epochs:
            searcher.ended(run, value)
            if value >= target:
                return Reached(spent, trials, True)
        elif searcher.goes_on(run, value):
            train(run, row)
    return Reached(spent, trials, False)


class OptunaHyperband:
    """Optuna's ``TPESampler`` with its ``HyperbandPruner``, both with their defaults."""

    def __init__(self, table: Table, seed: int) -> None:
        self._space = table.arm.space
        self._distributions = distributions(self._space)
        # The pruner draws a trial's bracket from the name of the study.
        self._study = optuna.create_study(
            study_name=f"{table.name}-{seed}",
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=optuna.pruners.HyperbandPruner(max_resource=table.plan.epochs),
        )
        self._study.enqueue_trial(to_search(self._space, first_setting(table, seed)))

    def next(self) -> Run:
        trial = self._study.ask(self._distributions)
        return Run(from_search(self._space, trial.params), trial)

    def goes_on(self, run: Run, value: float) -> bool:
        run.handle.report(value, run.epoch)
        if not run.handle.should_prune():
            return True
        self._study.tell(run.handle, state=TrialState.PRUNED)
        return False

    def ended(self, run: Run, value: float | None) -> None:
        self._study.tell(run.handle, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)


class SyneTune:
    """Syne Tune's ``ASHACQR`` with its defaults: ASHA, and conformal quantile regression on the last values."""

    def __init__(self, table: Table, seed: int) -> None:
        from syne_tune.config_space import choice, loguniform, uniform
        from syne_tune.optimizer.baselines import ASHACQR

        self._space = table.arm.space

        def domain(found: BaseDistribution) -> Any:
            if isinstance(found, CategoricalDistribution):
                return choice(list(found.choices))
            assert isinstance(found, FloatDistribution | IntDistribution)
            return (loguniform if found.log else uniform)(float(found.low), float(found.high))

        self._scheduler = ASHACQR(
            {name: domain(found) for name, found in distributions(self._space).items()},
            metric="value",
            time_attr="epoch",
            max_t=table.plan.epochs,
            do_minimize=False,
            random_seed=seed,
            points_to_evaluate=[to_search(self._space, first_setting(table, seed))],
        )
        self._count = itertools.count()

    def next(self) -> Run:
        from datetime import datetime

        from syne_tune.backend.trial_status import Trial

        config = self._scheduler.suggest().config
        trial = Trial(next(self._count), config, datetime(2000, 1, 1))
        self._scheduler.on_trial_add(trial)
        return Run(self._knobs(config), trial)

    def goes_on(self, run: Run, value: float) -> bool:
        decision = self._scheduler.on_trial_result(run.handle, {"value": value, "epoch": run.epoch})
        if decision == "CONTINUE":
            return True
        self._scheduler.on_trial_remove(run.handle)
        return False

    def ended(self, run: Run, value: float | None) -> None:
        if value is None:
            self._scheduler.on_trial_error(run.handle)
        else:
            self._scheduler.on_trial_complete(run.handle, {"value": value, "epoch": run.epoch})

    def _knobs(self, config: Mapping[str, Any]) -> dict[str, Scalar]:
        knobs = from_search(self._space, config)
        return {
            knob: round(float(value)) if isinstance(self._space[knob], Int) else value for knob, value in knobs.items()
        }


class OneEpoch:
    """Rounds of ``ROUND`` random settings: each is trained for one epoch, and the ``BEST`` continue to the end."""

    def __init__(self, table: Table, seed: int) -> None:
        self._rng = random.Random(derive_seed(seed, "one epoch"))
        self._space = table.arm.space
        self._waiting = [Run(first_setting(table, seed))]
        self._new = ROUND - 1
        self._open = ROUND
        self._judged: list[tuple[float, int, Run]] = []

    def next(self) -> Run | None:
        if self._waiting:
            return self._waiting.pop()
        if self._new:
            self._new -= 1
            return Run(setting(self._space, [self._rng.random() for _ in self._space]))
        return None

    def goes_on(self, run: Run, value: float) -> bool:
        if run.epoch > 1:
            return True
        self._judged.append((value, len(self._judged), run))
        self._one_less()
        return False

    def ended(self, run: Run, value: float | None) -> None:
        if run.epoch == 1:
            self._one_less()

    def _one_less(self) -> None:
        self._open -= 1
        if not self._open:
            self._waiting = [run for _, _, run in sorted(self._judged, key=lambda one: one[:2])[-BEST:]]
            self._judged, self._new, self._open = [], ROUND, ROUND


SEARCHERS: Mapping[str, Make] = {
    OPTUNA: OptunaHyperband,
    SYNE_TUNE: SyneTune,
    f"{ROUND} settings for one epoch, then the best {BEST}": OneEpoch,
}
