"""Trains an exported winner again and says whether the result is the recorded one."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from trainables.config import TrialConfig
from trainables.data.cache import load
from trainables.report import EpochReport
from trainables.training import process
from trainables.training.trainer import Training, device_name, digest
from tuner.errors import IntegrityError
from tuner.export.export_file import ConfirmRun, Export, check_allowed
from tuner.jobs.provenance import versions
from tuner.jobs.workspace import Workspace
from tuner.spec.trial_config import check_fingerprint
from tuner.verdict.paired_test import prediction_interval

SAME_BITS_NEED = ("python", "torch", "numpy")
"""Versions that must agree before equal bits are asked for."""


@dataclass(frozen=True)
class Reproduction:
    """What training again came to.

    Args:
        seed: trained with.
        test_acc: in [0, 1].
        recorded: the recorded test accuracy of that seed; None for a fresh one.
        low, high: where it should lie, in [0, 1].
        same_bits: whether the weights equal the recorded ones; None where that was not asked for.
        why_not_bits: why it was not asked for, or "".
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
        """Whether it was reproduced."""
        return self.same_bits if self.same_bits is not None else self.low <= self.test_acc <= self.high

    def text(self) -> str:
        """For people."""
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
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
) -> Reproduction:
    """Train one recorded confirm seed again, or a fresh one, and compare.

    Equal to the last bit is asked for on the same device, thread count and versions; else the test accuracy must
    lie in the 99 % prediction interval of the recorded seeds, never wider than 3 points.

    Raises:
        IntegrityError: the data is not what the search used, or training diverged.
        SpecError: as ``check_allowed``.
    """
    recorded = {run.seed: run for run in export.confirm_runs}
    seed = export.confirm_runs[0].seed if fresh_seed is None else fresh_seed
    check_allowed(export, fresh_seed, allow_code)
    training = start(export, replace(export.config, seed=seed), workspace, data_path, allow_code)
    for _ in range(training.config.epochs):
        report = training.run_epoch()
        on_epoch(report)
        if report.diverged:
            raise IntegrityError(f"not reproduced: {report.diverged} at epoch {report.epoch}")
    low, high = prediction_interval([run.test_acc for run in export.confirm_runs])
    why_not = _why_not_bits(export, recorded.get(seed), training)
    return Reproduction(
        seed=seed,
        test_acc=training.evaluate("test").acc,
        recorded=recorded[seed].test_acc if seed in recorded else None,
        low=low,
        high=high,
        same_bits=None if why_not else digest(training.weights()) == recorded[seed].weights_sha256,
        why_not_bits=why_not,
    )


def start(
    export: Export, config: TrialConfig, workspace: Workspace, data_path: str | None, allow_code: bool
) -> Training:
    """A training of an export's settings, on its data.

    Raises:
        SpecError: it names code by dotted path and ``allow_code`` is off.
        IntegrityError: the data is not what the search used.
    """
    check_allowed(export, None, allow_code)
    if data_path is not None:
        config = replace(config, data=replace(config.data, path=str(Path(data_path).absolute())))
    splits = load(config.data, workspace.cache)
    check_fingerprint(splits.fingerprint, export.data_fingerprint)
    process.set_up(config.threads)
    gpu = config.gpu and torch.cuda.is_available()
    return Training(config, splits, "cuda" if gpu else "cpu")


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
