"""Commands about a spec: init, schema, validate, plan, schedule."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tuner.cli.output import data_option, home_option, output_option, print_json, print_table

if TYPE_CHECKING:
    from trainables.space import Scalar
    from tuner.driver.cost import Cost
    from tuner.jobs.code_archive import CodeFiles
    from tuner.spec.arms import Arm
    from tuner.spec.checks import Checked
    from tuner.spec.search_spec import SearchSpec

STEPS = 100
"""Updates per epoch of a trial for which ranges are shown, if only reading the data tells their number."""


@click.command(
    epilog="""\b
Examples:
  tuner init my-search.yaml
  tuner init --kind optimizer        search.yaml, and my_optimizer.py beside it
"""
)
@click.argument("file", type=click.Path(path_type=Path), default="search.yaml")
@click.option(
    "--kind",
    type=click.Choice(["search", "optimizer", "trainable", "model"]),
    default="search",
    show_default=True,
    help="search: all options of a spec. The others: a short spec and your own code, which both run.",
)
@click.option("--force", is_flag=True, help="Overwrite existing files.")
def init(file: Path, kind: str, force: bool) -> None:
    """Write a commented starter spec to FILE [search.yaml] and, if you ask for one, the Python file that it names."""
    import shlex

    from tuner.control.starter_files import write_starter

    written = " and ".join(map(str, write_starter(file, kind, force)))
    click.echo(f"wrote {written}; next: tuner plan {shlex.quote(str(file))}", err=True)


@click.command(epilog="Example: tuner schema > tuner.schema.json")
def schema() -> None:
    """Print the JSON Schema of a spec, for editors."""
    from tuner.spec.json_schema import json_schema

    print_json(json_schema())


@click.command(epilog="Example: tuner validate searches/quickstart.yaml -o json")
@click.argument("spec", type=click.Path(path_type=Path))
@data_option
@output_option
def validate(spec: Path, data_path: str | None, output: str) -> None:
    """Check SPEC, and report any problem with its place in the file."""
    checked, _ = _checked(spec, data_path, timed=False)
    if output == "json":
        print_json({"valid": True, "name": checked.spec.name, "warnings": checked.warnings})
        return
    _show_warnings(checked)
    click.echo(f"{spec}: valid, {checked.spec.arm_count} arms, {_trials(checked.spec)}")
    if checked.spec.resources.auto:
        from tuner.execution.gpu_packing import expected

        click.echo(f"resources: auto: {expected(checked.spec)}")


def _trials(spec: "SearchSpec") -> str:
    trials = spec.budget.trials
    return (
        f"{trials} trials per search, searches up to {spec.searches.most}"
        if spec.searches
        else f"{trials} trials per arm"
    )


@click.command(epilog="Example: tuner plan searches/quickstart.yaml")
@click.argument("spec", type=click.Path(path_type=Path))
@data_option
@click.option("--measure/--no-measure", default=True, help="Time a few updates on this machine to estimate the cost.")
@click.option(
    "--spread",
    type=click.FloatRange(0, 100, min_open=True),
    metavar="POINTS",
    help="Standard deviation, from search to search, of the difference to the baseline: shows gains in points.",
)
@home_option
@output_option
def plan(
    spec: Path, data_path: str | None, measure: bool, spread: float | None, home: Path | None, output: str
) -> None:
    """Show what SPEC would run, where it would run, and the estimated cost."""
    from tuner.driver.cost import estimate
    from tuner.errors import NotFound
    from tuner.jobs.warm_start import check_earlier_jobs
    from tuner.jobs.workspace import Workspace

    checked, epoch_s = _checked(spec, data_path, timed=measure)
    try:
        check_earlier_jobs(Workspace.find(home), checked.spec)
    except NotFound as missing:
        # No error: the workspace of a cluster may have the job.
        checked = replace(checked, warnings=(*checked.warnings, str(missing)))
    cost = estimate(checked, epoch_s, spread)
    code = _code(checked.spec, spec)
    if output == "json":
        counts = {"problem": code} if isinstance(code, str) else code and code.counts()
        print_json(_plan_dict(checked, cost) | {"code": counts})
        return
    _show_warnings(checked)
    _print_plan(checked, cost)
    if code is not None:
        click.echo("on a cluster, or with a storage that is a Postgres:")
        for line in [code] if isinstance(code, str) else code.lines():
            click.echo(line)


@click.command(epilog="Example: tuner schedule noam --epochs 20 --steps-per-epoch 100 --set warmup=200 --plot noam.png")
@click.argument("variant")
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True, help="Epochs of the training.")
@click.option("--steps-per-epoch", type=click.IntRange(1), default=100, show_default=True, help="Updates per epoch.")
@click.option("--set", "knobs", multiple=True, metavar="KNOB=VALUE", help="Set a knob of the variant; may be repeated.")
@click.option(
    "--every",
    type=click.IntRange(1),
    metavar="N",
    help="Print every N-th update [table: about 40 rows; JSON: all updates].",
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the schedule to a .png, .svg or .pdf file instead.")
@output_option
def schedule(
    variant: str,
    epochs: int,
    steps_per_epoch: int,
    knobs: tuple[str, ...],
    every: int | None,
    plot: Path | None,
    output: str,
) -> None:
    """Print VARIANT's learning rate and weight decay at every update, exactly as training uses them."""
    from tuner.report.lr_schedule import draw, points, variant_schedule

    used = variant_schedule(variant, epochs, steps_per_epoch, dict(_knob(text) for text in knobs))
    if plot is not None:
        draw(used, variant, plot)
        click.echo(f"wrote {plot}", err=True)
        return
    total = used.plan.updates
    rows = points(used, every or (1 if output == "json" else max(1, total // 40)))
    if output == "json":
        print_json({"variant": variant, "updates": total, "points": [row._asdict() for row in rows]})
        return
    print_table(
        ("update>", "epoch>", "lr>", "weight_decay>", "weights times>"),
        [(str(r.update), f"{r.epoch:.2f}", f"{r.lr:.6g}", f"{r.weight_decay:.6g}", f"{r.shrink:.9g}") for r in rows],
    )


COMMANDS = (init, schema, validate, plan, schedule)


def _checked(spec: Path, data_path: str | None, timed: bool) -> "tuple[Checked, float | None]":
    """The spec, checked with the user's code; and the seconds per epoch of the baseline, if they can be measured."""
    from tuner.driver.code_check import inspect_code
    from tuner.driver.cost import images_of, is_timed_here, seconds_per_epoch
    from tuner.spec.checks import check
    from tuner.spec.search_spec import load
    from tuner.spec.user_code import code_folder, names_code, own_code

    def announce(line: str) -> None:
        click.echo(line, err=True)

    loaded = load(spec, data_path)
    folder = code_folder(loaded, spec.parent)
    own_code(loaded, folder)
    checked = check(loaded, announce, code=False)
    timed = timed and is_timed_here(loaded)
    epoch_s = inspect_code(checked, folder, announce, timed=timed)
    images = images_of(checked)
    if timed and epoch_s is None and images is not None and checked.plan is not None and not names_code(loaded):
        epoch_s = seconds_per_epoch(loaded, checked.arms[0], images, checked.plan)
    return checked, epoch_s


def _code(spec: "SearchSpec", file: Path) -> "CodeFiles | str | None":
    """The user's own code, as it would travel; or why it could not. A job of this machine sends nothing."""
    from tuner.errors import SpecError
    from tuner.jobs.code_archive import code_files
    from tuner.spec.user_code import code_folder, names_code

    try:
        return code_files(code_folder(spec, file.parent)) if names_code(spec) else None
    except SpecError as error:
        return str(error)


def _show_warnings(checked: "Checked") -> None:
    for warning in checked.warnings:
        click.echo(f"warning: {warning}", err=True)


def _knob(text: str) -> tuple[str, "Scalar"]:
    knob, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not KNOB=VALUE", param_hint="--set")
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    return knob, parsed


def _plan_dict(checked: "Checked", cost: "Cost") -> dict[str, Any]:
    import dataclasses

    return {
        "name": checked.spec.name,
        "images": None if checked.images is None else dataclasses.asdict(checked.images),
        "arms": [
            {
                "name": arm.name,
                "variant": arm.variant,
                "space": {knob: arm.searched(knob) for knob in arm.space},
                "fixed": arm.fixed,
            }
            for arm in _arms(checked)
        ],
        "cost": dataclasses.asdict(cost),
        "warnings": checked.warnings,
    }


def _arms(checked: "Checked") -> "tuple[Arm, ...]":
    """The arms; if only reading the data tells the length of a trial, those of some length."""
    from trainables.space import Plan
    from tuner.spec.arms import arms

    return checked.arms or arms(checked.spec, Plan(checked.spec.budget.epochs, STEPS))


def _print_plan(checked: "Checked", cost: "Cost") -> None:
    spec = checked.spec
    print_table(
        ("arm", "trains with", "searched", "fixed"),
        [
            (
                arm.name + (" (baseline)" if arm.name == spec.baseline else ""),
                arm.variant,
                "\n".join(f"{knob}: {arm.searched(knob)}" for knob in arm.space),
                ", ".join(f"{knob} {value}" for knob, value in arm.fixed.items()),
            )
            for arm in _arms(checked)
        ],
        title=spec.name,
    )
    if not checked.arms:
        click.echo(f"ranges:  as for {STEPS} updates per epoch, because only reading the data tells their number")
    if (images := checked.images) is not None:
        click.echo(f"images:  {images.train:,} training, {images.val:,} validation, {images.test:,} test")
    for line in cost.lines():
        click.echo(line)
