"""The sentences of a report, without markup. Each format of the report adds its own markup."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainables.catalog import MODELS
from tuner.export.export_file import must_allow_code
from tuner.jobs.record import Record
from tuner.report.training_cost import Spent
from tuner.search.winners import confirm_values
from tuner.spec.experiment import MetricSpec
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import Stage
from tuner.verdict.leaderboard import Leaderboard, Row
from tuner.verdict.numbers import choose_name, margin_text, mean_text, value_text


@dataclass(frozen=True)
class Statements:
    """A report's sentences.

    Args:
        headline: the result of the job.
        simulated: a note that the job is a simulation; empty for a real job.
        reading: how to read the verdicts; empty before the first verdict.
        evidence: how the best setting did on fresh seeds, if the verdict does not rest on it; else empty.
        conditions: the conditions of the search.
        provenance: the software, the machine and the data of the job.
        reproduce: the command line that trains the best setting again; empty for a simulation.
    """

    headline: str
    simulated: str
    reading: str
    evidence: str
    conditions: tuple[str, ...]
    provenance: tuple[str, ...]
    reproduce: str


def statements(record: Record, spec: SearchSpec, board: Leaderboard) -> Statements:
    """The sentences about a job. The job need not be finished."""
    allowed = " --allow-code" if must_allow_code(spec) else ""
    again = f"tuner export {record.name} --best -o best.yaml && tuner reproduce best.yaml{allowed}"
    made_up = "Simulated: nothing was trained, and every number below is made up."
    return Statements(
        headline=_headline(board),
        simulated=made_up if record.simulated else "",
        reading=_reading(board, record) if board.judged else "",
        evidence=_evidence(record, board) if board.claim == "method" and board.round else "",
        conditions=(*_conditions(spec), *_extensions(record)),
        provenance=tuple(_provenance(record)),
        reproduce="" if record.simulated else again,
    )


def searches_text(metric: MetricSpec) -> str:
    """How to read the table of searches."""
    better = "above" if metric.judge_maximize else "below"
    return (
        f"Won: searches in which the {metric.judge_label} of an arm was {better} that of its baseline, with a 95 % "
        f"interval of the share for this look alone. Target: the median {choose_name(metric)} of the baseline's "
        "searches. The cost is the median over the searches that reach it."
    )


def claim_text(board: Leaderboard) -> str:
    """What the verdicts of a leaderboard are about, and how far they are, in a few words."""
    if board.claim == "method":
        looks = board.looks
        return "claim about methods" + (f", look {len(looks)} after {looks[-1]} searches per arm" if looks else "")
    # No round is named: the verdict rests on the first one, and later ones are estimates.
    return "claim about one setting per arm"


def _headline(board: Leaderboard) -> str:
    if not board.judged:
        first = "There was no look" if board.claim == "method" else "No round of confirm runs has finished"
        return f"State: {board.state}. {first}, so there is no verdict yet."
    beaten: dict[str, list[str]] = {
        row.baseline: [] for row in board.rows if row.arm not in (row.baseline, board.placebo)
    }
    for row in board.rows:
        if row.arm in board.beaten:
            beaten[row.baseline].append(row.arm)
    return " ".join(_outcome(arms, baseline, board) for baseline, arms in beaten.items())


def _outcome(arms: Sequence[str], baseline: str, board: Leaderboard) -> str:
    """The headline of one question: which arms beat their baseline."""
    if not arms:
        return f"No variant is shown to beat {baseline}."
    verb = f"beat{'s' if len(arms) == 1 else ''}"
    if board.claim == "method":
        return f"{_listed(arms)} {verb} {baseline}."
    settings = "best setting" if len(arms) == 1 else "best settings"
    return f"The {settings} of {_listed(arms)} {verb} the best setting of {baseline}."


def _reading(board: Leaderboard, record: Record) -> str:
    text = _reading_of_method(board, record) if board.claim == "method" else _reading_of_settings(board, record)
    return f"{text} {own}" if (own := _reading_of_own(board.measured)) else text


def _reading_of_settings(board: Leaderboard, record: Record) -> str:
    metric = board.measured
    judged = _first_word_big(metric)
    once = "reads the test accuracy once, after the last epoch" if not metric.own else "counts with its last report"
    images = "on this test set, but not other test images" if not metric.own else "on the same data, but not other data"
    return (
        f"The claim is about these settings of the arms: another search would find others. {judged} is the mean ± "
        f"sd over {len(board.seeds)} fresh training seeds. All arms use the same seeds. Each run {once}. "
        f"± in the verdict is the 95 % interval of the seed-wise difference to "
        f"{board.baseline}, for all variants together. It covers other training seeds {images}. "
        f"p is Holm-adjusted over {len(board.rows) - 1} variants. The margin for a tie is "
        f"{margin_text(metric, board.margin)}. The winners were chosen by {board.metric}. Epochs and seconds "
        "are totals of the search; they include pruned and failed trials."
    )


def _reading_of_method(board: Leaderboard, record: Record) -> str:
    metric = board.measured
    once = (
        "read the test accuracy once, after the last epoch" if not metric.own else "counts with its last report there"
    )
    shared = "All arms of a search share the data's split and all seeds."
    held = f"on these {record.job.data_images.test} test images; other images have other luck"
    if metric.own:
        shared = "All arms of a search share all seeds."
        held = f"on the data that gives {metric.judged}; other data has other luck"
    return (
        "The claim is about methods: every arm was searched again and again, and a unit of the verdict is a search. "
        f"{_first_word_big(metric)} is the mean ± sd over the searches of an arm; each trained its winner on fresh "
        f"seeds and {once}. {shared} The "
        f"verdict was computed after {_listed(board.looks)} searches per arm; an arm that is settled is not searched "
        "again. The chance of any false 'beats' or 'loses' over all looks and variants is at most 5 %; a tie has a 5 % "
        "chance of its own for each variant. ± in the verdict is an interval that holds at all looks and for all "
        f"variants together. An early 'beats' overstates the gain. The margin for a tie is "
        f"{margin_text(metric, board.margin)}. The verdict holds {held}. Epochs and seconds are "
        "totals of all searches; they include pruned and failed trials."
    )


def _reading_of_own(metric: MetricSpec) -> str:
    """What to know about a metric of the user's; empty for accuracies."""
    if not metric.own:
        return ""
    found = []
    if not metric.judge_maximize:
        found.append(f"A lower {metric.judged} is better, so a positive gain is a lower {metric.judged}.")
    if metric.judged == metric.key:
        found.append(f"There is no judge metric: {metric.key}, which chose the winners, judges them on fresh seeds.")
    return " ".join(found)


