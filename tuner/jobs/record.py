"""The record of a job: its journal, folded into trials and rounds of confirm runs."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path

from trainables.report import Report, Result
from trainables.space import Plan, Scalar
from tuner.spec.experiment import MetricSpec
from tuner.spec.search_spec import SearchSpec, from_dict
from tuner.storage.events import (
    LOST,
    AttemptBegun,
    EarlierTrials,
    Entry,
    EpochRepeated,
    EpochReported,
    Extended,
    JobDescribed,
    JobStateChanged,
    LookTaken,
    Outcome,
    RoundBegun,
    Stage,
    State,
    TrialBegun,
    TrialEnded,
)
from tuner.storage.journal import read


@dataclass(slots=True)
class Trial:
    """One setting, trained with one seed.

    Args:
        begun: the event with which it began.
        begun_n, started_ms: number and time of that event's entry.
        end: the event with which it ended, or None.
        ended_n, ended_ms: number and time of that event's entry.
        epochs: one report per epoch.
        reported_n: for each of these epochs, the number of its entry.
        reporters: for each of these epochs, the attempt that trained it last.
        attempts: how many attempts have begun.
        seconds: training time so far.
    """

    begun: TrialBegun
    begun_n: int
    started_ms: int
    end: TrialEnded | None = None
    ended_n: int | None = None
    ended_ms: int | None = None
    epochs: list[Report] = field(default_factory=list)
    reported_n: list[int] = field(default_factory=list)
    reporters: list[int] = field(default_factory=list)
    attempts: int = 0
    seconds: float = 0.0

    @property
    def key(self) -> str:
        """Its name in the job, such as ``search/adamw/3``."""
        return self.begun.trial

    @property
    def stage(self) -> Stage:
        """Its purpose."""
        return self.begun.stage

    @property
    def arm(self) -> str:
        """The arm's name."""
        return self.begun.arm

    @property
    def number(self) -> int:
        """The number of the setting in the arm's search, from 0."""
        return self.begun.number

    @property
    def search(self) -> int:
        """Which of the arm's searches the setting comes from, from 1; 0 in a job with one search per arm."""
        return self.begun.search

    @property
    def label(self) -> str:
        """The setting in its arm, in words, such as ``7`` or ``3.7``."""
        return self.begun.label

    @property
    def seed(self) -> int:
        """The seed of weights, order and augmentation."""
        return self.begun.seed

    @property
    def round(self) -> int:
        """The round of confirm runs, from 1; 0 before them."""
        return self.begun.round

    @property
    def hyper(self) -> Mapping[str, Scalar]:
        """Its setting: every knob and its value, searched or not."""
        return self.begun.hyper

    @property
    def knobs(self) -> Mapping[str, Scalar]:
        """The searched hyperparameters."""
        return self.begun.knobs

    @property
    def state(self) -> State:
        """Its state."""
        return State.RUNNING if self.end is None else self.end.state

    @property
    def reason(self) -> str | None:
        """Why it failed or diverged."""
        return None if self.end is None else self.end.reason

    @property
    def result(self) -> Result | None:
        """The result of a confirm run."""
        return None if self.end is None else self.end.result


@dataclass(slots=True)
class Group:
    """The trials of a stage, or those of one arm, search or round of it, and their counts.

    The counts grow with each event, so nobody has to walk the trials to know them.

    Args:
        trials: in the order in which they began.
        ended, pruned, lost: how many of them have ended, and in which state; see ``LOST``.
        epochs: epochs of all of them.
        epochs_of_ended: epochs of those that have ended.
        seconds: training time of all of them.
        searches: the largest number of a search.
        best: the best value of the metric that chooses, after any epoch, or None.
    """

    trials: list[Trial] = field(default_factory=list)
    ended: int = 0
    pruned: int = 0
    lost: int = 0
    epochs: int = 0
    epochs_of_ended: int = 0
    seconds: float = 0.0
    searches: int = 0
    best: float | None = None

    @property
    def running(self) -> int:
        """How many of the trials have not ended."""
        return len(self.trials) - self.ended

    def begin(self, trial: Trial) -> None:
        """Take a trial that begins."""
        self.trials.append(trial)
        self.searches = max(self.searches, trial.search)

    def report(self, epoch: Report, metric: MetricSpec) -> None:
        """Take a new epoch of one of the trials."""
        self.epochs += 1
        self.seconds += epoch.seconds
        value = epoch.metric(metric.key)
        better = self.best is None or (value > self.best if metric.maximize else value < self.best)
        if better and math.isfinite(value):
            self.best = value

    def finish(self, trial: Trial) -> None:
        """Take the end of one of the trials."""
        self.ended += 1
        self.pruned += trial.state == State.PRUNED
        self.lost += trial.state in LOST
        self.epochs_of_ended += len(trial.epochs)


