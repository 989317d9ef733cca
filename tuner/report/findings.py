"""All content of a report as plain values. It comes only from a job's record; other modules draw it."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainables.config import derive_seed
from trainables.data.request import ImageCounts
from trainables.report import EpochReport
from trainables.space import Scalar
from trainables.variants import VARIANTS
from tuner.jobs.record import Record, Trial
from tuner.report.anytime import Curve, by_epochs, by_trials, over_searches
from tuner.report.by_search import ToTarget, Won, target, to_target
from tuner.report.knob import Knob
from tuner.report.lr_schedule import points
from tuner.report.sensitivity import Near, near_best
from tuner.report.training_cost import Spent, spent
from tuner.report.wording import Statements, statements
from tuner.search.trial_request import search_key
from tuner.search.winners import schedule_of, search_has_ended
from tuner.spec.arms import Arm, recorded_arms
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import LOST, Stage, State
from tuner.verdict.leaderboard import Leaderboard, Row

TOLERANCE: Mapping[str, float] = {"val_acc": 0.01, "val_loss": 0.05}
"""By objective, the loss that a sensitivity card accepts: 0.01 is one point of accuracy, 0.05 is in nats."""
TOLERATED = 0.1
"""For a metric of the user's: the share of the way from the best finished trial to the median one."""
FEW_NUMBERS = 6
"""Most numbers of the user's reports, beside the objective, of which each gets a figure."""
SCHEDULE_POINTS = 200
"""Approximate number of points of a drawn schedule."""
Series = tuple[float, ...]

MOST_DRAWN = 2000
"""Trials of an arm in a figure. More of them show nothing new, and make a page that no browser opens."""


@dataclass(frozen=True)
class Tried:
    """One trial of the search.

    Args:
        label: name of the trial in its arm, such as ``7``, or ``3.7`` for trial 7 of search 3.
        state: state of the trial.
        knobs: values of the searched knobs.
        value: objective after the last epoch; None if the trial has no result.
        curve: objective after each epoch; None where it is not a finite number.
    """

    label: str
    state: str
    knobs: Mapping[str, Scalar]
    value: float | None
    curve: tuple[float | None, ...]


@dataclass(frozen=True)
class Band:
    """Mean and standard deviation after each epoch, over the confirm runs that trained to the end.

    Args:
        seeds: number of these confirm runs, one per seed.
        mean: mean after each epoch.
        sd: standard deviation after each epoch; 0 if there is only one run.
    """

    seeds: int
    mean: Series
    sd: Series


@dataclass(frozen=True)
class Rates:
    """A winner's learning rate and decay: as its schedule plans them, and as its trial reported them.

    The planned values cover the whole training. The trial reports the values of the last update of each epoch.

    Args:
        epoch: epochs done before each planned update.
        lr: learning rate of each planned update.
        weight_decay: decay of each planned update, in torch's form.
        reported_epoch: epochs done before each reported update.
        reported_lr: learning rate of each reported update.
        reported_weight_decay: decay of each reported update, in torch's form.
    """

    epoch: Series
    lr: Series
    weight_decay: Series
    reported_epoch: Series
    reported_lr: Series
    reported_weight_decay: Series


