"""Registered models: a finished job's winner as a model version, whose source is its export and its weights.

The model has the spec's name, each winner is a version of it, and the alias ``champion`` is that of the job that ended
last. The source is a folder of the job's parent run, named by the export's checksum: two files, no pickle. What is
registered is known again by that checksum, so that a job which is resumed, or sent again, makes no second version.
"""

import os
import re
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import IntegrityError, NotFound, SpecError, without_password
from tuner.export import Export, read_export, render
from tuner.home import Home

ALIAS = "champion"
SCHEME = "models:/"
CONFIG, WEIGHTS = "config.yaml", "weights.safetensors"
CHECKSUM, ENDED, PROMOTED = "tuner.sha256", "tuner.ended_ms", "tuner.promoted"
"""Tags of a version: the export's checksum, when the job ended, and that the alias was given to it once."""
_MODEL_URI = re.compile(r"models:/([^/:@'\\]+)(?:@([\w.-]+)|/(\d+))")


@dataclass(frozen=True)
class Champion:
    """A finished job's winner, ready to be registered.

    Args:
        model: the registered model's name.
        export: settings and evidence.
        weights: of the first confirm run, as safetensors.
        ended_ms: when the last confirm run of the job ended, in Unix milliseconds.
    """

    model: str
    export: Export
    weights: bytes
    ended_ms: int

    @property
    def place(self) -> str:
        """Its artifact folder in the parent run."""
        return f"models/{self.export.sha256[:16]}"

    @property
    def tags(self) -> dict[str, str]:
        """What its version is found by."""
        names = {"tuner.job": self.export.job, "tuner.arm": self.export.arm, "tuner.verdict": self.export.verdict}
        return names | {CHECKSUM: self.export.sha256, ENDED: str(self.ended_ms)}

    @property
    def description(self) -> str:
        """For people, in Markdown."""
        export = self.export
        spread = "" if export.test_sd_points is None else f" ± {export.test_sd_points:.2f}"
        runs = len(export.confirm_runs)
        verdict = "the baseline" if export.arm == export.baseline else f"{export.verdict} {export.baseline}"
        return (
            f"**{export.arm}** of job {export.job}: {verdict}. Test accuracy {export.test_mean_points:.2f}{spread} % "
            f"over {runs} fresh seeds; the weights are of seed {export.confirm_runs[0].seed}.\n\n"
            f'`load_config("{SCHEME}{self.model}@{ALIAS}")` of `tuner.export` checks and loads it.'
        )


def register(
    client: Any, run: str, champion: Champion, there_already: Callable[[], AbstractContextManager[None]]
) -> None:
    """Make the champion a version of its model, unless it is one, and give it the alias, unless it had it.

    The alias stays with the winner of a job that ended later, and where somebody has moved it to since.

    Args:
        client: of MLflow.
        run: the parent run's id.
        champion: what to register.
        there_already: lets pass that something could not be made because it is there.
    """
    name = champion.model
    if _model(client, name) is None:
        with there_already():
            client.create_registered_model(name, description=f"Winners of `{name}`, found by tuner.")
    version = _only_version(client, run, champion)
    if version is None:
        _upload(client, run, champion)
        client.create_model_version(
            name, f"runs:/{run}/{champion.place}", run, tags=champion.tags, description=champion.description
        )
        version = _only_version(client, run, champion)
    assert version is not None, "it was made"
    if PROMOTED not in version.tags:
        if _ended_before(client, champion):
            client.set_registered_model_alias(name, ALIAS, version.version)
        client.set_model_version_tag(name, version.version, PROMOTED, "true")


def read_registered(uri: str, home: Home, tracking_uri: str | None = None) -> Export:
    """The export of a registered model, checked: see ``download``."""
    with tempfile.TemporaryDirectory(prefix="tuner-") as folder:
        return download(uri, Path(folder), home, tracking_uri)[0]