_Place = tuple[Stage, str | None, int | None, int | None]
"""Stage, arm, round and search of a group; None for all of them."""


@dataclass
class Record:
    """Everything that a job's journal says. It grows with ``add``."""

    description: JobDescribed | None = None
    earlier: dict[str, EarlierTrials] = field(default_factory=dict)
    """Arm to the trials of an earlier job from which its sampler learns."""
    trials: dict[str, Trial] = field(default_factory=dict)
    looks: list[LookTaken] = field(default_factory=list)
    looks_n: list[int] = field(default_factory=list)
    """For each look, the number of its entry."""
    rounds: list[RoundBegun] = field(default_factory=list)
    extensions: list[Extended] = field(default_factory=list)
    searching: bool = True
    """Whether arms are still to be searched: until a round of confirm runs begins, and again after an extension."""
    state: str = "new"
    reason: str | None = None
    _earlier_s: float = 0.0
    _driver_s: float = 0.0
    _groups: dict[_Place, Group] = field(default_factory=dict, repr=False, compare=False)
    _places: dict[_Place, tuple[Group, ...]] = field(default_factory=dict, repr=False, compare=False)
    """The groups of the trials with this stage, arm, round and search."""

    @property
    def begun(self) -> bool:
        """Whether the job has begun: only then the record answers what the job is."""
        return self.description is not None

    @property
    def job(self) -> JobDescribed:
        """What the job is: spec, arms, versions, machine and data, as the first driver found them."""
        assert self.description is not None, "the job has begun"
        return self.description

    @cached_property
    def spec(self) -> SearchSpec:
        """The job's spec as it began."""
        return from_dict(self.job.spec)

    @cached_property
    def metric(self) -> MetricSpec:
        """The metrics of the spec, read without the rest of it."""
        return MetricSpec.model_validate(self.job.spec.get("metric", {}))

    @property
    def plan(self) -> Plan:
        """The planned length of a trial with the spec's batch size."""
        return self.job.trial_plan

    @property
    def name(self) -> str:
        """The job's id."""
        return self.job.job

    @property
    def simulated(self) -> bool:
        """Whether nothing was trained."""
        return self.job.simulated

    @property
    def contiguous(self) -> bool:
        """Whether an own model of the job gets contiguous images; false if an older version began the job."""
        return not self.begun or self.job.contiguous

    @property
    def arms(self) -> tuple[str, ...]:
        """The names of the arms, the baseline first."""
        return tuple(arm.name for arm in self.job.arms)

    @property
    def baseline(self) -> str:
        """The name of the baseline."""
        return self.spec.baseline

    @property
    def active_s(self) -> float:
        """Seconds that drivers worked on the job, by clocks that never step back."""
        return self._earlier_s + self._driver_s

    def of(
        self, stage: Stage, arm: str | None = None, *, round_number: int | None = None, search: int | None = None
    ) -> list[Trial]:
        """The trials of a stage, in the order in which they began; of one arm, round or search if it is given."""
        return self.group(stage, arm, round_number=round_number, search=search).trials.copy()

    def group(
        self, stage: Stage, arm: str | None = None, *, round_number: int | None = None, search: int | None = None
    ) -> Group:
        """These trials and their counts. The group grows with the record, and nobody else may change it."""
        return self._groups.get((stage, arm, round_number, search)) or Group()

    @property
    def extended_after_the_last_look(self) -> bool:
        """Whether the job was extended and has had no look since."""
        return bool(self.extensions) and self.extensions[-1].look == len(self.looks)

    def settled(self, look: int | None = None) -> dict[str, Outcome]:
        """The arms that are not searched any more, and how they stand: now, or before the look of this number.

        An arm that was futile before an extension is searched again after it. That rule only saves searches, so the
        chance of a false verdict does not depend on it.
        """
        taken = self.looks if look is None else self.looks[: look - 1]
        reopened = max((more.look for more in self.extensions if look is None or more.look < look), default=0)
        return {
            arm: outcome
            for one in taken
            for arm, outcome in one.outcomes.items()
            if outcome != Outcome.NOT_ENOUGH and (outcome != Outcome.FUTILE or one.look > reopened)
        }

    def ended_rounds(self) -> list[RoundBegun]:
        """The rounds whose confirm runs have all ended. A round that was interrupted gives no verdict."""
        return [confirm_round for confirm_round in self.rounds if self._has_ended(confirm_round)]

    def _has_ended(self, confirm_round: RoundBegun) -> bool:
        wanted = len(confirm_round.seeds) * len(confirm_round.winners)
        return self.group(Stage.CONFIRM, round_number=confirm_round.round).ended == wanted

    def add(self, entry: Entry) -> None:
        """Take the next entry of the journal."""
        event = entry.event
        if isinstance(event, JobStateChanged) and event.state == "running":
            # Another driver: its clock began at 0 again.
            self._earlier_s += self._driver_s
        self._driver_s = entry.up
        match event:
            case JobDescribed():
                self.description = event
            case EarlierTrials():
                self.earlier[event.arm] = event
            case TrialBegun():
                self._begin(Trial(event, entry.n, entry.ms))
            case AttemptBegun():
                self.trials[event.trial].attempts = event.attempt
            case EpochReported():
                self._report(self.trials[event.trial], entry.n, event)
            case EpochRepeated():
                # The checkpoint of this attempt is the whole one.
                self.trials[event.trial].reporters[event.epoch - 1] = event.attempt
            case TrialEnded():
                trial = self.trials[event.trial]
                trial.end, trial.ended_n, trial.ended_ms = event, entry.n, entry.ms
                for group in self._groups_of(trial):
                    group.finish(trial)
            case RoundBegun():
                # After an extension without a new look, the last round is named again.
                self.rounds = [begun for begun in self.rounds if begun.round != event.round] + [event]
                self.searching = False
            case Extended():
                self.extensions.append(event)
                self.searching = True
            case LookTaken():
                self.looks.append(event)
                self.looks_n.append(entry.n)
            case JobStateChanged():
                self.state, self.reason = event.state, event.reason

    def _begin(self, trial: Trial) -> None:
        self.trials[trial.key] = trial
        for group in self._groups_of(trial):
            group.begin(trial)

    def _report(self, trial: Trial, number: int, event: EpochReported) -> None:
        trial.epochs.append(event.report)
        trial.reported_n.append(number)
        trial.reporters.append(event.attempt)
        trial.seconds += event.report.seconds
        # A replay of recorded curves has trials, and no job.
        metric = self.metric if self.begun else MetricSpec()
        for group in self._groups_of(trial):
            group.report(event.report, metric)

    def _groups_of(self, trial: Trial) -> tuple[Group, ...]:
        begun = trial.begun
        place = begun.stage, begun.arm, begun.round, begun.search
        found = self._places.get(place)
        if found is None:
            every = product((begun.arm, None), (begun.round, None), (begun.search, None))
            keys: list[_Place] = [(begun.stage, arm, number, search) for arm, number, search in every]
            found = self._places[place] = tuple(self._groups.setdefault(key, Group()) for key in keys)
        return found


def replay(entries: Iterable[Entry]) -> Record:
    """The record of these entries, in their order."""
    record = Record()
    for entry in entries:
        record.add(entry)
    return record


def load_record(journal: Path) -> Record:
    """The record of a journal file; raises as ``tuner.storage.journal.read``."""
    return replay(read(journal))
