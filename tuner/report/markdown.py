"""The report in Markdown: verdict first, then what it rests on. Also MLflow's description of the parent run."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from trainables.catalog import MODELS
from tuner.leaderboard import Leaderboard, Row, verdict_text
from tuner.record import Record, Stage
from tuner.spec import SearchSpec


def markdown(record: Record, spec: SearchSpec, board: Leaderboard) -> str:
    """The report of a job, finished or not."""
    parts = (
        _head(board),
        _simulated(record),
        _table(board),
        _notes(board),
        _settings(record, board),
        _conditions(spec),
        _origin(record),
    )
    return "\n".join(itertools.chain.from_iterable(parts))


def _head(board: Leaderboard) -> Iterator[str]:
    yield f"# {board.job}"
    yield ""
    if board.round == 0:
        yield f"State: {board.state}. No confirm run has finished: there is no verdict yet."
    elif board.beaten:
        yield f"**{', '.join(board.beaten)}** beat{'s' if len(board.beaten) == 1 else ''} {board.baseline}."
    else:
        yield f"No variant is shown to beat {board.baseline}."
    yield ""


def _simulated(record: Record) -> Iterator[str]:
    if record.simulated:
        yield "**Simulated**: nothing was trained, and every number below is made up."
        yield ""


def _table(board: Leaderboard) -> Iterator[str]:
    yield f"| arm | {board.metric} | test % | verdict | trials | epochs | seconds |"
    yield "|---|---|---|---|---|---|---|"
    for row in board.rows:
        cells = (row.arm, val_text(row), test_text(row), verdict_text(row, board.baseline), trials_text(row))
        yield f"| {' | '.join(cells)} | {row.epochs} | {row.seconds:.0f} |"
    yield ""


def _notes(board: Leaderboard) -> Iterator[str]:
    if board.round:
        yield (
            f"Test accuracy is the mean ± sd over {len(board.seeds)} fresh training seeds "
            f"({board.seeds[0]} to {board.seeds[-1]}), the same for all arms, round {board.round}; it was read once, "
            f"after the last epoch. ± in the verdict is the unadjusted 95 % interval of the seed-wise difference to "
            f"{board.baseline}: it covers training seeds on this test set, not other test images. p is Holm-adjusted "
            f"over {len(board.rows) - 1} variants. Margin for a tie: ±{board.margin:g} points. Winners were chosen by "
            f"{board.metric}; epochs and seconds are the search's, pruned and failed trials included."
        )
        yield ""
    for warning in board.warnings:
        yield f"- Warning: {warning}."
    if board.warnings:
        yield ""


def _settings(record: Record, board: Leaderboard) -> Iterator[str]:
    yield "## Winning settings"
    yield ""
    for row in board.rows:
        if row.winner is None:
            continue
        winner = record.trials[f"{Stage.SEARCH}/{row.arm}/{row.winner}"]
        searched = next(arm["space"] for arm in record.job["arms"] if arm["name"] == row.arm)
        knobs = ", ".join(f"{knob} {_short(winner.hyper[knob])}" for knob in searched)
        yield f"- **{row.arm}** (trial {row.winner}): {knobs}"
    yield ""


def _conditions(spec: SearchSpec) -> Iterator[str]:
    data, model, budget, confirm = spec.data, spec.model, spec.budget, spec.confirm
    net = f"{model.name}, width {model.width:g}, set-up {model.setup}" if model.name in MODELS else model.name
    best = f", the best {confirm.top_k} compared on {confirm.selection_seeds} seeds" if confirm.top_k > 1 else ""
    pruning = "no pruning"
    if spec.scheduler.name != "none":
        pruning = f"{spec.scheduler.name} from epoch {spec.first_rung}, 1 in {spec.scheduler.reduction_factor} goes on"
    yield "## How it was searched"
    yield ""
    yield f"- {net}; data {data.name}, augmentation {data.augment}, {spec.resources.precision}, seed {spec.seed}"
    yield f"- {budget.trials} trials an arm, {budget.epochs} epochs, batches of {budget.batch_size}{best}"
    yield f"- sampler {spec.sampler.name}, first trial at the variant's default; {pruning}"
    for arm in spec.arms:
        if arm.fixed or arm.parameters:
            own = {**arm.fixed, **{knob: r.model_dump(exclude_none=True) for knob, r in arm.parameters.items()}}
            yield f"- {arm.name} has of its own: {_pairs(own)}"
    yield ""


def _origin(record: Record) -> Iterator[str]:
    job = record.job
    yield "## Where it comes from"
    yield ""
    yield f"- job {record.name}, data {job['spec']['data']['name']} ({_counts(job['data_images'])}; fingerprint "
    yield f"  {job['data_fingerprint'][:16]}…), git commit {job['git_commit']}"
    yield f"- {_pairs(job['versions'])}"
    yield f"- {_pairs(job['machine'])}, {job['concurrent']} trials at once"
    devices = {trial.result["device"] for trial in record.of(Stage.CONFIRM) if "device" in trial.result}
    for device in sorted(devices):
        yield f"- confirm runs on {device}"
    yield f"- reproduce: `tuner export {record.name} --best -o best.yaml && tuner reproduce best.yaml`"
    yield ""


def val_text(row: Row) -> str:
    """The winner's validation metric."""
    return "–" if row.val is None else f"{row.val:.4f}"


def test_text(row: Row) -> str:
    """Mean ± sd of test accuracy in percent."""
    if row.test_mean is None:
        return "–"
    return f"{row.test_mean:.2f}" + (f" ± {row.test_sd:.2f}" if row.test_sd is not None else "")


def trials_text(row: Row) -> str:
    """Started trials and what became of those that did not complete."""
    parts = {"pruned": row.pruned, "diverged": row.diverged, "failed": row.failed}
    rest = ", ".join(f"{count} {name}" for name, count in parts.items() if count)
    return f"{row.trials}" + (f" ({rest})" if rest else "")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _counts(images: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in images.items())


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
