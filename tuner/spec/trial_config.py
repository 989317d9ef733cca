"""Converts a spec to the configuration of one trial, as ``trainables`` expects it."""

from pathlib import Path

from trainables.catalog import is_dotted
from trainables.config import ModelConfig, TrialConfig
from trainables.data.request import DataRequest
from trainables.hyper import Hyper
from tuner.errors import IntegrityError
from tuner.spec.search_spec import SearchSpec


def data_request(spec: SearchSpec) -> DataRequest:
    """The data of a spec. Its path is made absolute, because workers run in other folders."""
    data = spec.data
    return DataRequest(
        name=data.name,
        path=None if data.path is None else str(Path(data.path).absolute()),
        size=data.size,
        sha256=tuple(sorted((data.sha256 or {}).items())),
        train_images=data.train_images,
        val_images=data.val_images,
        test_images=data.test_images,
        validation=data.validation_share,
        seed=spec.seed,
    )


def check_fingerprint(found: str, recorded: str) -> None:
    """Raise ``IntegrityError`` unless the data has the recorded fingerprint.

    Args:
        found: fingerprint of the data now.
        recorded: fingerprint of the data that the search used.
    """
    if found != recorded:
        raise IntegrityError(
            f"the data differs from the data of the search: its fingerprint is {found[:16]}…, not {recorded[:16]}…"
        )


def trial_config(spec: SearchSpec, hyper: Hyper, seed: int) -> TrialConfig:
    """The configuration of one trial of the spec.

    Args:
        spec: the spec.
        hyper: the hyperparameters of the trial.
        seed: the seed of the trial.
    """
    own = is_dotted(spec.model.name)
    return TrialConfig(
        data=data_request(spec),
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
    )
