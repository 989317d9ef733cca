"""Trains an exported winner again, and compares the result with the recorded one."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from trainables.config import TrialConfig
from trainables.data.cache import load
from trainables.own.trial import OwnTrial
from trainables.report import Report
from trainables.training import process
from trainables.training.trainer import Training, device_name, digest
from tuner.errors import IntegrityError
from tuner.export.export_file import ConfirmRun, Export, check_allowed
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.provenance import versions
from tuner.jobs.workspace import Workspace
from tuner.spec.trial_config import check_fingerprint
from tuner.spec.user_code import import_from
from tuner.verdict.paired_test import prediction_interval

if TYPE_CHECKING:
    from tuner.export.reproduce_own import OwnReproduction

SAME_BITS_NEED = ("python", "torch", "numpy")
"""Packages whose versions must agree before the weights must be equal bit for bit."""


@dataclass(frozen=True)
class Reproduction:
    """The result of training again.

    Args:
        seed: the seed.
        test_acc: test accuracy in [0, 1].
        recorded: the recorded test accuracy of that seed; None for a fresh seed.
        low, high: interval in which the accuracy should lie, in [0, 1].
        same_bits: whether the weights equal the recorded ones bit for bit; None if that was not required.
        why_not_bits: why it was not required, or "".
    """

    seed: int
    test_acc: float
    recorded: float | None
    low: float
    high: float
    same_bits: bool | None
    why_not_bits: str

    @property
    def ok(self) -> bool:
        """Whether the result was reproduced."""
        return self.same_bits if self.same_bits is not None else self.low <= self.test_acc <= self.high

    def text(self) -> str:
        """The result as a sentence."""
        came_to = f"seed {self.seed}: test accuracy {100 * self.test_acc:.2f} %"
        was = "" if self.recorded is None else f" (recorded {100 * self.recorded:.2f} %)"
        if self.same_bits is not None:
            return (
                f"{came_to}{was}; weights {'equal' if self.same_bits else 'differ from'} the recorded ones bit for bit"
            )
        inside = "inside" if self.ok else "outside"
        return (
            f"{came_to}{was}; {inside} {100 * self.low:.2f} to {100 * self.high:.2f} %, the 99 % prediction interval "
            f"(equal bits were not asked for: {self.why_not_bits})"
        )


def reproduce(
    export: Export,
    workspace: Workspace,
    fresh_seed: int | None = None,
    data_path: str | None = None,
    allow_code: bool = False,
    on_epoch: Callable[[Report], None] = lambda report: None,
    job: JobFolder | None = None,
) -> "Reproduction | OwnReproduction":
    """Train one recorded confirm seed again, or a fresh one, and compare. The arguments are also those of ``start``.

    On the same device, thread count and versions, the weights must be equal bit for bit. Otherwise the test accuracy
    must lie in a 99 % prediction interval, which is never wider than 3 points: around the recorded accuracy of this
    seed, or around the mean of the recorded seeds if the seed is fresh. An own trainable is run again, and its judge
    metric is compared; see ``run_again``.

    Raises:
        IntegrityError: the data differs from the data of the search, or training diverged.
        SpecError: as ``check_allowed``.
    """
    seed = export.seeds[0] if fresh_seed is None else fresh_seed
    check_allowed(export, fresh_seed, allow_code)
    if export.metric is not None:
        from tuner.export.reproduce_own import run_again

        import_code(job)
        return run_again(export, export.metric, replace(OwnTrial.from_dict(export.trial), seed=seed), on_epoch)
    recorded = {run.seed: run for run in export.confirm_runs}
    training = start(export, replace(export.config, seed=seed), workspace, data_path, allow_code, job)
    for _ in range(training.config.epochs):
        report = training.run_epoch()
        on_epoch(report)
        if report.diverged:
            raise IntegrityError(f"not reproduced: {report.diverged} at epoch {report.epoch}")
    run = recorded.get(seed)
    known = None if run is None else run.test_acc
    low, high = prediction_interval([run.test_acc for run in export.confirm_runs], repeated=known)
    why_not = _why_not_bits(export, run, training)
    return Reproduction(
        seed=seed,
        test_acc=training.evaluate("test").acc,
        recorded=known,
        low=low,
        high=high,
        same_bits=None if why_not else digest(training.weights()) == recorded[seed].weights_sha256,
        why_not_bits=why_not,
    )


def start(
    export: Export,
    config: TrialConfig,
    workspace: Workspace,
    data_path: str | None,
    allow_code: bool,
    job: JobFolder | None = None,
) -> Training:
    """A training of an export's settings, on its data.

    Args:
        export: the winner.
        config: the trial to train.
        workspace: where decoded data is cached.
        data_path: where the data lies; by default, where the job read it.
        allow_code: import the code that the export names: from where the job did, else from the current folder.
        job: the folder of the job that the export is from, if it is on this machine.

    Raises:
        SpecError: it names code by dotted path and ``allow_code`` is off.
        IntegrityError: the data differs from the data of the search.
    """
    check_allowed(export, None, allow_code)
    if data_path is None and job is not None:
        data_path = job.started()["spec"]["data"]["path"]
    if allow_code:
        import_code(job)
    if data_path is not None:
        config = replace(config, data=replace(config.data, path=str(Path(data_path).absolute())))
    splits = load(config.data, workspace.cache)
    check_fingerprint(splits.fingerprint, export.data_fingerprint, export.versions)
    process.set_up(config.threads)
    gpu = config.gpu and torch.cuda.is_available()
    return Training(config, splits, "cuda" if gpu else "cpu")


def import_code(job: JobFolder | None) -> None:
    """From now on, import the user's modules: from where the job did, else from the current folder."""
    for folder in (*([] if job is None else [Path(job.started()["folder"]), job.code]), Path.cwd()):
        if folder.is_absolute() and folder.is_dir():
            import_from(folder)


def _why_not_bits(export: Export, run: ConfirmRun | None, training: Training) -> str:
    if run is None:
        return "a fresh seed"
    here = device_name(training.device)
    if here != run.device:
        return f"trained on {run.device}, this is {here}"
    now = versions()
    other = [name for name in SAME_BITS_NEED if export.versions.get(name) != now[name]]
    if other:
        return "other versions: " + ", ".join(f"{name} {export.versions.get(name)}, now {now[name]}" for name in other)
    if training.device.type == "cuda" and not training.config.deterministic:
        return "CUDA without deterministic algorithms"
    return ""
