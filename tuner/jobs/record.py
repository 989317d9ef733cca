"""The record of a job: its journal, folded into trials and rounds of confirm runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from trainables.report import ConfirmResult, EpochReport
from trainables.space import Plan, Scalar
from tuner.spec.search_spec import SearchSpec, from_dict
from tuner.storage.events import (
    AttemptBegun,
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


@dataclass
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
    """

    begun: TrialBegun
    begun_n: int
    started_ms: int
    end: TrialEnded | None = None
    ended_n: int | None = None
    ended_ms: int | None = None
    epochs: list[EpochReport] = field(default_factory=list)
    reported_n: list[int] = field(default_factory=list)
    reporters: list[int] = field(default_factory=list)
    attempts: int = 0

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
        """Every hyperparameter."""
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
    def result(self) -> ConfirmResult | None:
        """The result of a confirm run."""
        return None if self.end is None else self.end.result

    @property
    def seconds(self) -> float:
        """Training time so far."""
        return sum(epoch.seconds for epoch in self.epochs)


@dataclass
class Record:
    """Everything that a job's journal says. It grows with ``add``."""

    description: JobDescribed | None = None
    trials: dict[str, Trial] = field(default_factory=dict)
    looks: list[LookTaken] = field(default_factory=list)
    rounds: list[RoundBegun] = field(default_factory=list)
    extensions: list[Extended] = field(default_factory=list)
    searching: bool = True
    """Whether arms are still to be searched: until a round of confirm runs begins, and again after an extension."""
    state: str = "new"
    reason: str | None = None
    _earlier_s: float = 0.0
    _driver_s: float = 0.0

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

    @property
    def plan(self) -> Plan:
        """The planned length of a trial."""
        return self.job.plan

    @property
    def name(self) -> str:
        """The job's id."""
        return self.job.job

    @property
    def simulated(self) -> bool:
        """Whether nothing was trained."""
        return self.job.simulated

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
        return [
            trial
            for trial in self.trials.values()
            if trial.stage == stage
            and arm in (None, trial.arm)
            and round_number in (None, trial.round)
            and search in (None, trial.search)
        ]

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
        runs = self.of(Stage.CONFIRM, round_number=confirm_round.round)
        wanted = len(confirm_round.seeds) * len(confirm_round.winners)
        return sum(run.state != State.RUNNING for run in runs) == wanted

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
            case TrialBegun():
                self.trials[event.trial] = Trial(event, entry.n, entry.ms)
            case AttemptBegun():
                self.trials[event.trial].attempts = event.attempt
            case EpochReported():
                trial = self.trials[event.trial]
                trial.epochs.append(event.report)
                trial.reported_n.append(entry.n)
                trial.reporters.append(event.attempt)
            case EpochRepeated():
                # The checkpoint of this attempt is the whole one.
                self.trials[event.trial].reporters[event.epoch - 1] = event.attempt
            case TrialEnded():
                trial = self.trials[event.trial]
                trial.end, trial.ended_n, trial.ended_ms = event, entry.n, entry.ms
            case RoundBegun():
                # After an extension without a new look, the last round is named again.
                self.rounds = [begun for begun in self.rounds if begun.round != event.round] + [event]
                self.searching = False
            case Extended():
                self.extensions.append(event)
                self.searching = True
            case LookTaken():
                self.looks.append(event)
            case JobStateChanged():
                self.state, self.reason = event.state, event.reason


def replay(entries: Iterable[Entry]) -> Record:
    """The record of these entries, in their order."""
    record = Record()
    for entry in entries:
        record.add(entry)
    return record


def load_record(journal: Path) -> Record:
    """The record of a journal file; raises as ``tuner.storage.journal.read``."""
    return replay(read(journal))
