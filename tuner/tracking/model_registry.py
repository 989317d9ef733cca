"""Models in MLflow's registry: one version per winner, whatever dies in between.

A version's source is a folder of the job's parent run, named by the winner's checksum. The checksum also identifies the
version, so a job that is resumed or sent again makes no second one.
"""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tuner.errors import NotFound, SpecError
from tuner.tracking.run_changes import JOB
from tuner.tracking.server_check import at_tracker

if TYPE_CHECKING:
    from tuner.tracking.writer import Writer

ALIAS = "champion"
SCHEME = "models:/"
CHECKSUM, ENDED, PROMOTED = "tuner.sha256", "tuner.ended_ms", "tuner.promoted"
"""Tags of a version: the winner's checksum, when its job ended, and a mark that the version has had the alias."""
_MODEL_URI = re.compile(r"models:/([^/:@'\\]+)(?:@([\w.-]+)|/(\d+))")


@dataclass(frozen=True)
class Champion:
    """The winner of a finished job, ready to be registered.

    Args:
        model: name of the registered model.
        files: artifact name to content.
        tags: what the version is found by, beside ``CHECKSUM`` and ``ENDED``.
        description: Markdown for people.
        sha256: checksum that identifies the winner.
        ended_ms: when the job's last confirm run ended, Unix milliseconds.
    """

    model: str
    files: Mapping[str, bytes]
    tags: Mapping[str, str]
    description: str
    sha256: str
    ended_ms: int

    @property
    def artifact_folder(self) -> str:
        """Folder of the files in the parent run's artifacts."""
        return f"models/{self.sha256[:16]}"

    @property
    def version_tags(self) -> dict[str, str]:
        """All tags of the version."""
        return {**self.tags, CHECKSUM: self.sha256, ENDED: str(self.ended_ms)}


def register(writer: "Writer", champion: Champion) -> str | None:
    """Register the winner of a job that has ended and was sent. Calling it again changes nothing.

    Returns:
        What to tell the user if somebody else's version keeps the alias, and how to hand the alias over.

    Raises:
        ServiceError: the tracker cannot be reached, or another process is sending.
    """
    with writer.exclusive() as client:
        kept = register_version(client, writer.runs[JOB], champion)
    if kept is None:
        return None
    name, code = champion.model, "from mlflow import MlflowClient as Client; Client().set_registered_model_alias"
    return (
        f"version {kept.theirs} of the model {name!r} was not registered by tuner and keeps the alias {ALIAS!r}; this"
        f" job's winner is version {kept.ours}; to hand the alias over: {at_tracker(writer.shown)}"
        f" python -c \"{code}('{name}', '{ALIAS}', '{kept.ours}')\""
    )


class AliasKept(NamedTuple):
    """The numbers of two versions: somebody else's, which keeps the alias, and the winner's."""

    theirs: str
    ours: str


def register_version(client: Any, run: str, champion: Champion) -> AliasKept | None:
    """Make the champion a version of its model, and give it the alias; each at most once.

    The alias stays with the winner of a job that ended later. It also stays where somebody has moved it since, and with
    a version that tuner did not register.

    Args:
        client: MLflow's.
        run: id of the parent run.
        champion: what to register.

    Returns:
        The version of somebody else that keeps the alias, if there is one.
    """
    from tuner.tracking.client import there_already  # imports mlflow: seconds

    name = champion.model
    if _model(client, name) is None:
        with there_already():
            client.create_registered_model(name, description=f"Winners of `{name}`, found by tuner.")
    version = _only_version(client, run, champion)
    if version is None:
        _upload(client, run, champion)
        source = f"runs:/{run}/{champion.artifact_folder}"
        client.create_model_version(name, source, run, tags=champion.version_tags, description=champion.description)
        version = _only_version(client, run, champion)
    assert version is not None, "it was made"
    if PROMOTED in version.tags:
        return None
    holder = _alias_holder(client, name)
    if holder is not None and holder.version != version.version and CHECKSUM not in holder.tags:
        return AliasKept(str(holder.version), str(version.version))
    if holder is None or int(holder.tags.get(ENDED, 0)) <= champion.ended_ms:
        client.set_registered_model_alias(name, ALIAS, version.version)
    client.set_model_version_tag(name, version.version, PROMOTED, "true")
    return None


def _model(client: Any, name: str) -> Any:
    return next(iter(client.search_registered_models(filter_string=f"name = '{name}'")), None)


def _versions(client: Any, name: str) -> list[Any]:
    return sorted(client.search_model_versions(f"name = '{name}'"), key=lambda version: int(version.version))


def _only_version(client: Any, run: str, champion: Champion) -> Any:
    """The champion's version; a call that made one may have been given up, and done after all: a second is deleted."""
    ours = champion.sha256, run
    found = [v for v in _versions(client, champion.model) if (v.tags.get(CHECKSUM), v.run_id) == ours]
    for twin in found[1:]:
        client.delete_model_version(champion.model, twin.version)
    return found[0] if found else None


def _upload(client: Any, run: str, champion: Champion) -> None:
    with tempfile.TemporaryDirectory(prefix="tuner-") as folder:
        for name, content in champion.files.items():
            (Path(folder) / name).write_bytes(content)
        client.log_artifacts(run, folder, champion.artifact_folder)


def _alias_holder(client: Any, name: str) -> Any:
    """The version that has the alias, or None."""
    number = _model(client, name).aliases.get(ALIAS)
    return next((version for version in _versions(client, name) if str(version.version) == str(number)), None)


def named_version(client: Any, uri: str) -> Any:
    """The version that a model URI names.

    Raises:
        SpecError: the text is no model URI.
        NotFound: no such model, alias or version.
    """
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
