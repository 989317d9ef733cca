"""The Optuna study of one search of an arm, in memory: asked for settings, and told how they ended.

The study is built from the record when a driver starts, so the record alone decides what it knows. Optuna hears the
truth: COMPLETE, PRUNED with the epoch that the trial reached, or FAIL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from trainables.config import derive_seed
from trainables.space import Scalar, applies
from tuner.search.distributions import TriedSettings, distributions, from_search, to_search, widened
from tuner.search.samplers import REPLAYED, SAMPLERS, Seeds
from tuner.search.trial_window import BEST, NEWEST, WINDOWED, ShownStudy, TrialWindow, tpe_rank
from tuner.spec.arms import Arm
from tuner.spec.settings import SamplerSpec
from tuner.storage.events import State

OPTUNA_STATES: Mapping[State, TrialState] = {
    State.RUNNING: TrialState.RUNNING,
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.DIVERGED: TrialState.FAIL,
    State.FAILED: TrialState.FAIL,
    State.OOM: TrialState.FAIL,
}
"""A trial's state, and Optuna's state for it."""


@dataclass(frozen=True)
class Proposal:
    """A setting to try: its number in the study and the searched knobs."""

    number: int
    knobs: Mapping[str, Scalar]


@dataclass(frozen=True)
class RecordedTrial:
    """A trial of the search as the record has it.

    Args:
        knobs: the searched knobs.
        state: its state.
        reports: (epoch, objective) of each epoch.
        begun, ended: numbers of the journal's entries, which give the order of asks and tells; None for no end.
    """

    knobs: Mapping[str, Scalar]
    state: State
    reports: Sequence[tuple[int, float]]
    begun: int = 0
    ended: int | None = None


class ArmStudy:
    """The study of one search of an arm; it begins with the arm's first settings.

    Args:
        arm: the arm and its search space.
        sampler: which sampler, and its options.
        seed: of the study; every ask is seeded from (seed, arm, trial number).
        trials: planned trials, for the sampler's random start.
        maximize: whether larger objective values are better.
        past: the arm's trials on record, by their numbers from 0.
        earlier: ended trials of another job that the sampler learns from. They are none of the study's own trials.
    """

    def __init__(
        self,
        arm: Arm,
        sampler: SamplerSpec,
        seed: int,
        trials: int,
        *,
        maximize: bool,
        past: Sequence[RecordedTrial] = (),
        earlier: Sequence[RecordedTrial] = (),
    ) -> None:
        self.arm = arm
        self._sampler = sampler
        self._seed = seed
        self._planned = trials
        self._direction = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
        self._distributions = distributions(arm.space)
        self._earlier = earlier
        self._start()
        if self._sampler.name not in REPLAYED or not self._replay(past):
            self._start()
            self._take(past)

    @property
    def asked(self) -> int:
        """How many settings were asked for."""
        return len(self._known) - len(self._earlier)

    def ask(self) -> Proposal:
        """The next setting to try."""
        number = self.asked
        if number < len(self.arm.opening):
            self._study.enqueue_trial(to_search(self.arm.space, self.arm.opening[number]))
        self._study.sampler = self._sampler_for(number)
        trial = optuna.trial.Trial(self._shown(), self._study.ask()._trial_id)
        for knob, (name, distribution) in zip(self.arm.space, self._distributions.items(), strict=True):
            # A knob that others depend on comes before them, and Optuna's name for it is the same.
            if knob not in self.arm.when or applies(self.arm.when, knob, trial.params):
                trial._suggest(name, distribution)
        knobs = from_search(self.arm.space, trial.params)
        # 1 - (1 - x) may differ from x in its last bit. A study that is built from the record has the record's value.
        # One whose asks are repeated has the same value as before anyway.
        if self._sampler.name not in REPLAYED:
            for name, value in to_search(self.arm.space, knobs).items():
                distribution = self._distributions[name]
                self._memory.set_trial_param(trial._trial_id, name, distribution.to_internal_repr(value), distribution)
        self._tried.add(knobs)
        self._known.asked += 1
        return Proposal(number, knobs)

    def tell(self, number: int, state: State, reports: Sequence[tuple[int, float]]) -> None:
        """Say how a setting ended: its state, and (epoch, objective) of each epoch. A second call changes nothing.

        The objective of a COMPLETE trial is its last report. A trial that diverged or failed has none.
        """
        trial = self._known[len(self._earlier) + number]
        if trial.state.is_finished():
            return
        value, values = _objective(state, reports)
        for step, reported in values.items():
            self._memory.set_trial_intermediate_value(trial._trial_id, step, reported)
        self._note_end(state, value)
        # Optuna takes the last report of a PRUNED trial itself.
        self._study.tell(trial.number, value if state == State.COMPLETE else None, state=OPTUNA_STATES[state])

    def trials(self) -> list[FrozenTrial]:
        """All trials of the study's own, as Optuna has them."""
        return self._study.get_trials(deepcopy=True)[len(self._earlier) :]

    def _take(self, trials: Sequence[RecordedTrial]) -> None:
        """Add trials as they are on record."""
        self._study.add_trials([as_optuna_trial(self.arm, trial) for trial in trials])
        self._known.asked += len(trials)
        for trial in trials:
            self._tried.add(trial.knobs)
        for trial in sorted((trial for trial in trials if trial.ended is not None), key=lambda trial: trial.ended or 0):
            self._note_end(trial.state, _objective(trial.state, trial.reports)[0])

    def _note_end(self, state: State, value: float | None) -> None:
        sign = 1.0 if self._direction == StudyDirection.MAXIMIZE else -1.0
        self._tried.note_end(sign * value if state == State.COMPLETE and value is not None else None)

    def _start(self) -> None:
        self._tried = TriedSettings(self.arm.space, self.arm.when)
        self._memory = InMemoryStorage()
        self._study = optuna.create_study(storage=self._memory, direction=self._direction)
        self._known = _Trials(self._memory, self._study._study_id)
        sign = -1.0 if self._direction == StudyDirection.MAXIMIZE else 1.0
        self._window: TrialWindow[FrozenTrial] = TrialWindow(
            BEST, NEWEST, lambda trial: trial.state.is_finished(), partial(tpe_rank, sign)
        )
        self._take(self._earlier)

    def _replay(self, past: Sequence[RecordedTrial]) -> bool:
        """Ask and tell again in the order of the journal: the sampler keeps notes beside the trials.

        Returns:
            Whether all settings were the recorded ones. They may differ after a journal was damaged.
        """
        asks = [(trial.begun, number, False) for number, trial in enumerate(past)]
        tells = [(trial.ended, number, True) for number, trial in enumerate(past) if trial.ended is not None]
        for _, number, is_tell in sorted([*asks, *tells]):
            if is_tell:
                self.tell(number, past[number].state, past[number].reports)
            elif self.ask() != Proposal(number, past[number].knobs):
                return False
        return True

    def _shown(self) -> optuna.Study:
        """The study as its sampler sees it."""
        if self._sampler.name not in WINDOWED:
            return self._study
        return ShownStudy(self._study, self._window.shown(self._known))

    def _sampler_for(self, number: int) -> BaseSampler:
        ask, study = (derive_seed(self._seed, self.arm.name, part) % 2**32 for part in (str(number), "qmc"))
        if number < len(self.arm.opening):
            # Its values are given. A sampler would note its own proposal beside them.
            return RandomSampler(seed=ask)
        return SAMPLERS[self._sampler.name](self._sampler, Seeds(ask, study, number), self._planned, self._tried)


