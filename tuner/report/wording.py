"""The sentences of a report, without markup. Each format of the report adds its own markup."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainables.catalog import MODELS
from tuner.jobs.record import Record
from tuner.report.training_cost import Spent
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import Stage
from tuner.verdict.leaderboard import Leaderboard, Row


@dataclass(frozen=True)
class Statements:
    """A report's sentences.

    Args:
        headline: the result of the job.
        simulated: a note that the job is a simulation; empty for a real job.
        reading: how to read the verdicts; empty before the first verdict.
        conditions: the conditions of the search.
        provenance: the software, the machine and the data of the job.
        reproduce: the command line that trains the best setting again; empty for a simulation.
    """

    headline: str
    simulated: str
    reading: str
    conditions: tuple[str, ...]
    provenance: tuple[str, ...]
    reproduce: str


def statements(record: Record, spec: SearchSpec, board: Leaderboard) -> Statements:
    """The sentences about a job. The job need not be finished."""
    again = f"tuner export {record.name} --best -o best.yaml && tuner reproduce best.yaml"
    made_up = "Simulated: nothing was trained, and every number below is made up."
    return Statements(
        headline=_headline(board),
        simulated=made_up if record.simulated else "",
        reading=_reading(board) if board.round else "",
        conditions=tuple(_conditions(spec)),
        provenance=tuple(_provenance(record)),
        reproduce="" if record.simulated else again,
    )


def _headline(board: Leaderboard) -> str:
    if board.round == 0:
        return f"State: {board.state}. No round of confirm runs has finished, so there is no verdict yet."
    if board.beaten:
        return f"{', '.join(board.beaten)} beat{'s' if len(board.beaten) == 1 else ''} {board.baseline}."
    return f"No variant is shown to beat {board.baseline}."


def _reading(board: Leaderboard) -> str:
    return (
        f"Test accuracy is the mean ± sd over {len(board.seeds)} fresh training seeds "
        f"({board.seeds[0]} to {board.seeds[-1]}) of round {board.round}. All arms use the same seeds. Each run reads "
        f"the test accuracy once, after the last epoch. ± in the verdict is the unadjusted 95 % interval of the "
        f"seed-wise difference to {board.baseline}. The interval covers other training seeds on this test set, but not "
        f"other test images. p is Holm-adjusted over {len(board.rows) - 1} variants. The margin for a tie is "
        f"±{board.margin:g} points. The winners were chosen by {board.metric}. Epochs and seconds are totals of the "
        f"search; they include pruned and failed trials."
    )


def _conditions(spec: SearchSpec) -> Iterator[str]:
    data, model, budget, confirm = spec.data, spec.model, spec.budget, spec.confirm
    net = f"{model.name}, width {model.width:g}, set-up {model.setup}" if model.name in MODELS else model.name
    best = (
        f", the best {confirm.top_k} settings compared on {confirm.selection_seeds} seeds" if confirm.top_k > 1 else ""
    )
    pruning = "no pruning"
    if spec.scheduler.name != "none":
        kept = f"1 in {spec.scheduler.reduction_factor} trials continues"
        pruning = f"{spec.scheduler.name} from epoch {spec.first_rung}, {kept}"
    yield f"{net}; data {data.name}, augmentation {data.augment}, {spec.resources.precision}, seed {spec.seed}"
    yield f"{budget.trials} trials per arm, {budget.epochs} epochs, batches of {budget.batch_size}{best}"
    yield f"sampler {spec.sampler.name}, first trial at the variant's default; {pruning}"
    for arm in spec.arms:
        if arm.fixed or arm.parameters:
            own = {**arm.fixed, **{knob: r.model_dump(exclude_none=True) for knob, r in arm.parameters.items()}}
            yield f"settings of {arm.name} only: {_pairs(own)}"


def _provenance(record: Record) -> Iterator[str]:
    job = record.job
    images = ", ".join(f"{count} {split}" for split, count in vars(job.data_images).items())
    yield f"job {record.name}, git commit {job.git_commit}"
    yield f"data {record.spec.data.name} ({images}; fingerprint {job.data_fingerprint[:16]}…)"
    yield _pairs(job.versions)
    yield f"{_pairs(job.machine)}, {job.concurrent} trials at once"
    devices = {trial.result.device for trial in record.of(Stage.CONFIRM) if trial.result is not None}
    for device in sorted(devices):
        yield f"confirm runs on {device}"


def val_text(row: Row) -> str:
    """The winner's validation metric; a dash if there is no winner."""
    return "–" if row.val is None else f"{row.val:.4f}"


def test_text(row: Row) -> str:
    """Mean ± standard deviation of the test accuracy, in percent; a dash if there is none."""
    if row.test_mean is None:
        return "–"
    return f"{row.test_mean:.2f}" + (f" ± {row.test_sd:.2f}" if row.test_sd is not None else "")


def trials_text(row: Row) -> str:
    """The number of started trials, and the numbers of pruned, diverged and failed trials among them."""
    parts = {"pruned": row.pruned, "diverged": row.diverged, "failed": row.failed}
    rest = ", ".join(f"{count} {name}" for name, count in parts.items() if count)
    return f"{row.trials}" + (f" ({rest})" if rest else "")


def spent_text(spent: Spent, factor: float) -> str:
    """The useful, pruned and failed seconds of the search, each multiplied by ``factor``."""
    return " / ".join(f"{factor * seconds:.0f}" for seconds in (spent.useful, spent.pruned, spent.failed))


def tolerance_text(tolerance: float, maximize: bool) -> str:
    """A loss of the objective with its unit: points of accuracy, or nats."""
    return f"{100 * tolerance:g} point{'' if tolerance == 0.01 else 's'}" if maximize else f"{tolerance:g} nats"


def percent(share: float | None) -> str:
    """A share in percent; a dash if there is none."""
    return "–" if share is None else f"{100 * share:.0f} %"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