def download(uri: str, folder: Path, home: Home, tracking_uri: str | None = None) -> tuple[Export, Path]:
    """Download what a model URI names, ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``, and check it.

    Args:
        uri: the model's.
        folder: where its files go; it must be there.
        home: whose store is asked if no tracker is named.
        tracking_uri: of the tracker; without it, ``MLFLOW_TRACKING_URI``.

    Returns:
        The export, and the file of the weights.

    Raises:
        SpecError: it is no such URI.
        NotFound: no such model, alias or version.
        IntegrityError: it was not registered by us, or is not what was registered.
        ServiceError: the tracker cannot be reached.
    """
    where = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or home.tracking_uri
    if where == home.tracking_uri and not home.tracking_store.exists():
        raise NotFound(f"{uri}: nothing was tracked in {home.path} yet; name another tracker in MLFLOW_TRACKING_URI")
    from tuner.tracking import connect, explained  # imports mlflow: seconds

    with explained(without_password(where), "read"):
        return _download(connect(where), uri, folder)


def _download(client: Any, uri: str, folder: Path) -> tuple[Export, Path]:
    version = _named(client, uri)
    checksum, source = version.tags.get(CHECKSUM), f"runs:/{version.run_id}/"
    if checksum is None or not version.source.startswith(source):
        raise IntegrityError(f"{uri}: version {version.version} was not registered by tuner")
    downloaded = Path(client.download_artifacts(version.run_id, version.source.removeprefix(source), str(folder)))
    try:
        export = read_export(downloaded / CONFIG)
    except (IntegrityError, NotFound) as error:
        raise IntegrityError(f"{uri}: {error}".replace(f"{downloaded}{os.sep}", "")) from None
    if export.sha256 != checksum:
        raise IntegrityError(f"{uri}: altered: its {CONFIG} is not the one that was registered")
    _check_weights(downloaded / WEIGHTS, export, uri)
    return export, downloaded / WEIGHTS


def _check_weights(file: Path, export: Export, uri: str) -> None:
    """Refuse weights that are not those of the export's first confirm run."""
    from safetensors import SafetensorError  # imports torch: seconds
    from safetensors.torch import load_file

    from trainables.training import digest

    try:
        found = digest(load_file(file))
    except (OSError, SafetensorError):
        found = ""
    if found != export.confirm_runs[0].weights_sha256:
        raise IntegrityError(f"{uri}: altered: its {WEIGHTS} are not those that were registered")


def _model(client: Any, name: str) -> Any:
    return next(iter(client.search_registered_models(filter_string=f"name = '{name}'")), None)


def _versions(client: Any, name: str) -> list[Any]:
    return sorted(client.search_model_versions(f"name = '{name}'"), key=lambda version: int(version.version))


def _only_version(client: Any, run: str, champion: Champion) -> Any:
    """The champion's version; a call that made one may have been given up, and done after all: a second is deleted."""
    ours = champion.export.sha256, run
    found = [v for v in _versions(client, champion.model) if (v.tags.get(CHECKSUM), v.run_id) == ours]
    for twin in found[1:]:
        client.delete_model_version(champion.model, twin.version)
    return found[0] if found else None


def _upload(client: Any, run: str, champion: Champion) -> None:
    with tempfile.TemporaryDirectory(prefix="tuner-") as folder:
        (Path(folder) / CONFIG).write_text(render(champion.export, ".yaml"), encoding="utf-8")
        (Path(folder) / WEIGHTS).write_bytes(champion.weights)
        client.log_artifacts(run, folder, champion.place)


def _ended_before(client: Any, champion: Champion) -> bool:
    """Whether the version that has the alias, if any, is of a job that ended before the champion's."""
    number = _model(client, champion.model).aliases.get(ALIAS)
    there = [v for v in _versions(client, champion.model) if str(v.version) == str(number)]
    return all(int(version.tags.get(ENDED, 0)) <= champion.ended_ms for version in there)


def _named(client: Any, uri: str) -> Any:
    parts = _MODEL_URI.fullmatch(uri)
    if parts is None:
        raise SpecError(f"{uri}: name a registered model as {SCHEME}NAME@{ALIAS} or {SCHEME}NAME/VERSION")
    name, alias, number = parts.groups()
    model = _model(client, name)
    if model is None:
        raise NotFound(f"{uri}: no registered model {name!r}")
    wanted = model.aliases.get(alias) if alias else number
    found = [version for version in _versions(client, name) if str(version.version) == str(wanted)]
    if not found:
        raise NotFound(f"{uri}: model {name!r} has no {f'alias {alias!r}' if alias else f'version {number}'}")
    return found[0]