class _Trials(Sequence[FrozenTrial]):
    """The trials of a study that were asked for, by their numbers. Optuna would copy the list of all at each call."""

    def __init__(self, storage: InMemoryStorage, study: int) -> None:
        self.asked = 0
        self._storage = storage
        self._study = study

    def __len__(self) -> int:
        return self.asked

    # A window takes single trials, no slices.
    def __getitem__(self, number: int) -> FrozenTrial:  # type: ignore[override]
        return self._storage.get_trial(self._storage.get_trial_id_from_study_id_trial_number(self._study, number))


def as_optuna_trial(arm: Arm, trial: RecordedTrial) -> FrozenTrial:
    """A trial on record as a trial of Optuna's.

    Its own distributions contain its values, which may lie outside of the arm's ranges if another version chose them.
    A choice that no longer exists is left out of the trial. Samplers then ignore the trial or the knob.
    """
    value, values = _objective(trial.state, trial.reports)
    space = widened(arm.space, trial.knobs)
    return create_trial(
        state=OPTUNA_STATES[trial.state],
        value=value,
        params=to_search(space, trial.knobs),
        distributions=distributions(space),
        intermediate_values=values,
    )


def study_name(job: str, arm: str, search: int = 0) -> str:
    """The name of a study in the studies' database: of an arm, or of one of its searches."""
    return f"{job}/{arm}/search-{search}" if search else f"{job}/{arm}"


def _objective(state: State, reports: Sequence[tuple[int, float]]) -> tuple[float | None, dict[int, float]]:
    """The objective and its values by epoch, as Optuna holds them: nothing for a trial that is lost or still runs."""
    values = dict(reports) if state in (State.COMPLETE, State.PRUNED) else {}
    return next(reversed(values.values()), None), values
