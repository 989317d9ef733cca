"""A job's record: its journal, folded into trials, winners and verdicts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tuner.storage.journal import Event, read


class State(StrEnum):
    """Where a trial stands."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    FAILED = "failed"
    OOM = "oom"


LOST = (State.DIVERGED, State.FAILED, State.OOM)
"""Ends of a trial that gave no result."""


class Stage(StrEnum):
    """What a trial is for: the search, choosing one winner among an arm's best, or confirming the winners."""

    SEARCH = "search"
    SELECT = "select"
    CONFIRM = "confirm"


@dataclass
class Trial:
    """One setting trained with one seed.

    Args:
        key: its name in the job, as ``search/adamw/3``.
        stage: what it is for.
        arm: the arm's name.
        number: of the setting in the arm's study, from 0.
        seed: of weights, order and augmentation.
        round: of confirm runs, from 1; 0 in the search.
        hyper: every knob.
        knobs: those that the arm's study proposed.
        epochs: one dict an epoch, the fields of ``EpochReport``.
        reporters: the attempt that trained each of these epochs last.
        attempts: how many attempts were begun.
        state: where it stands.
        reason: why it failed or diverged.
        result: of a confirm run: ``test_acc``, ``test_loss``, ``weights_sha256``.
        started_ms, ended_ms: wall clock, Unix milliseconds.
    """

    key: str
    stage: Stage
    arm: str
    number: int
    seed: int
    round: int
    hyper: Mapping[str, Any]
    knobs: Mapping[str, Any]
    started_ms: int
    epochs: list[dict[str, Any]] = field(default_factory=list)
    reporters: list[int] = field(default_factory=list)
    attempts: int = 0
    state: State = State.RUNNING
    reason: str | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    ended_ms: int | None = None

    @property
    def seconds(self) -> float:
        """Training time so far."""
        return float(sum(epoch["seconds"] for epoch in self.epochs))


@dataclass
class Round:
    """One round of confirm runs: its fresh seeds, and each arm's winner by its trial number."""

    number: int
    seeds: tuple[int, ...]
    winners: Mapping[str, int]


@dataclass
class Record:
    """Everything a job's journal says."""

    job: Event = field(default_factory=dict)
    trials: dict[str, Trial] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    state: str = "new"
    reason: str | None = None
    _earlier_s: float = 0.0
    _driver_s: float = 0.0

    @property
    def active_s(self) -> float:
        """Seconds that drivers worked on the job, by clocks that never step back."""
        return self._earlier_s + self._driver_s

    @property
    def name(self) -> str:
        """The job's id."""
        return str(self.job["job"])

    @property
    def simulated(self) -> bool:
        """Whether nothing was trained."""
        return bool(self.job["simulated"])

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms' names, the baseline first."""
        return tuple(arm["name"] for arm in self.job["arms"])

    @property
    def baseline(self) -> str:
        """The baseline's name."""
        return str(self.job["spec"]["baseline"])

    def of(self, stage: Stage, arm: str | None = None, round_number: int | None = None) -> list[Trial]:
        """Trials of a stage, in the order they started."""
        return [
            trial
            for trial in self.trials.values()
            if trial.stage == stage
            and arm in (None, trial.arm)
            and (round_number is None or trial.round == round_number)
        ]

    def ended_rounds(self) -> list[Round]:
        """The rounds all of whose confirm runs have ended; one that was interrupted gives no verdict."""
        return [confirm_round for confirm_round in self.rounds if self._has_ended(confirm_round)]

    def _has_ended(self, confirm_round: Round) -> bool:
        runs = self.of(Stage.CONFIRM, round_number=confirm_round.number)
        wanted = len(confirm_round.seeds) * len(confirm_round.winners)
        return sum(run.state != State.RUNNING for run in runs) == wanted

    def add(self, event: Event) -> None:
        """Take one more event."""
        if event["kind"] == "state" and event["state"] == "running":
            # Another driver: its clock began anew.
            self._earlier_s += self._driver_s
        self._driver_s = event["up"]
        match event["kind"]:
            case "job":
                self.job = event
            case "trial":
                self.trials[event["trial"]] = _started(event)
            case "attempt":
                self.trials[event["trial"]].attempts = event["attempt"]
            case "epoch":
                trial = self.trials[event["trial"]]
                trial.epochs.append({key: _number(value) for key, value in event.items() if key not in _FRAME})
                trial.reporters.append(event["attempt"])
            case "again":
                # Its checkpoint is the one that is whole.
                self.trials[event["trial"]].reporters[event["epoch"] - 1] = event["attempt"]
            case "end":
                trial = self.trials[event["trial"]]
                trial.state, trial.reason = State(event["state"]), event["reason"]
                trial.result = {key: _number(value) for key, value in event["result"].items()}
                trial.ended_ms = event["ms"]
            case "confirm":
                self.rounds.append(Round(event["round"], tuple(event["seeds"]), event["winners"]))
            case "state":
                self.state, self.reason = event["state"], event.get("reason")


_FRAME = ("n", "ms", "up", "sum", "kind", "trial", "attempt")


def replay(events: Iterable[Event]) -> Record:
    """The record that these events, in their order, come to."""
    record = Record()
    for event in events:
        record.add(event)
    return record


def load_record(journal: Path) -> Record:
    """The record of a journal file."""
    return replay(read(journal))


def _started(event: Event) -> Trial:
    return Trial(
        key=event["trial"],
        stage=Stage(event["stage"]),
        arm=event["arm"],
        number=event["number"],
        seed=event["seed"],
        round=event["round"],
        hyper=event["hyper"],
        knobs=event["knobs"],
        started_ms=event["ms"],
    )


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value
