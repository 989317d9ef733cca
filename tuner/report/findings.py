"""Everything that a report shows, as plain values: computed from a job's record alone, drawn elsewhere."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainables.config import derive_seed
from trainables.data.request import ImageCounts
from trainables.hyper import Hyper
from trainables.schedules import Schedule
from trainables.space import Scalar
from tuner.jobs.record import Record, Trial
from tuner.report.anytime import Curve, by_epochs, by_trials
from tuner.report.knob import Knob
from tuner.report.lr_schedule import points
from tuner.report.sensitivity import Near, near_best
from tuner.report.training_cost import Spent, spent
from tuner.report.wording import Statements, statements
from tuner.spec.arms import Arm, arms
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import LOST, Stage, State
from tuner.verdict.leaderboard import Leaderboard, Row

TOLERANCE: Mapping[str, float] = {"val_acc": 0.01, "val_loss": 0.05}
"""The loss that a sensitivity card states, by the objective: a point of accuracy, or nats."""
SCHEDULE_POINTS = 200
Series = tuple[float, ...]


@dataclass(frozen=True)
class Tried:
    """One trial of the search.

    Args:
        number: in its arm.
        state: what became of it.
        knobs: what was searched.
        value: the objective after its last epoch; None where it gave none.
        curve: the objective after each epoch; None where it was no number.
    """

    number: int
    state: str
    knobs: Mapping[str, Scalar]
    value: float | None
    curve: tuple[float | None, ...]


@dataclass(frozen=True)
class Band:
    """Mean and standard deviation over the confirm seeds that trained to their end, after each epoch."""

    seeds: int
    mean: Series
    sd: Series


@dataclass(frozen=True)
class Rates:
    """What a winner's updates use by its schedule, and what its trial reported of the last update of each epoch.

    Args:
        epoch: epochs done before the update.
        lr: its learning rate.
        weight_decay: its decay, as torch takes it.
        reported_epoch, reported_lr, reported_weight_decay: the same, as the trial reported them.
    """

    epoch: Series
    lr: Series
    weight_decay: Series
    reported_epoch: Series
    reported_lr: Series
    reported_weight_decay: Series


@dataclass(frozen=True)
class ArmFindings:
    """One arm; what cannot be told yet is None or empty.

    Args:
        row: of the leaderboard.
        knobs: what was searched.
        spent: its training.
        trials: of its search, in their order.
        val, train_loss: over its confirm runs: the objective, and the training loss.
        after_trials, after_epochs: anytime curves of its search.
        importances: each knob's share of what the objective varied by, over the trials that trained to their end.
        near: its sensitivity card.
        rates: its winner's.
        settings: its winner's searched knobs.
    """

    row: Row
    knobs: tuple[Knob, ...]
    spent: Spent
    trials: tuple[Tried, ...]
    val: Band | None
    train_loss: Band | None
    after_trials: Curve | None
    after_epochs: Curve | None
    importances: Mapping[str, float]
    near: tuple[Near, ...]
    rates: Rates | None
    settings: Mapping[str, Scalar]


@dataclass(frozen=True)
class Origin:
    """What the job ran on and with, and its spec: as ``JobDescribed``."""

    versions: Mapping[str, str]
    machine: Mapping[str, str]
    data_images: ImageCounts
    data_fingerprint: str
    git_commit: str
    concurrent: int
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class Findings:
    """A job's findings.

    Args:
        board: its leaderboard.
        maximize: whether a larger objective is better.
        tolerance: the loss that sensitivity cards state.
        epochs: of a whole trial.
        gpus: of a trial.
        simulated: whether nothing was trained.
        arms: the baseline first.
        statements: what is to be said in words.
        origin: what it ran on and with, and the spec.
    """

    board: Leaderboard
    maximize: bool
    tolerance: float
    epochs: int
    gpus: float
    simulated: bool
    arms: tuple[ArmFindings, ...]
    statements: Statements
    origin: Origin

    @property
    def measure(self) -> str:
        """The objective's name for people."""
        return "validation accuracy" if self.maximize else "validation loss"

    @property
    def unit(self) -> str:
        """Of what training cost."""
        return "GPU-seconds" if self.gpus else "seconds"

    @property
    def factor(self) -> float:
        """On seconds, to come to this unit."""
        return self.gpus or 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold: None for what is no number."""
        values: dict[str, Any] = _plain(dataclasses.asdict(self) | {"board": self.board.to_dict()})
        return values


def findings(record: Record, spec: SearchSpec, board: Leaderboard) -> Findings:
    """What there is to show of a job, finished or not."""
    found = _Finder(record, spec)
    rows = {row.arm: row for row in board.rows}
    job = record.job
    return Findings(
        board=board,
        maximize=found.maximize,
        tolerance=TOLERANCE[spec.metric.key],
        epochs=spec.budget.epochs,
        gpus=spec.resources.gpus,
        simulated=record.simulated,
        arms=tuple(found.arm(arm, rows[arm.name], board.round) for arm in found.arms),
        statements=statements(record, spec, board),
        origin=Origin(
            versions=job.versions,
            machine=job.machine,
            data_images=job.data_images,
            data_fingerprint=job.data_fingerprint,
            git_commit=job.git_commit,
            concurrent=job.concurrent,
            spec=job.spec,
        ),
    )


class _Finder:
    def __init__(self, record: Record, spec: SearchSpec) -> None:
        self._record = record
        self._spec = spec
        self._plan = record.plan
        self._key = spec.metric.key
        self.maximize = spec.metric.goal == "maximize"
        self.arms = arms(spec, self._plan)

    def arm(self, arm: Arm, row: Row, round_number: int) -> ArmFindings:
        searched = self._record.of(Stage.SEARCH, arm.name)
        confirmed = self._record.of(Stage.CONFIRM, arm.name, round_number) if round_number else []
        complete = [trial for trial in searched if trial.state == State.COMPLETE]
        winner = None if row.winner is None else next(trial for trial in searched if trial.number == row.winner)
        after_trials, after_epochs = self._anytime(searched)
        return ArmFindings(
            row=row,
            knobs=tuple(Knob.of(knob, domain) for knob, domain in arm.space.items()),
            spent=spent(searched, confirmed),
            trials=tuple(self._tried(trial) for trial in searched),
            val=_band(confirmed, self._key, self._plan.epochs),
            train_loss=_band(confirmed, "train_loss", self._plan.epochs),
            after_trials=after_trials,
            after_epochs=after_epochs,
            importances=self._importances(arm, complete),
            near=() if winner is None else self._near(arm, winner, complete),
            rates=None if winner is None else self._rates(winner),
            settings={} if winner is None else {knob: winner.hyper[knob] for knob in arm.space},
        )

    def _value(self, trial: Trial) -> float:
        return trial.epochs[-1].metric(self._key)

    def _tried(self, trial: Trial) -> Tried:
        curve = tuple(_finite(epoch.metric(self._key)) for epoch in trial.epochs)
        lost = trial.state in LOST or not curve
        return Tried(trial.number, str(trial.state), trial.knobs, None if lost else curve[-1], curve)

    def _anytime(self, searched: Sequence[Trial]) -> tuple[Curve | None, Curve | None]:
        """A trial that gave no result counts as one, and as good as the worst that gave one."""
        ended = [trial for trial in searched if trial.state != State.RUNNING and trial.epochs]
        results = [self._value(trial) for trial in ended if trial.state not in LOST]
        if len(results) < 2:
            return None, None
        worst = min(results) if self.maximize else max(results)
        values = [worst if trial.state in LOST else self._value(trial) for trial in ended]
        seed = derive_seed(self._spec.seed, "anytime")
        epochs = [len(trial.epochs) for trial in ended]
        return by_trials(values, self.maximize, seed), by_epochs(values, epochs, self.maximize, seed)

    def _importances(self, arm: Arm, complete: Sequence[Trial]) -> Mapping[str, float]:
        from tuner.search.importance import importances

        return importances(arm, [(trial.knobs, self._value(trial)) for trial in complete], self.maximize)

    def _near(self, arm: Arm, winner: Trial, complete: Sequence[Trial]) -> tuple[Near, ...]:
        trials = [(trial.knobs, self._value(trial)) for trial in complete]
        tolerance = TOLERANCE[self._key]
        return near_best(arm.space, winner.knobs, trials, self._value(winner), tolerance, self.maximize)

    def _rates(self, winner: Trial) -> Rates:
        every = max(1, self._plan.updates // SCHEDULE_POINTS)
        used = points(Schedule(Hyper.of(winner.hyper), self._plan), every)
        planned = [(point.epoch, point.lr, point.weight_decay) for point in used]
        last = 1 / self._plan.steps_per_epoch
        reported = [(epoch.epoch - last, epoch.lr, epoch.weight_decay) for epoch in winner.epochs]
        columns = [*zip(*planned, strict=True), *zip(*reported, strict=True)]
        return Rates(*(tuple(map(rounded, column)) for column in columns))


def rounded(value: float) -> float:
    """To six digits: more would only make the page larger."""
    return float(f"{value:.6g}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _finite(value: float) -> float | None:
    return rounded(value) if abs(value) < float("inf") else None


def _band(confirmed: Sequence[Trial], key: str, epochs: int) -> Band | None:
    whole = [trial for trial in confirmed if trial.state == State.COMPLETE and len(trial.epochs) == epochs]
    if not whole:
        return None
    by_epoch = list(zip(*([epoch.metric(key) for epoch in trial.epochs] for trial in whole), strict=True))
    sd = tuple(rounded(statistics.stdev(values)) if len(values) > 1 else 0.0 for values in by_epoch)
    return Band(len(whole), tuple(rounded(statistics.fmean(values)) for values in by_epoch), sd)