@dataclass(frozen=True)
class ArmFindings:
    """The findings about one arm. A value that is not known yet is None or empty.

    Args:
        row: the arm's row of the leaderboard.
        knobs: the searched knobs.
        spent: the cost of the arm's training.
        trials: the trials of its search, in their order.
        val: the objective over its confirm runs.
        train_loss: the training loss over its confirm runs; None for the user's trainables.
        numbers: the other numbers that the user's trainable reported in its confirm runs, if they are few; by name.
        after_trials: anytime curve of its search, by number of trials.
        after_epochs: anytime curve of its search, by number of epochs.
        importances: each knob's share of the variation of the objective, over the trials that trained to the end.
        near: its sensitivity card.
        rates: the learning rate and the decay of its winner.
        settings: the winner's values of the searched knobs.
        won: the share of the searches that it won; None for a baseline, and in claims about settings.
        to_target: the cost until its baseline's median result; None in claims about settings.
    """

    row: Row
    knobs: tuple[Knob, ...]
    spent: Spent
    trials: tuple[Tried, ...]
    val: Band | None
    train_loss: Band | None
    numbers: Mapping[str, Band]
    after_trials: Curve | None
    after_epochs: Curve | None
    importances: Mapping[str, float]
    near: tuple[Near, ...]
    rates: Rates | None
    settings: Mapping[str, Scalar]
    won: Won | None
    to_target: ToTarget | None

    @property
    def drawn(self) -> tuple[Tried, ...]:
        """The trials that figures draw: of a long search, about ``MOST_DRAWN`` at equal steps, and the best setting."""
        step = -(-len(self.trials) // MOST_DRAWN)
        if step <= 1:
            return self.trials
        return tuple(t for index, t in enumerate(self.trials) if index % step == 0 or t.label == self.row.label)


@dataclass(frozen=True)
class Origin:
    """The software, the machine and the data of the job, and its spec. The fields are as in ``JobDescribed``."""

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
        board: the job's leaderboard.
        maximize: whether a larger objective is better.
        tolerance: the loss of the objective that sensitivity cards accept.
        epochs: number of epochs of a complete trial.
        gpus: number of GPUs per trial.
        simulated: whether the job is a simulation, which trains nothing.
        arms: the findings about each arm, the baseline first.
        statements: the sentences of the report.
        origin: the software, the machine and the data of the job, and its spec.
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
        """The readable name of the objective."""
        return self.board.measured.choose_label

    @property
    def unit(self) -> str:
        """The unit of the training cost."""
        return "GPU-seconds" if self.gpus else "seconds"

    @property
    def factor(self) -> float:
        """The factor that converts seconds of training to ``unit``."""
        return self.gpus or 1.0

    def to_dict(self) -> dict[str, Any]:
        """The findings as plain values that JSON can hold. An infinite number or NaN becomes None."""
        values: dict[str, Any] = _plain(dataclasses.asdict(self) | {"board": self.board.to_dict()})
        for arm in values["arms"]:
            del arm["row"]["measured"]
            if not self.board.measured.own:
                del arm["numbers"]
        return values


def findings(record: Record, spec: SearchSpec, board: Leaderboard) -> Findings:
    """The findings of a job. The job need not be finished."""
    found = _Finder(record, spec)
    rows = {row.arm: row for row in board.rows}
    job = record.job
    return Findings(
        board=board,
        maximize=found.maximize,
        tolerance=found.tolerance,
        epochs=spec.budget.epochs,
        gpus=spec.resources.gpus,
        simulated=record.simulated,
        arms=tuple(found.arm(arm, rows[arm.name], rows[rows[arm.name].baseline], board.round) for arm in found.arms),
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
        self._variants = {arm.name: arm.variant for arm in record.job.arms}
        self._key = spec.metric.key
        self.maximize = spec.metric.maximize
        self.arms = recorded_arms(spec, self._plan, record.job.ranges)
        self.tolerance = self._tolerated() if spec.metric.own else TOLERANCE[self._key]
        self._few = self._few_numbers() if spec.metric.own else ()

    def _tolerated(self) -> float:
        """The loss that a sensitivity card accepts. It grows and shrinks with the metric, whatever its size."""
        values = [self._value(trial) for trial in self._record.of(Stage.SEARCH) if trial.state == State.COMPLETE]
        if not values:
            return 0.0
        best = max(values) if self.maximize else min(values)
        return TOLERATED * abs(statistics.median(values) - best)

    def _few_numbers(self) -> tuple[str, ...]:
        """The names of the other numbers in the reports of confirm runs, if they are few."""
        names = dict.fromkeys(
            name for run in self._record.of(Stage.CONFIRM) for report in run.epochs[-1:] for name in report.numbers()
        )
        others = tuple(name for name in names if name != self._key)
        return others if len(others) <= FEW_NUMBERS else ()

    def arm(self, arm: Arm, row: Row, baseline: Row, round_number: int) -> ArmFindings:
        searched = self._record.of(Stage.SEARCH, arm.name)
        confirmed = self._confirmed(arm.name, round_number)
        complete = [trial for trial in searched if trial.state == State.COMPLETE]
        winner = self._record.trials[search_key(arm.name, row.search, row.winner)] if row.winner is not None else None
        after_trials, after_epochs = self._anytime(searched)
        return ArmFindings(
            row=row,
            knobs=tuple(Knob.of(knob, domain, arm.searched(knob)) for knob, domain in arm.space.items()),
            spent=spent(searched, confirmed),
            trials=tuple(self._tried(trial) for trial in searched),
            val=self._band(confirmed, self._key),
            train_loss=None if self._spec.own_trainable else self._band(confirmed, "train_loss"),
            numbers={name: band for name in self._few if (band := self._band(confirmed, name)) is not None},
            after_trials=after_trials,
            after_epochs=after_epochs,
            importances=self._importances(arm, complete),
            near=() if winner is None else self._near(arm, winner, complete),
            rates=None if winner is None or self._spec.own_trainable else self._rates(winner),
            settings={} if winner is None else self._settings(arm, winner),
            won=Won.over(row.tests, baseline.tests, self._spec.metric.judge_maximize)
            if self._spec.searches and row.arm != baseline.arm
            else None,
            to_target=self._to_target(arm.name, baseline.arm) if self._spec.searches else None,
        )

    def _band(self, confirmed: Sequence[Trial], key: str) -> Band | None:
        return _band(confirmed, key, None if self._spec.own_trainable else self._plan.epochs)

    def _settings(self, arm: Arm, winner: Trial) -> Mapping[str, Scalar]:
        """The winner's searched knobs that apply to it; of a class of the user's choice, all its arguments."""
        searched = {knob: winner.hyper[knob] for knob in arm.applying(winner.hyper)}
        return searched if arm.variant in VARIANTS else {**searched, **winner.hyper}

    def _to_target(self, arm: str, baseline: str) -> ToTarget | None:
        goal = target(self._searches(baseline), self._key, self.maximize)
        return None if goal is None else to_target(self._searches(arm), goal, self._key, self.maximize)

    def _searches(self, arm: str) -> list[list[Trial]]:
        """The trials of each search of an arm that has ended."""
        trials = self._record.of(Stage.SEARCH, arm)
        ended = sorted({t.search for t in trials if search_has_ended(self._record, self._spec, arm, t.search)})
        return [[trial for trial in trials if trial.search == search] for search in ended]

    def _confirmed(self, arm: str, round_number: int) -> list[Trial]:
        """The confirm runs behind the verdict: of the last round, or of all searches."""
        if self._spec.searches:
            return self._record.of(Stage.CONFIRM, arm, round_number=0)
        return self._record.of(Stage.CONFIRM, arm, round_number=round_number) if round_number else []

    def _value(self, trial: Trial) -> float:
        return trial.epochs[-1].metric(self._key)

    def _tried(self, trial: Trial) -> Tried:
        curve = tuple(_finite(epoch.metric(self._key)) for epoch in trial.epochs)
        lost = trial.state in LOST or not curve
        return Tried(trial.label, str(trial.state), trial.knobs, None if lost else curve[-1], curve)

    def _anytime(self, searched: Sequence[Trial]) -> tuple[Curve | None, Curve | None]:
        """The anytime curves by trials and by epochs. A trial without a result counts with the worst result."""
        ended = [trial for trial in searched if trial.state != State.RUNNING and trial.epochs]
        results = [self._value(trial) for trial in ended if trial.state not in LOST]
        if len(results) < 2:
            return None, None
        worst = min(results) if self.maximize else max(results)
        values = [worst if trial.state in LOST else self._value(trial) for trial in ended]
        seed = derive_seed(self._spec.seed, "anytime")
        epochs = [len(trial.epochs) for trial in ended]
        if self._spec.searches:
            searches = sorted({trial.search for trial in ended})
            of = [[index for index, trial in enumerate(ended) if trial.search == search] for search in searches]
            by_search, cost = ([[each[i] for i in indices] for indices in of] for each in (values, epochs))
            ones = [[1.0] * len(indices) for indices in of]
            return (
                over_searches(by_search, ones, self.maximize, seed),
                over_searches(by_search, cost, self.maximize, seed),
            )
        return by_trials(values, self.maximize, seed), by_epochs(values, epochs, self.maximize, seed)

    def _importances(self, arm: Arm, complete: Sequence[Trial]) -> Mapping[str, float]:
        from tuner.search.importance import importances

        return importances(arm, [(trial.knobs, self._value(trial)) for trial in complete], self.maximize)

    def _near(self, arm: Arm, winner: Trial, complete: Sequence[Trial]) -> tuple[Near, ...]:
        trials = [(trial.knobs, self._value(trial)) for trial in complete]
        return near_best(arm.space, winner.knobs, trials, self._value(winner), self.tolerance, self.maximize)

    def _rates(self, winner: Trial) -> Rates:
        schedule = schedule_of(self._record, self._spec, winner)
        last = 1 / (self._plan if schedule is None else schedule.plan).steps_per_epoch
        # The decay of a class of the user's choice is one of its arguments, which its settings show.
        decays = self._variants[winner.arm] in VARIANTS
        reported = [
            (report.epoch - last, report.lr, report.weight_decay if decays else 0.0)
            for report in winner.epochs
            if isinstance(report, EpochReport)
        ]
        # A schedule of the user's is not imported here: the line goes through what the trial reported.
        planned = reported
        if schedule is not None:
            every = max(1, schedule.plan.updates // SCHEDULE_POINTS)
            planned = [(point.epoch, point.lr, point.weight_decay) for point in points(schedule, every)]
        columns = [*zip(*planned, strict=True), *zip(*reported, strict=True)]
        return Rates(*(tuple(map(rounded, column)) for column in columns))


def rounded(value: float) -> float:
    """The value with six significant digits. More digits would only make the page larger."""
    return float(f"{value:.6g}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _finite(value: float) -> float | None:
    return rounded(value) if abs(value) < float("inf") else None


def _band(confirmed: Sequence[Trial], key: str, epochs: int | None) -> Band | None:
    """The band of a number over the confirm runs with a result.

    Args:
        confirmed: the confirm runs.
        key: the number's name in a report.
        epochs: length of a whole run; None for the user's trainables, which may end early: the shortest run counts.
    """
    whole = [
        trial
        for trial in confirmed
        if trial.state == State.COMPLETE and len(trial.epochs) == (epochs or len(trial.epochs))
    ]
    curves = [[report.numbers().get(key, math.nan) for report in trial.epochs] for trial in whole]
    by_epoch = list(zip(*curves, strict=epochs is not None))
    if not by_epoch or (epochs is None and not all(math.isfinite(value) for values in by_epoch for value in values)):
        return None
    sd = tuple(rounded(statistics.stdev(values)) if len(values) > 1 else 0.0 for values in by_epoch)
    return Band(len(whole), tuple(rounded(statistics.fmean(values)) for values in by_epoch), sd)
