"""The arms' Optuna studies: the one module that imports optuna.

A study is asked for settings and told the truth: COMPLETE, PRUNED with the step it reached, or FAIL. Its database may
go away for a while, and this process at any moment: asked or told again, no trial comes twice. Where the database has
lost or altered something, the study is made again from what is on record of its trials.
"""

import copy
import itertools
import json
import math
import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    json_to_distribution,
)
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.storages._rdb.models import BaseModel
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import create_engine, event, select
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import SQLAlchemyError

from trainables.config import derive_seed
from trainables.space import Choice, Domain, Float, Int, Scalar
from tuner.arms import Arm
from tuner.errors import ServiceError, without_password
from tuner.history import History, Rank
from tuner.limits import SamplerSpec
from tuner.record import State

optuna.logging.set_verbosity(optuna.logging.ERROR)
# qmc, gp and multivariate TPE are marked experimental: chosen knowingly.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

ONE_MINUS = "one_minus_"
IN_MEMORY = "memory:"
"""The URL of studies that end with this process."""
OUTAGE_S = 45.0
"""How long a database may be away: less than the 60 s after which a worker that nobody calls stops itself."""
RETRY_S = 1.0
LEAST_IMPORTANCE = 5
"""Fewer trials say nothing of what sets the better ones apart."""
# A server that accepts no connection must not be waited for by the kernel's patience.
os.environ.setdefault("PGCONNECT_TIMEOUT", "5")

T = TypeVar("T")


TOLD: Mapping[State, TrialState] = {
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.DIVERGED: TrialState.FAIL,
    State.FAILED: TrialState.FAIL,
    State.OOM: TrialState.FAIL,
}
"""What Optuna is told of a trial's end."""


@dataclass(frozen=True)
class Asked:
    """A setting to try: its number in the study and the searched knobs."""

    number: int
    knobs: Mapping[str, Scalar]


class Past(NamedTuple):
    """What is on record of a setting: the searched knobs, where it stands, and the objective after each epoch."""

    knobs: Mapping[str, Scalar]
    state: State
    reports: Sequence[tuple[int, float]]


class Seeds(NamedTuple):
    """Of a sampler: of this ask, and of a sequence that the whole study draws from (qmc's), with its place there."""

    ask: int
    study: int
    place: int


class _AnswerLost(Exception):
    """The connection broke at a commit: it may or may not have gone through."""