def _first_word_big(metric: MetricSpec) -> str:
    return metric.judged if metric.own else "Test accuracy"


def _evidence(record: Record, board: Leaderboard) -> str:
    row = next(row for row in board.rows if row.arm == board.best())
    values = list(confirm_values(record, row.arm, board.round).values())
    metric = board.measured
    # What stands in for the values of a user's runs that all diverged says nothing about the setting.
    if not values or (metric.own and not row.confirmed):
        return ""
    percent = " %" if metric.in_points else ""
    split = "" if metric.own else ", on one common split"
    return (
        f"The best setting is trial {row.label} of {row.arm}: {metric.judge_label} {mean_text(metric, values)}"
        f"{percent} (mean ± sd) over {len(values)} fresh seeds. It was chosen from the winners of the searches by "
        f"{board.metric}{split}. This says how good the setting is, and not how good the method is."
    )


def _listed(things: Sequence[object]) -> str:
    *first, last = map(str, things)
    return f"{', '.join(first)} and {last}" if first else last


def _extensions(record: Record) -> Iterator[str]:
    for more in record.extensions:
        after = f"after look {more.look}" if more.look else "before the first look"
        yield f"extended {after}: searched further although its time was spent, or its arms were given up"


def _conditions(spec: SearchSpec) -> Iterator[str]:
    data, model, budget, confirm = spec.data, spec.model, spec.budget, spec.confirm
    net = f"{model.name}, width {model.width:g}, set-up {model.setup}" if model.name in MODELS else model.name
    best = ""
    if confirm.top_k > 1:
        which = f"the best {confirm.top_k} settings"
        if spec.searches:
            which = f"the winners of the best arm's {confirm.top_k} best searches"
        best = f", {which} compared on {confirm.selection_seeds} seeds"
    pruning = "no pruning"
    if spec.scheduler.name != "none":
        kept = f"1 in {spec.scheduler.reduction_factor} trials continues"
        pruning = f"{spec.scheduler.name} from epoch {spec.first_rung}, {kept}"
    if spec.own_trainable:
        passed = f", with {_listed(spec.passed)}" if spec.passed else ""
        yield f"the user's trainables get their config{passed}; seed {spec.seed}"
        yield _measured(spec.metric)
    else:
        yield f"{net}; data {data.name}, augmentation {data.augment}, {spec.resources.precision}, seed {spec.seed}"
    if searches := spec.searches:
        seeds = f"{searches.confirm_seeds} confirm seed{'s' if searches.confirm_seeds > 1 else ''} for each winner"
        yield f"at most {searches.most} searches per arm, looks at {_listed(searches.at)}, {seeds}"
    search = "search" if spec.searches else "arm"
    length = f"{budget.epochs} epochs, batches of {budget.batch_size}"
    if spec.own_trainable:
        length = f"at most {budget.epochs} epochs; an epoch is one report"
    yield f"{budget.trials} trials per {search}, {length}{best}"
    first = "the variant's default" if all(arm.kind == "variant" for arm in spec.arms) else "the arm's default"
    listed = ", or at the settings that the arm lists as first" if any(arm.first for arm in spec.arms) else ""
    yield f"sampler {spec.sampler.name}, first trial at {first}{listed}; {pruning}"
    for arm in spec.arms:
        if arm.kind != "variant":
            groups = f", parameter groups {arm.groups}" if arm.groups else ""
            fixed = f"; fixed: {_pairs(arm.fixed)}" if arm.fixed else ""
            yield f"{arm.name} is the {arm.kind} {arm.code}{groups}{fixed}"
        elif arm.fixed or arm.parameters:
            own = {**arm.fixed, **{knob: r.model_dump(exclude_none=True) for knob, r in arm.parameters.items()}}
            yield f"settings of {arm.name} only: {_pairs(own)}"


