"""The seeds of a job, and the configuration of one trial as ``trainables`` expects it."""

from collections.abc import Mapping
from dataclasses import dataclass

from trainables.catalog import is_dotted
from trainables.config import ModelConfig, TrialConfig, derive_seed
from trainables.data.request import DataRequest
from trainables.hyper import Hyper
from tuner.errors import IntegrityError
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


def trial_config(
    spec: SearchSpec, hyper: Hyper, seed: int, split: int | None = None, *, contiguous: bool = True
) -> TrialConfig:
    """The configuration of one trial of the spec.

    Args:
        spec: the spec.
        hyper: the hyperparameters of the trial.
        seed: the seed of the trial.
        split: seed of the data's split; default: the spec's own seed.
        contiguous: whether an own model gets contiguous images: ``Record.contiguous`` of its job.
    """
    own = is_dotted(spec.model.name)
    return TrialConfig(
        data=data_request(spec, split),
        model=ModelConfig(
            spec.model.name,
            dict(spec.model.options) if own else {"width": spec.model.width, "setup": spec.model.setup},
        ),
        hyper=hyper,
        epochs=spec.budget.epochs,
        batch_size=spec.budget.batch_size,
        seed=seed,
        augment=spec.data.augment,
        normalize="minmax" if not own and spec.model.setup == "article" else "standard",
        precision=spec.resources.precision,
        deterministic=spec.resources.deterministic,
        cuda_graph=spec.resources.cuda_graph,
        threads=spec.resources.cpus,
        gpu=spec.resources.gpus > 0,
        channels_last=not (own and contiguous),
    )