class ArmStudy:
    """One arm's Optuna study, made if it is not there yet, with the arm's default as its first trial.

    Args:
        storage: from ``open_storage``.
        job: the job's id; the study is named ``job/arm``.
        arm: the arm and its search space.
        sampler: which sampler.
        seed: the job's seed; every ask is seeded from (seed, arm, trial number).
        trials: planned trials, for the sampler's random start.
        maximize: whether larger objective values are better.
    """

    def __init__(
        self,
        storage: BaseStorage,
        job: str,
        arm: Arm,
        sampler: SamplerSpec,
        seed: int,
        trials: int,
        maximize: bool,
    ) -> None:
        self.arm = arm
        self._storage = storage
        self._sampler = sampler
        self._seed = seed
        self._trials = trials
        self._name = study_name(job, arm.name)
        self._direction = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
        self._distributions = dict(map(_distribution, arm.space.items()))
        self._history = self._new_history()
        self._study = _patiently(self._make)
        self.asked = _patiently(self._count)

    def ask(self) -> Asked:
        """The next setting to try."""
        found = _patiently(self._ask)
        self.asked += 1
        return found

    def unfinished(self) -> list[Asked]:
        """The settings that were asked for and not told of; an ask that was cut short is brought to its end."""
        return [_patiently(partial(self._complete, trial.number)) for trial in self._running()]

    def restore(self, past: Sequence[Past]) -> bool:
        """Make the study agree with what is on record of its settings: all of them, in order.

        One that ended and was not told of is told of. A study that has lost or altered anything, or knows of an end
        that is not on record, is made again.

        Returns:
            Whether it was made again.
        """
        agrees = _patiently(lambda: self._agrees(past))
        if agrees:
            for trial in self._running():
                if trial.number < len(past) and past[trial.number].state != State.RUNNING:
                    self.tell(trial.number, past[trial.number].state, past[trial.number].reports)
        else:
            _patiently(lambda: self._make_again(past))
        self.asked = _patiently(self._count)
        return not agrees

    def tell(self, number: int, state: State, reports: Sequence[tuple[int, float]]) -> None:
        """What became of a setting: how it ended, and the objective after each epoch. Told again, it changes nothing.

        A COMPLETE trial's objective is the last report's; one that diverged or failed has none.
        """
        _patiently(lambda: self._tell(number, state, reports))

    def _make(self) -> optuna.Study:
        return optuna.create_study(
            storage=self._storage,
            study_name=self._name,
            direction=self._direction,
            load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(seed=self._seed),
        )

    def _make_again(self, past: Sequence[Past]) -> None:
        with suppress(KeyError):
            optuna.delete_study(study_name=self._name, storage=self._storage)
        self._study, self._history = self._make(), self._new_history()
        for knobs, state, reports in past:
            value, values = _objective(state, reports)
            self._study.add_trial(
                create_trial(
                    state=TOLD.get(state, TrialState.RUNNING),
                    value=value,
                    params=dict(_to_search(self.arm.space, knobs)),
                    distributions=self._distributions,
                    intermediate_values=values,
                )
            )

    def _agrees(self, past: Sequence[Past]) -> bool:
        there = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
        pairs = itertools.zip_longest(there, past)
        return all(
            trial is not None and trial.number == number and self._agrees_on(trial, setting)
            for number, (trial, setting) in enumerate(pairs)
        )

    def _agrees_on(self, trial: FrozenTrial, setting: Past | None) -> bool:
        running = trial.state == TrialState.RUNNING
        if setting is None:
            return running
        if trial.distributions != self._distributions or _from_search(self.arm.space, trial.params) != setting.knobs:
            return False
        told = trial.state, (trial.value, trial.intermediate_values)
        return running or told == (TOLD.get(setting.state), _objective(setting.state, setting.reports))

    def _running(self) -> list[FrozenTrial]:
        return _patiently(lambda: self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _count(self) -> int:
        trials = self._study.get_trials(deepcopy=False)
        if not trials:
            self._study.enqueue_trial(dict(_to_search(self.arm.space, self.arm.default)))
            return 0
        # No other is ever enqueued.
        return len(trials) - (trials[0].state == TrialState.WAITING)

    def _ask(self) -> Asked:
        # If the ask before went through and only its answer was lost, the trial is there.
        if self._count() == self.asked:
            self._study.ask()
        return self._complete(self.asked)

    def _complete(self, number: int) -> Asked:
        """Draws what is missing of a trial's knobs, as an ask that was cut short would have drawn it.

        But for gp, which takes what is there for a setting that it has to keep away from.
        """
        self._study.sampler = self._sampler_for(number)
        trial = optuna.trial.Trial(self._shown(), self._id(number))
        there = trial.params
        for knob, distribution in self._distributions.items():
            if knob in there and len(there) < len(self._distributions):
                self._skip(trial, knob, distribution)
            trial._suggest(knob, distribution)
        return Asked(number, _from_search(self.arm.space, trial.params))

    def _skip(self, trial: optuna.trial.Trial, knob: str, distribution: BaseDistribution) -> None:
        """Move the sampler on as drawing the knob did."""
        if not trial._is_fixed_param(knob, distribution) and not trial._is_relative_param(knob, distribution):
            trial.study.sampler.sample_independent(trial.study, trial._get_latest_trial(), knob, distribution)

    def _tell(self, number: int, state: State, reports: Sequence[tuple[int, float]]) -> None:
        trial_id = self._id(number)
        if self._storage.get_trial(trial_id).state.is_finished():
            return
        value, values = _objective(state, reports)
        for step, reported in values.items():
            self._storage.set_trial_intermediate_value(trial_id, step, reported)
        # Of a PRUNED trial Optuna takes the last report itself.
        self._study.tell(number, value if state == State.COMPLETE else None, state=TOLD[state])

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)

    def _shown(self) -> optuna.Study:
        """The study as its sampler sees it."""
        if self._sampler.name not in FORGETFUL:
            return self._study
        return _Shown(self._study, self._history.shown(self._study.get_trials(deepcopy=False)))

    def _new_history(self) -> History[FrozenTrial]:
        sign = -1.0 if self._direction == StudyDirection.MAXIMIZE else 1.0
        return History(BEST, NEWEST, lambda trial: trial.state.is_finished(), partial(_rank, sign))

    def _sampler_for(self, number: int) -> BaseSampler:
        ask, study = (derive_seed(self._seed, self.arm.name, part) % 2**32 for part in (str(number), "qmc"))
        return SAMPLERS[self._sampler.name](self._sampler, Seeds(ask, study, number), self._trials)


def study_name(job: str, arm: str) -> str:
    """What an arm's study is called in the studies' database."""
    return f"{job}/{arm}"


