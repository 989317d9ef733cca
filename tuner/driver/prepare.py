"""Prepares a job: data, model, arms and the number of trials at once, checked before the job starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cluster.runtime import usable_cpus, usable_gpus
from trainables.catalog import is_dotted
from trainables.config import TrialConfig
from trainables.data.cache import load as load_data
from trainables.data.request import ImageCounts
from trainables.space import Plan
from trainables.training.model_check import check_model
from trainables.training.throughput import images_per_s
from tuner.driver.context import Context
from tuner.errors import SpecError
from tuner.execution.gpu_packing import SECONDS, with_measured_packing, with_packing
from tuner.jobs.code_archive import unpack
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.record import Record
from tuner.jobs.request import spec_of
from tuner.spec.arms import Arm, arms, own_plan, plan
from tuner.spec.checks import check, check_sampler, coarse_validation
from tuner.spec.search_spec import SearchSpec
from tuner.spec.trial_config import check_fingerprint, data_request, image_trial
from tuner.spec.user_code import own_code

SIMULATED_CLASSES = 10
"""Classes of made-up data: a simulated run that diverges counts as one guess in ten."""


@dataclass(frozen=True)
class Prepared:
    """Everything that a job needs before it starts, checked.

    Args:
        spec: the job's, with measured figures for ``resources: auto``.
        simulated: whether nothing is trained.
        code: folder of the user's own modules, or None.
        images, fingerprint, classes: of the data.
        plan: length of a trial.
        arms: the baseline first.
        concurrent: trials at once, on this machine.
    """

    spec: SearchSpec
    simulated: bool
    code: Path | None
    images: ImageCounts
    fingerprint: str
    classes: int
    plan: Plan
    arms: tuple[Arm, ...]
    concurrent: int


def prepare(context: Context, record: Record, data_path: str | None) -> Prepared:
    """Check a job against this machine and its data.

    Args:
        context: the driver's.
        record: what the job's journal says.
        data_path: where the data lies now, if it was moved.

    Raises:
        SpecError, TrainableError: the spec, the data or the user's code is not right.
        IntegrityError: the data is not what the search used.
    """
    folder = context.folder
    spec, simulated = spec_of(folder, data_path), bool(folder.started()["simulate"])
    code = own_code(spec, _code_folder(folder))
    if spec.own_trainable:
        data, planned = NO_DATA, own_plan(spec)
    else:
        data = _made_up(spec) if simulated else _load(context, spec, record)
        if record.begun:
            check_fingerprint(data.fingerprint, record.job.data_fingerprint, record.job.versions)
        planned = plan(spec, data.images.train)
    found = arms(spec, planned)
    check_sampler(spec, found)
    if spec.resources.auto:
        spec = _packed(context, spec, record, found[0], simulated, code)
    concurrent = spec.concurrent_on(usable_cpus(), usable_gpus())
    return Prepared(spec, simulated, code, *data, planned, found, concurrent)


def _packed(
    context: Context, spec: SearchSpec, record: Record, arm: Arm, simulated: bool, code: Path | None
) -> SearchSpec:
    announce = context.view.announce
    if simulated:
        announce("resources: auto: nothing is trained, so nothing is measured")
        return with_packing(spec, None)

    def measure(trial: TrialConfig, trials: int) -> float | None:
        return images_per_s(trial, context.workspace.cache, trials, SECONDS, code)

    trial = image_trial(spec, arm.name, arm.setting(arm.default), spec.seed, contiguous=record.contiguous)
    return with_measured_packing(spec, trial, context.folder, measure, announce, lambda: bool(context.stop))


class _Data(NamedTuple):
    images: ImageCounts
    fingerprint: str
    classes: int


NO_DATA = _Data(ImageCounts(0, 0, 0), "own", 0)
"""Own trainables read their data themselves."""


def _load(context: Context, spec: SearchSpec, record: Record) -> _Data:
    """Decode the data, and build or check the model once, so that an error shows before anything starts.

    A model of a job that has begun was checked then.
    """
    splits = load_data(data_request(spec), context.workspace.cache, context.view.announce)
    if spec.data.augment == "flip_crop" and not splits.flips:
        raise SpecError("data.augment: is 'flip_crop', but a mirrored image of this data set changes its label")
    baseline = arms(spec, plan(spec, len(splits.train)))[0]
    setting = baseline.setting(baseline.default)
    trial = image_trial(spec, baseline.name, setting, spec.seed, contiguous=record.contiguous)
    check_model(trial, splits, context.view.announce, train=not record.begun)
    images = ImageCounts(len(splits.train), len(splits.val), len(splits.test))
    # ``check`` has warned of the other data sets.
    if is_dotted(spec.data.name) and (coarse := coarse_validation(spec, images)):
        context.view.announce(f"warning: {coarse}")
    return _Data(images, splits.fingerprint, splits.num_classes)


def _made_up(spec: SearchSpec) -> _Data:
    checked = check(spec)
    if checked.images is None:
        raise SpecError("data: only reading this data set tells how many images it has; simulate another one")
    return _Data(checked.images, "simulated", SIMULATED_CLASSES)


def _code_folder(folder: JobFolder) -> Path:
    """Where the user's own modules are: where the job was started, or here if it came from another machine."""
    if (started := Path(folder.started()["folder"])).is_absolute():
        return started
    database = folder.database()
    if not folder.code.exists() and database is not None and (packed := database.code(folder.id)):
        unpack(packed, folder.code)
    return folder.code
