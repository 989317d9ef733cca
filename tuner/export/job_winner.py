"""The winner of a job: as an exported file, as its weights, and as a registered model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.file_store import files_at, split
from tuner.errors import IntegrityError, NotFound, SpecError
from tuner.export.export_file import NEWEST, WEIGHTS_SUFFIX, Export, build_export, code_in, render
from tuner.jobs.job_folder import JobFolder
from tuner.storage.atomic_files import check_new, write_new
from tuner.storage.events import Stage
from tuner.storage.shared_files import store_errors
from tuner.tracking import sync_state
from tuner.tracking.model_registry import Champion, register
from tuner.verdict.ranking import JobResults

if TYPE_CHECKING:
    from tuner.tracking.writer import Writer

CONFIG, WEIGHTS = "config.yaml", "weights.safetensors"
"""Files of a registered winner."""


def export_arm(results: JobResults, arm: str, file: Path, force: bool) -> Path:
    """Write the winner of an arm to ``file`` in the format of its suffix, ``.safetensors`` for the weights.

    Returns:
        The file.

    Raises:
        NotFound: no such arm, or nothing to export yet.
        SpecError: the file exists and ``force`` is off, the suffix is not known, or the job is a simulation.
        ServiceError: the store of the weights cannot be reached.
        IntegrityError: the weights are no longer the ones that the confirm run wrote.
    """
    check_new(file, force)
    if results.record.simulated:
        raise SpecError(f"job {results.folder.id} is a simulation: nothing was trained that could be exported")
    export = _export_of(results, arm)
    if export.metric is not None and file.suffix == WEIGHTS_SUFFIX:
        raise SpecError(f"arm {arm} is the trainable {export.variant}, whose weights tuner does not keep; use .yaml")
    content = _weights(results.folder, export) if file.suffix == WEIGHTS_SUFFIX else render(export, file.suffix)
    write_new(file, content, force)
    return file


def register_winner(writer: "Writer", results: JobResults, announce: Callable[[str], None]) -> None:
    """Register the winner of a job that has finished and was sent.

    Announces that its weights are gone, or that somebody else's version stays the champion.

    Raises:
        ServiceError: the tracker, or the store of the weights, cannot be reached.
    """
    if results.spec.own_trainable:
        announce("no model is registered: tuner keeps no weights of your own trainables; the exports hold the settings")
        return
    try:
        champion = champion_of(results)
    except (NotFound, IntegrityError) as error:
        announce(f"warning: no model is registered: {error}")
        return
    if champion is not None and (kept := register(writer, champion)):
        announce(f"warning: {kept}")


def champion_of(results: JobResults) -> Champion | None:
    """The best arm of a finished job, ready to be registered; None for a simulation, own trainables and any other job.

    Raises:
        NotFound: the weights were not kept.
        IntegrityError: the weights are no longer the ones that the confirm run wrote.
        ServiceError: the store of the weights cannot be reached.
    """
    record, board = results.record, results.board
    if record.simulated or record.state != "finished" or not board.round or results.spec.own_trainable:
        return None
    export = _export_of(results, board.best())
    ended_ms = max(trial.ended_ms or 0 for trial in record.of(Stage.CONFIRM, round_number=board.round))
    return as_champion(results.spec.name, export, _weights(results.folder, export), ended_ms)


def as_champion(model: str, export: Export, weights: bytes, ended_ms: int) -> Champion:
    """An exported winner as the files, tags and text of a version of ``model``."""
    return Champion(
        model=model,
        files={CONFIG: render(export, ".yaml").encode(), WEIGHTS: weights},
        tags={
            "tuner.job": export.job,
            "tuner.arm": export.arm,
            "tuner.verdict": export.verdict,
            "tuner.claim": export.claim,
        },
        description=_description(export, model),
        sha256=export.sha256,
        ended_ms=ended_ms,
    )


def _export_of(results: JobResults, arm: str) -> Export:
    return build_export(results.record, results.spec, results.board, arm, _runs(results.folder))


def _description(export: Export, model: str) -> str:
    """Markdown for people."""
    assert export.test_mean_points is not None, "it is of the built-in training"
    spread = "" if export.test_sd_points is None else f" ± {export.test_sd_points:.2f}"
    verdict = "the baseline" if export.arm == export.baseline else f"{export.verdict} {export.baseline}"
    what = "the verdict is on the method, over all its searches" if export.claim == "method" else "this setting"
    allowed = ", allow_code=True" if export.schema_version == NEWEST and code_in(export) else ""
    return (
        f"**{export.arm}** of job {export.job}: {verdict} ({what}). "
        f"Test accuracy of this setting: {export.test_mean_points:.2f}{spread} % "
        f"over {len(export.confirm_runs)} fresh seeds; the weights are of seed {export.confirm_runs[0].seed}.\n\n"
        f'`tuner.load_config("models:/{model}@champion"{allowed})` checks and loads it.'
    )


def _weights(folder: JobFolder, export: Export) -> bytes:
    """The weights of the first confirm run, if they are still the ones that it recorded."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    from trainables.training.trainer import digest

    place = folder.weights(export.arm, export.confirm_round)
    where, name = split(place)
    try:
        with store_errors():
            content = files_at(where).read(name)
        if digest(load(content)) == export.confirm_runs[0].weights_sha256:
            return content
    except FileNotFoundError:
        raise NotFound(
            f"job {folder.id} kept no weights of arm {export.arm} ({place} is missing): "
            "its first confirm run did not finish"
        ) from None
    except SafetensorError:
        pass
    raise IntegrityError(f"{place}: damaged: these are not the weights that the confirm run wrote")


def _runs(folder: JobFolder) -> Mapping[str, str]:
    """MLflow's run ids by trial key, for the part of the journal that was sent."""
    return sync_state.load(folder.tracked).runs
