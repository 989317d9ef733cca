"""The seeds of a job, and the configuration of one trial as ``trainables`` expects it."""

from collections.abc import Mapping
from dataclasses import dataclass

from trainables.catalog import is_dotted
from trainables.config import SHIFT, ModelConfig, OptimizerConfig, TrialConfig, derive_seed
from trainables.data.request import DataRequest
from trainables.hyper import KNOBS, Hyper
from trainables.own.trial import OwnTrial
from trainables.schedules import Schedule
from trainables.space import Plan, Scalar
from tuner.errors import IntegrityError
from tuner.spec.experiment import ArmSpec
from tuner.spec.ranges import MODEL_KNOB, SCHEDULE_KNOBS, is_trainer_knob
from tuner.spec.search_spec import SearchSpec

SELECTION_SEEDS_FROM = 10_000
SEEDS = 2**31
"""A seed of a training is below this number."""


@dataclass(frozen=True)
class SearchSeeds:
    """What all arms of one search share, except the sampler's stream: that one also depends on the arm.

    Args:
        split: seed of the data's split and of its subsets.
        training: seed of the trials: weights, order and augmentation.
        sampler: seed of the studies.
        confirm: fresh seeds for the winners of this search; none in a job with one search per arm.
    """

    split: int
    training: int
    sampler: int
    confirm: tuple[int, ...]

    @classmethod
    def of(cls, spec: SearchSpec, search: int) -> "SearchSeeds":
        """The seeds of search ``search``, from 1; of an arm's only search for 0."""
        if search == 0 or spec.searches is None:
            return cls(spec.seed, spec.seed, spec.seed, ())
        confirm = tuple(_derived(spec, "confirm", search, index) for index in range(spec.searches.confirm_seeds))
        return cls(
            split=_derived(spec, "split", search),
            training=_derived(spec, "training", search),
            sampler=_derived(spec, "sampler", search),
            confirm=confirm,
        )


def selection_seeds(spec: SearchSpec) -> tuple[int, ...]:
    """The seeds on which an arm's best settings are compared, if there are several."""
    return tuple(spec.seed + SELECTION_SEEDS_FROM + index for index in range(spec.confirm.selection_seeds))


def round_seeds(spec: SearchSpec, round_number: int, count: int) -> tuple[int, ...]:
    """The fresh seeds of a round, counted from 1. The search, the selection and other rounds use none of them."""
    return tuple(_derived(spec, "round", round_number, index) for index in range(count))


def _derived(spec: SearchSpec, *parts: int | str) -> int:
    return derive_seed(spec.seed, *parts) % SEEDS


def data_request(spec: SearchSpec, split: int | None = None) -> DataRequest:
    """The data of a spec, with an absolute path, because workers run in other folders.

    Args:
        spec: the spec.
        split: seed of the split and of the subsets; default: the spec's own seed.
    """
    data = spec.data
    return DataRequest(
        name=data.name,
        path=None if spec.data_path is None else str(spec.data_path),
        size=data.size,
        sha256=tuple(sorted((data.sha256 or {}).items())),
        train_images=data.train_images,
        val_images=data.val_images,
        test_images=data.test_images,
        validation=data.validation_share,
        seed=spec.seed if split is None else split,
        image_column=data.image_column,
        label_column=data.label_column,
    )


def check_fingerprint(found: str, recorded: str, versions: Mapping[str, str]) -> None:
    """Raise ``IntegrityError`` unless the data has the recorded fingerprint.

    Args:
        found: fingerprint of the data now.
        recorded: fingerprint of the data that the search used.
        versions: the recorded versions of the packages that the search used.
    """
    if found != recorded:
        raise IntegrityError(
            f"the data differs from the data of the search: its fingerprint is {found[:16]}…, not {recorded[:16]}…; "
            "the files changed, or this version of tuner decodes them otherwise (the search used tuner "
            f"{versions.get('tuner', 'of an unknown version')})"
        )


def hyper_of(given: ArmSpec, setting: Mapping[str, Scalar]) -> Hyper:
    """The hyperparameters in a setting of an arm on the built-in training; for an own optimizer, its schedule's.

    Args:
        given: the arm in the spec.
        setting: every knob and its value, as ``TrialBegun.hyper`` has them.
    """
    if given.kind == "variant":
        return Hyper.of({knob: value for knob, value in setting.items() if knob in KNOBS})
    # An own optimizer has no schedule but the one that it is given.
    ours = {"schedule": "constant"} | {knob: setting[knob] for knob in SCHEDULE_KNOBS if knob in setting}
    return Hyper.of({knob: float(value) if knob == "lr" else value for knob, value in ours.items()})