def study_ids(url: str, names: Sequence[str]) -> Mapping[str, int]:
    """The database's own numbers of those of these studies that are there.

    Raises:
        ServiceError: it cannot be reached or is no studies' database.
    """
    storage = open_storage(url)
    found: dict[str, int] = {}
    for name in names:
        with suppress(KeyError):
            found[name] = storage.get_study_id_from_name(name)
    return found


def open_storage(url: str, patient: bool = False) -> BaseStorage:
    """The studies' database.

    Args:
        url: where it is, or ``IN_MEMORY``.
        patient: wait for one that is away, as an ask would.

    Raises:
        ServiceError: it cannot be reached or is no studies' database.
    """
    if url == IN_MEMORY:
        return InMemoryStorage()
    reach = partial(RDBStorage, url, engine_kwargs={"pool_pre_ping": True})
    try:
        storage = _patiently(reach) if patient else reach()
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, RuntimeError) as error:
        raise ServiceError(
            f"cannot open the studies' database {without_password(url)}: {_first_line(error)}"
        ) from error
    event.listen(storage.engine, "handle_error", _tell_lost_answers)
    return storage


def set_aside_if_damaged(database: Path) -> Path | None:
    """Move a damaged SQLite file out of the way.

    Returns:
        Where it is now; None if nothing is wrong with it, or there is none.
    """
    if not database.exists() or database.stat().st_size == 0 or not _is_damaged(database):
        return None
    aside = next(name for number in itertools.count(1) if not (name := Path(f"{database}.damaged-{number}")).exists())
    return database.rename(aside)


_NO_DAMAGE = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_NOMEM,
)
"""What SQLite says of a file that another process writes to, or that it cannot get at."""
_TEXTS: Mapping[str, Callable[[str], Any]] = {"distribution_json": json_to_distribution, "value_json": json.loads}
"""Columns whose text Optuna reads, and how."""


def _is_damaged(database: Path) -> bool:
    engine = create_engine(f"sqlite:///{database}", connect_args={"timeout": 1})
    try:
        with engine.connect() as connection:
            if connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar() != "ok":
                return True
            # SQLite does not look into texts.
            connection.exec_driver_sql("SELECT * FROM sqlite_master").all()
            for table in BaseModel.metadata.sorted_tables:
                texts = [(column, read) for column, read in _TEXTS.items() if column in table.columns]
                for row in connection.execute(select(table)).mappings():
                    for column, read in texts:
                        read(row[column])
    except Exception as error:
        # Damage can make a reader raise anything.
        code = getattr(getattr(error, "orig", error), "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        return code & 0xFF not in _NO_DAMAGE
    finally:
        engine.dispose()
    return False


def _tell_lost_answers(context: ExceptionContext) -> None:
    # Optuna makes a trial again if this happens where it makes one, and there may be two then.
    if context.connection is not None and context.statement is None:
        raise _AnswerLost(_first_line(context.original_exception)) from context.original_exception


def _patiently(call: Callable[[], T]) -> T:
    """Call, again and again while the database is away.

    Raises:
        ServiceError: it stayed away.
    """
    deadline = time.monotonic() + OUTAGE_S
    while True:
        try:
            return call()
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError, _AnswerLost) as error:
            if time.monotonic() > deadline:
                raise ServiceError(f"the studies' database cannot be used: {_first_line(error)}") from error
            time.sleep(RETRY_S)


def _objective(state: State, reports: Sequence[tuple[int, float]]) -> tuple[float | None, dict[int, float]]:
    """A trial's objective and its values by epoch, as Optuna holds them: nothing of one that is lost, or still runs."""
    values = dict(reports) if state in (State.COMPLETE, State.PRUNED) else {}
    return next(reversed(values.values()), None), values


FORGETFUL = ("tpe",)
"""Samplers that are shown a part of a long study: whose cost grows with every trial, and whose choice hardly does."""
BEST = 25
"""As many good trials as TPE ever tells from the others, by its own order: none of them is missed."""
NEWEST = 225
"""With so many others there are BEST good ones among them, as TPE counts (a tenth)."""