def _measured(metric: MetricSpec) -> str:
    """The metrics of the user's trainables, and their direction."""
    better = "higher" if metric.maximize else "lower"
    unit = ", shown x 100 as points" if metric.in_points else ""
    if metric.judged == metric.key:
        return f"{metric.key} chooses the settings, and judges them on fresh seeds; {better} is better{unit}"
    judge = "higher" if metric.judge_maximize else "lower"
    both = better if judge == better else f"{better} {metric.key} and {judge} {metric.judged}"
    what = "is better" if judge == better else "are better"
    return f"{metric.key} chooses the settings, {metric.judged} judges them; {both} {what}{unit}"


def _provenance(record: Record) -> Iterator[str]:
    job = record.job
    images = ", ".join(f"{count} {split}" for split, count in vars(job.data_images).items())
    yield f"job {record.name}, git commit {job.git_commit}"
    if not record.spec.own_trainable:
        yield f"data {record.spec.data.name} ({images}; fingerprint {job.data_fingerprint[:16]}…)"
    yield _pairs(job.versions)
    yield f"{_pairs(job.machine)}, {job.concurrent} trials at once"
    devices = {trial.result.device for trial in record.of(Stage.CONFIRM) if trial.result is not None}
    for device in sorted(devices):
        yield f"confirm runs on {device}"


def val_text(row: Row) -> str:
    """The winner's validation metric; a dash if there is no winner."""
    return "–" if row.val is None else value_text(row.val)


def test_text(row: Row) -> str:
    """Mean ± standard deviation of the judged values, accuracies in percent; a dash if there are none."""
    return row.test_text


def trials_text(row: Row) -> str:
    """The number of started trials, and the numbers of pruned, diverged and failed trials among them."""
    parts = {"pruned": row.pruned, "diverged": row.diverged, "failed": row.failed}
    rest = ", ".join(f"{count} {name}" for name, count in parts.items() if count)
    return f"{row.trials}" + (f" ({rest})" if rest else "")


def spent_text(spent: Spent, factor: float) -> str:
    """The useful, pruned and failed seconds of the search, each multiplied by ``factor``."""
    return " / ".join(f"{factor * seconds:.0f}" for seconds in (spent.useful, spent.pruned, spent.failed))


def tolerance_text(tolerance: float, metric: MetricSpec) -> str:
    """A loss of the objective with its unit: points of accuracy, nats, or the unit of the user's metric."""
    if metric.own:
        return f"{tolerance:.2g}"
    return f"{100 * tolerance:g} point{'' if tolerance == 0.01 else 's'}" if metric.maximize else f"{tolerance:g} nats"


def percent(share: float | None) -> str:
    """A share in percent; a dash if there is none."""
    return "–" if share is None else f"{100 * share:.0f} %"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