def plan_of(spec: SearchSpec, plan: Plan, setting: Mapping[str, Scalar]) -> Plan:
    """The planned length of a trial with this setting, which may have its own batch size.

    Args:
        spec: the spec.
        plan: the planned length with the spec's batch size.
        setting: every knob and its value.
    """
    return plan.with_batch(int(setting["batch_size"])) if "batch_size" in setting and not spec.own_trainable else plan


def schedule_of(spec: SearchSpec, plan: Plan, arm: str, setting: Mapping[str, Scalar]) -> Schedule | None:
    """The learning-rate schedule of a trial; None if an own trainable has one, of which we know nothing.

    Args:
        spec: the spec.
        plan: the planned length with the spec's batch size.
        arm: the arm's name.
        setting: every knob and its value.
    """
    given = spec.arm(arm)
    if given.kind == "trainable":
        return None
    return Schedule(hyper_of(given, setting), plan_of(spec, plan, setting))


def trial_config(
    spec: SearchSpec,
    arm: str,
    setting: Mapping[str, Scalar],
    seed: int,
    split: int | None = None,
    *,
    contiguous: bool = True,
) -> TrialConfig | OwnTrial:
    """The configuration of one trial of the spec.

    Args:
        spec: the spec.
        arm: the arm's name.
        setting: every knob and its value, as ``TrialBegun.hyper`` has them.
        seed: the seed of the trial.
        split: seed of the data's split; default: the spec's own seed.
        contiguous: whether an own model gets contiguous images: ``Record.contiguous`` of its job.
    """
    if spec.arm(arm).kind == "trainable":
        return own_trial(spec, arm, setting, seed)
    return image_trial(spec, arm, setting, seed, split, contiguous=contiguous)


def own_trial(spec: SearchSpec, arm: str, setting: Mapping[str, Scalar], seed: int) -> OwnTrial:
    """As ``trial_config``, for an arm with an own trainable."""
    given = spec.arm(arm)
    return OwnTrial(
        trainable=given.code,
        # Values that are no scalars are in the spec only.
        config={**given.fixed, **setting},
        epochs=spec.budget.epochs,
        seed=seed,
        passed=spec.passed,
        choose=spec.metric.key,
        judge=spec.metric.judged,
        threads=spec.resources.cpus,
        gpu=spec.resources.gpus > 0,
    )


def image_trial(
    spec: SearchSpec,
    arm: str,
    setting: Mapping[str, Scalar],
    seed: int,
    split: int | None = None,
    *,
    contiguous: bool = True,
) -> TrialConfig:
    """As ``trial_config``, for an arm on the built-in training."""
    own, given = is_dotted(spec.model.name), spec.arm(arm)
    options = dict(spec.model.options) if own else {"width": spec.model.width, "setup": spec.model.setup}
    searched = {knob.removeprefix(MODEL_KNOB): value for knob, value in setting.items() if knob.startswith(MODEL_KNOB)}
    optimizer = None
    if given.optimizer is not None:
        arguments = {
            knob: value
            for knob, value in {**given.fixed, **setting}.items()
            if knob not in SCHEDULE_KNOBS and not is_trainer_knob(knob)
        }
        optimizer = OptimizerConfig(given.optimizer, arguments, given.groups)
    return TrialConfig(
        data=data_request(spec, split),
        model=ModelConfig(spec.model.name, {**options, **searched}),
        hyper=hyper_of(given, setting),
        epochs=spec.budget.epochs,
        batch_size=int(setting.get("batch_size", spec.budget.batch_size)),
        seed=seed,
        augment=spec.data.augment,
        normalize="minmax" if not own and spec.model.setup == "article" else "standard",
        precision=spec.resources.precision,
        deterministic=spec.resources.deterministic,
        cuda_graph=spec.resources.cuda_graph,
        threads=spec.resources.cpus,
        gpu=spec.resources.gpus > 0,
        channels_last=not (own and contiguous),
        optimizer=optimizer,
        shift=int(setting.get("augment_shift", SHIFT)),
    )