class _Shown(optuna.Study):
    """A study of which only some trials are seen."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        self.__setstate__(study.__getstate__())
        self._trials = trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


def _rank(sign: float, trial: FrozenTrial) -> Rank | None:
    """A trial's place in TPE's order: complete ones by value, then pruned ones by how far they came, then by value."""
    if trial.state == TrialState.COMPLETE:
        assert trial.value is not None
        return 0, sign * trial.value
    if trial.state != TrialState.PRUNED:
        return None
    if not trial.intermediate_values:
        return (2,)
    step, value = max(trial.intermediate_values.items())
    return 1, -step, sign * value


class _Tpe(optuna.samplers.TPESampler):
    """TPE on trials that all have the same knobs, so that one of them says which."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        useful = (TrialState.COMPLETE, TrialState.PRUNED)
        for ended in study._get_trials(deepcopy=False, states=useful)[:1]:
            return {knob: found for knob, found in sorted(ended.distributions.items()) if not found.single()}
        return {}


def _tpe(sampler: SamplerSpec, seeds: Seeds, trials: int) -> BaseSampler:
    # Ten random trials, Optuna's default, would make a small search all random.
    startup = sampler.startup_trials or max(3, min(10, trials // 3))
    return _Tpe(seed=seeds.ask, n_startup_trials=startup)


def _random(sampler: SamplerSpec, seeds: Seeds, trials: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seeds.ask)


class _Sequence(optuna.samplers.QMCSampler):
    """Takes the point of the sequence that belongs to a trial's number, so that asked again it gives the same.

    Optuna counts the points in the study, which forgets them when it is lost, and goes on when an ask is cut short.
    """

    def __init__(self, place: int, **options: Any) -> None:
        super().__init__(**options)
        self._place = place

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._place


def _qmc(sampler: SamplerSpec, seeds: Seeds, trials: int) -> BaseSampler:
    return _Sequence(
        seeds.place,
        seed=seeds.study,
        scramble=True,
        # Until a trial has given values there is no sequence: with the study's seed every such ask would be the same.
        independent_sampler=optuna.samplers.RandomSampler(seed=seeds.ask),
        warn_asynchronous_seeding=False,
        warn_independent_sampling=False,
    )


def _gp(sampler: SamplerSpec, seeds: Seeds, trials: int) -> BaseSampler:
    startup = sampler.startup_trials or max(3, min(10, trials // 3))
    return optuna.samplers.GPSampler(seed=seeds.ask, n_startup_trials=startup)


def _cmaes(sampler: SamplerSpec, seeds: Seeds, trials: int) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seeds.ask, n_startup_trials=sampler.startup_trials or 1)


SAMPLERS: Mapping[str, Callable[[SamplerSpec, Seeds, int], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "qmc": _qmc,
    "gp": _gp,
    "cmaes": _cmaes,
}
"""Samplers by name: (options, seeds, planned trials) to Optuna's sampler."""


def importances(arm: Arm, trials: Sequence[tuple[Mapping[str, Scalar], float]], maximize: bool) -> Mapping[str, float]:
    """Each knob's share of what the objective varied by; empty where there are too few trials to tell.

    PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255): what sets the better trials apart from all.

    Args:
        arm: whose search space it is.
        trials: knobs and objective of each that trained to its end.
        maximize: whether larger is better.
    """
    if len(trials) < LEAST_IMPORTANCE or len({value for _, value in trials}) == 1:
        return {}
    distributions = dict(map(_distribution, arm.space.items()))
    study = optuna.create_study(direction=StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE)
    for knobs, value in trials:
        params = dict(_to_search(arm.space, knobs))
        study.add_trial(create_trial(params=params, distributions=distributions, value=value))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    shares = {name.removeprefix(ONE_MINUS): float(share) for name, share in found.items()}
    return shares if all(math.isfinite(share) for share in shares.values()) else {}


def _distribution(item: tuple[str, Domain]) -> tuple[str, BaseDistribution]:
    knob, domain = item
    match domain:
        case Choice():
            return knob, CategoricalDistribution(domain.values)
        case Float(scale="one-minus-log"):
            return ONE_MINUS + knob, FloatDistribution(1 - domain.high, 1 - domain.low, log=True)
        case Float():
            return knob, FloatDistribution(domain.low, domain.high, log=domain.scale == "log")
        case Int():
            return knob, IntDistribution(domain.low, domain.high, log=domain.scale == "log", step=domain.step)


def _to_search(space: Mapping[str, Domain], knobs: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    return {
        ONE_MINUS + knob if _is_one_minus(space[knob]) else knob: 1 - float(value)
        if _is_one_minus(space[knob])
        else value
        for knob, value in knobs.items()
    }


def _from_search(space: Mapping[str, Domain], params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    return {
        knob: 1 - float(params[ONE_MINUS + knob]) if _is_one_minus(domain) else params[knob]
        for knob, domain in space.items()
    }


def _is_one_minus(domain: Domain) -> bool:
    return isinstance(domain, Float) and domain.scale == "one-minus-log"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
