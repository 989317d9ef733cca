"""What a job leaves for people: leaderboard, report and exports, made from its journal whenever they are asked for."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.files import files_at, inside, split
from tuner import tracked
from tuner.errors import IntegrityError, NotFound, ServiceError, SpecError
from tuner.export import WEIGHTS_SUFFIX, Export, build_export, check_new, render, write_new
from tuner.home import JobFolder
from tuner.leaderboard import Leaderboard, build
from tuner.record import Record, Stage
from tuner.registry import Champion
from tuner.shared import explained
from tuner.spec import SearchSpec, from_dict

if TYPE_CHECKING:
    from tuner.report.findings import Findings

FORMS = (".html", ".md", ".json")
"""Of a report, by the suffix of its file."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Results:
    """What a job's journal comes to, read once."""

    folder: JobFolder
    record: Record
    spec: SearchSpec
    board: Leaderboard


def _results(folder: JobFolder) -> _Results:
    record = folder.record()
    spec = from_dict(record.job["spec"])
    return _Results(folder, record, spec, build(record, spec))


def board_of(folder: JobFolder) -> Leaderboard:
    """A job's leaderboard as it stands."""
    return _results(folder).board


def report_of(folder: JobFolder, form: str) -> str:
    """A job's report as it stands.

    Args:
        folder: the job's.
        form: one of ``FORMS``.
    """
    return _rendered(_findings(_results(folder)), form)


def _findings(results: _Results) -> "Findings":
    from tuner.report.findings import findings

    return findings(results.record, results.spec, results.board)


def _rendered(found: "Findings", form: str) -> str:
    if form == ".json":
        return json.dumps(found.to_dict(), indent=2, allow_nan=False) + "\n"
    if form == ".md":
        from tuner.report.markdown import markdown

        return markdown(found)
    from tuner.report.html import html

    return html(found)


def publish(folder: JobFolder) -> dict[str, Path]:
    """Write a job's leaderboard, report and exports into its folder; returns the files by artifact name.

    Exports are also copied to where the job's weights are, if that is elsewhere.
    """
    results = _results(folder)
    board = results.board
    found = _findings(results)
    write_new(folder.report, _rendered(found, ".html"), force=True)
    write_new(folder.summary, _rendered(found, ".md"), force=True)
    write_new(folder.leaderboard, json.dumps(board.to_dict(), indent=2) + "\n", force=True)
    files = {
        "spec.yaml": folder.spec,
        "report.html": folder.report,
        "report.md": folder.summary,
        "leaderboard.json": folder.leaderboard,
    }
    for row in board.rows:
        if row.winner is not None and row.tests and not results.record.simulated:
            files[f"exports/{row.arm}.yaml"] = _export_arm(results, row.arm, folder.export(row.arm), force=True)
    _share(folder, [file for name, file in files.items() if name.startswith("exports/")])
    return files


def champion_of(folder: JobFolder) -> Champion | None:
    """The winner that is registered as a model: the best arm of a finished job; None of others, and of a simulation.

    Raises:
        NotFound: its weights were not kept.
        IntegrityError: they are no longer those that the confirm run left.
        ServiceError: their store cannot be reached.
    """
    results = _results(folder)
    record, board = results.record, results.board
    if record.simulated or record.state != "finished" or not board.round:
        return None
    export = build_export(record, results.spec, board, board.best(), _runs(folder))
    ended = [trial.ended_ms or 0 for trial in record.of(Stage.CONFIRM, round_number=board.round)]
    return Champion(results.spec.name, export, _weights(folder, export.arm, export), max(ended))


def export_arm(folder: JobFolder, arm: str, file: Path, force: bool) -> Path:
    """Write an arm's winner to ``file`` in the format of its suffix, ``.safetensors`` for the weights; returns it.

    Raises:
        NotFound: no such arm, or nothing to export yet.
        SpecError: the file is there already and ``force`` is off, or the suffix is not known.
        ServiceError: the store of the weights cannot be reached.
        IntegrityError: the weights are no longer those that the confirm run left.
    """
    return _export_arm(_results(folder), arm, file, force)


def _export_arm(results: _Results, arm: str, file: Path, force: bool) -> Path:
    check_new(file, force)
    folder = results.folder
    if results.record.simulated:
        raise SpecError(f"job {folder.id} is a simulation: nothing was trained that could be exported")
    export = build_export(results.record, results.spec, results.board, arm, _runs(folder))
    if file.suffix != WEIGHTS_SUFFIX:
        write_new(file, render(export, file.suffix), force)
        return file
    write_new(file, _weights(folder, arm, export), force)
    return file


def _weights(folder: JobFolder, arm: str, export: Export) -> bytes:
    """What the first confirm run left, if it is still what that run recorded."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    from trainables.training import digest

    place = folder.weights(arm, export.confirm_round)
    where, name = split(place)
    try:
        with explained():
            content = files_at(where).read(name)
        if digest(load(content)) == export.confirm_runs[0].weights_sha256:
            return content
    except FileNotFoundError:
        raise NotFound(
            f"job {folder.id} kept no weights of arm {arm} ({place} is not there): its first confirm run did not finish"
        ) from None
    except SafetensorError:
        pass
    raise IntegrityError(f"{place}: damaged: these are not the weights that the confirm run left")


def _share(folder: JobFolder, exports: Iterable[Path]) -> None:
    """Copy exports for other nodes to read. The job has its own: where that fails, it is told and all else goes on."""
    if folder.shared == str(folder.path):
        return
    try:
        with explained():
            for file in exports:
                files_at(inside(folder.shared, "exports")).write(file.name, file.read_bytes(), writer=0)
    except ServiceError as error:
        _log.warning("warning: the exports are in %s only: %s", folder.path, error)


def _runs(folder: JobFolder) -> Mapping[str, str]:
    """MLflow's run ids by trial key, as far as the journal has been sent."""
    return tracked.load(folder.tracked).runs
