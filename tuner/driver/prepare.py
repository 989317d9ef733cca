"""Prepares a job: data, arms, studies and the number of trials at once, checked before the job starts."""

from dataclasses import dataclass
from pathlib import Path

from cluster.runtime import usable_cpus, usable_gpus
from trainables.data.cache import load as load_data
from trainables.space import Plan
from trainables.training.net import build_model
from tuner.errors import SpecError, without_password
from tuner.execution.gpu_packing import with_measured_packing
from tuner.jobs.code_archive import unpack
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.request import spec_of, storage_of
from tuner.jobs.stop import StopRequest
from tuner.jobs.workspace import Workspace
from tuner.monitor.terminal import View
from tuner.search.study import ArmStudy
from tuner.search.study_database import IN_MEMORY, open_storage, set_aside_if_damaged
from tuner.spec import arms as arms_
from tuner.spec.checks import Images, check, check_sampler
from tuner.spec.search_spec import SearchSpec
from tuner.spec.trial_config import check_fingerprint, data_request, trial_config
from tuner.spec.user_code import own_code
from tuner.tracking.background_sync import tracking_uri


@dataclass(frozen=True)
class Prepared:
    """All that a job needs before it starts, checked."""

    spec: SearchSpec
    simulated: bool
    code: Path | None
    images: Images
    fingerprint: str
    plan: Plan
    arms: tuple[arms_.Arm, ...]
    studies: tuple[ArmStudy, ...]
    concurrent: int


def prepare(
    workspace: Workspace, folder: JobFolder, begun: bool, data_path: str | None, stop: StopRequest, view: View
) -> Prepared:
    spec, simulated = spec_of(folder, data_path), bool(folder.started()["simulate"])
    code = own_code(spec, _code(folder))
    images, data_fingerprint = _made_up(spec) if simulated else _data(spec, workspace, view)
    if begun:
        check_fingerprint(data_fingerprint, folder.record().job["data_fingerprint"])
    plan = arms_.plan(spec, images.train)
    arms = arms_.arms(spec, plan)
    check_sampler(spec, arms)
    if spec.resources.auto:
        trial = trial_config(spec, arms[0].hyper(arms[0].default), spec.seed)
        spec = with_measured_packing(
            spec, trial, folder, workspace.cache, code, view.announce, lambda: bool(stop), not simulated
        )
    storage_url = IN_MEMORY if simulated else storage_of(spec, workspace)
    ours = storage_url == workspace.storage_url
    if ours and (damaged := set_aside_if_damaged(workspace.studies)):
        view.announce(
            f"warning: {workspace.studies} is damaged and now {damaged}; the studies are made again from the journal"
        )
    # Of a job that is new it is told at once; one that goes on has a supervisor who gives up if this does.
    storage = open_storage(storage_url, patient=begun, durable=not ours)
    concurrent = spec.concurrent_on(usable_cpus(), usable_gpus())
    maximize = spec.metric.goal == "maximize"
    view.announce(f"job {folder.id}, {concurrent} trials at once, journal in {folder.path}")
    view.announce(
        f"studies in {without_password(storage_url)}, tracked in {without_password(tracking_uri(spec, workspace))}"
    )
    studies = tuple(
        ArmStudy(storage, folder.id, arm, spec.sampler, spec.seed, spec.budget.trials, maximize) for arm in arms
    )
    return Prepared(spec, simulated, code, images, data_fingerprint, plan, arms, studies, concurrent)


def _data(spec: SearchSpec, workspace: Workspace, view: View) -> tuple[Images, str]:
    """Decode the data and build the model once, so that one that does not fit is told before anything starts."""
    splits = load_data(data_request(spec), workspace.cache, view.announce)
    if spec.data.augment == "flip_crop" and not splits.flips:
        raise SpecError("data.augment: is 'flip_crop', but a mirrored image of this data set changes its label")
    plan = arms_.plan(spec, len(splits.train))
    baseline = arms_.arms(spec, plan)[0]
    trial = trial_config(spec, baseline.hyper(baseline.default), spec.seed)
    build_model(trial, splits.num_classes, splits.train.images_BHWC.shape[1:])
    return Images(len(splits.train), len(splits.val), len(splits.test)), splits.fingerprint


def _made_up(spec: SearchSpec) -> tuple[Images, str]:
    checked = check(spec)
    if checked.images is None:
        raise SpecError("data: how many images there are only reading tells; simulate a spec of another data set")
    return checked.images, "simulated"


def _code(folder: JobFolder) -> Path:
    """Where the user's own modules are: where the job was started, or here, if it came from another machine."""
    if (started := Path(folder.started()["folder"])).is_absolute():
        return started
    database = folder.database()
    if not folder.code.exists() and database is not None and (with_measured_packing := database.code(folder.id)):
        unpack(with_measured_packing, folder.code)
    return folder.code
