"""Models in MLflow's registry: one version per winner, whatever dies in between.

A version's source is a folder of the job's parent run, named by the winner's checksum. The checksum also identifies the
version, so a job that is resumed or sent again makes no second one.
"""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import NotFound, SpecError
from tuner.tracking.run_changes import JOB

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


def register(writer: "Writer", champion: Champion) -> None:
    """Register the winner of a job that has ended and was sent. Calling it again changes nothing.

    Raises:
        ServiceError: the tracker cannot be reached, or another process is sending.
    """
    with writer.exclusive() as client:
        register_version(client, writer.runs[JOB], champion)


def register_version(client: Any, run: str, champion: Champion) -> None:
    """Make the champion a version of its model, and give it the alias; each at most once.

    The alias stays with the winner of a job that ended later. It also stays where somebody has moved it since.

    Args:
        client: MLflow's.
        run: id of the parent run.
        champion: what to register.
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
    if PROMOTED not in version.tags:
        if _ended_before(client, champion):
            client.set_registered_model_alias(name, ALIAS, version.version)
        client.set_model_version_tag(name, version.version, PROMOTED, "true")


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


def _ended_before(client: Any, champion: Champion) -> bool:
    """Whether the version that has the alias, if any, is of a job that ended before the champion's."""
    number = _model(client, champion.model).aliases.get(ALIAS)
    there = [v for v in _versions(client, champion.model) if str(v.version) == str(number)]
    return all(int(version.tags.get(ENDED, 0)) <= champion.ended_ms for version in there)


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
